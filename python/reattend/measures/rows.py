"""The attention of a few rows in full: what people ask for most, without the whole matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reattend.border.arguments import scalars
from reattend.border.dtypes import to_float32
from reattend.border.quantized import Stored, of_head
from reattend.border.request import MaskSpec
from reattend.checks import integers, marks, numbers
from reattend.policy import Array


def attention_rows(
    query: Array,
    key: Array | Stored,
    rows: Sequence[int] | Array | None = None,
    *,
    scale: float | None = None,
    causal: bool = True,
    key_mask: Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dtype: str | None = None,
) -> Array:
    """Compute the attention weights of some rows: rows x M numbers, not N x M.

    Parameters
    ----------
    query : array [B, H, N, D]
        As for `reattend.attention`.
    key : array [B, H_kv, M, D], Quantized or QuantizedBlocks
        Keys that the rows see.
    rows : sequence of int, optional
        Which of the N rows, negative ones counted from the end; the last one by default.
    scale, key_mask, window, softcap, dtype
        As for `reattend.attention`.
    causal : bool, optional
        As there, but True by default.

    Returns
    -------
    array [B, H, R, M]
        float32. A row that sees no key is 0.

    Raises
    ------
    ValueError
        If a row is not there, or shapes do not fit.

    Examples
    --------
    >>> query, key = np.zeros((2, 1, 1, 4, 8), np.float32)
    >>> attention_rows(query, key, [1, -1])[0, 0]
    array([[0.5 , 0.5 , 0.  , 0.  ],
           [0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """
    query = numbers("query", query)
    if not isinstance(key, Stored):
        key = numbers("key", key)
    shape = key.shape
    four = query.ndim == len(shape) == 4
    if not four or query.shape[::3] != (shape[0], shape[3]) or not shape[3]:
        raise ValueError(
            "query and key must be [B, H, N, D] and [B, H_kv, M, D], "
            f"got shapes {query.shape} and {shape}"
        )
    batch, num_heads, num_rows, size = query.shape
    num_kv, num_keys = shape[1:3]
    if num_kv == 0 or num_heads % num_kv:
        raise ValueError(f"query must have a multiple of key's {num_kv} heads, got {num_heads}")
    chosen = integers("rows", [-1] if rows is None else rows, "[R]")
    if not ((chosen >= -num_rows) & (chosen < num_rows)).all():
        raise ValueError(f"rows must be from {-num_rows} to {num_rows - 1}, got {chosen.tolist()}")
    place = num_keys - num_rows + chosen % max(num_rows, 1)  # of each row among the keys
    scale, causal, _, _, window, softcap, dtype = scalars(
        MaskSpec(scale, causal, None, None, window, softcap, dtype)
    )
    window = None if window is None else min(window, num_keys + num_rows)  # sums stay in int64
    seen = _seen(place[:, None], np.arange(num_keys), causal, window)  # [R, M]
    if key_mask is not None:
        key_mask = marks("key_mask", key_mask, "[B, M] of key", (batch, num_keys))
    scale = size**-0.5 if scale is None else scale
    group = num_heads // num_kv
    out = np.empty((batch, num_heads, len(chosen), num_keys), np.float32)
    for item in range(batch):
        visible = seen if key_mask is None else seen & key_mask[item]
        for head in range(num_kv):  # one head's keys at a time are made float32
            some: Any = slice(head * group, (head + 1) * group)
            scores = _float32(query[item, some][:, chosen], dtype) @ _head(key, item, head, dtype).T
            scores *= np.float32(scale)
            if softcap is not None:
                scores = np.float32(softcap) * np.tanh(scores / np.float32(softcap))
            scores = np.where(visible, scores, np.float32(-np.inf))  # [group, R, M]
            largest = scores.max(-1, keepdims=True, initial=np.float32(-np.inf))
            shifted = np.exp(scores - np.where(np.isneginf(largest), np.float32(0), largest))
            total = shifted.sum(-1, keepdims=True)
            out[item, some] = shifted / np.where(total == 0, np.float32(1), total)
    return out


def _seen(row: Array, column: Array, causal: bool, window: int | None) -> Array:
    seen = np.ones(np.broadcast_shapes(row.shape, column.shape), bool)
    if causal:
        seen &= column <= row
    if window is not None:
        seen &= (column > row - window) & (column < row + window)
    return seen


def _head(key: Array | Stored, item: int, head: int, dtype: str | None) -> Array:
    if isinstance(key, Stored):
        return of_head(key, item, head)
    return _float32(key[item, head], dtype)


def _float32(array: Array, dtype: str | None) -> Array:
    if array.dtype == np.uint16:
        array = to_float32(array, dtype)
    return np.asarray(array, np.float32)
