"""How far back attention goes, and how much later rows look back: from passes, without a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from reattend.attention import attention
from reattend.border.arguments import array_or_stored
from reattend.border.quantized import Stored
from reattend.checks import as_array, count, integer
from reattend.column_sums import column_sums
from reattend.policy import Array


def mean_distance(
    query: Array,
    key: Array,
    *,
    clip: int | None = None,
    scale: float | None = None,
    key_mask: Array | None = None,
    softcap: float | None = None,
    num_threads: int | None = None,
) -> Array:
    r"""Compute how many keys back each row looks, in the mean over its causal attention.

    .. code-block:: text

        WAAD_t = sum_s a_ts min(t - s, W)

    Attention Illuminates LLM Reasoning: The Preplan-and-Anchor Rhythm Enables Fine-Grained Policy
    Optimization (2025).

    Parameters
    ----------
    query, key, scale, key_mask, softcap, num_threads
        As for `reattend.attention`.
    clip : int, optional
        W: keys further back count as this far; none by default.

    Returns
    -------
    array [B, H, N]
        float32; 0 for a row that sees no key.

    Raises
    ------
    ValueError
        If clip is below 1.

    Examples
    --------
    >>> query, key = np.zeros((2, 1, 1, 4, 8), np.float32)
    >>> mean_distance(query, key).tolist()
    [[[0.0, 0.5, 1.0, 1.5]]]
    >>> mean_distance(query, key, clip=1)[0, 0].round(3)
    array([0.   , 0.5  , 0.667, 0.75 ], dtype=float32)
    """
    query, key = _inputs(query, key)
    clip = None if clip is None else count("clip", clip, 1)
    mask: dict[str, Any] = {
        "scale": scale, "causal": True, "key_mask": key_mask, "softcap": softcap,
        "num_threads": num_threads,
    }  # fmt: skip
    batch, kv_heads, num_keys = key.shape[:3]
    # Counted from the end, so that near keys are small numbers, exact in float32.
    place = np.arange(1 - num_keys, 1, dtype=np.float32)
    place = np.broadcast_to(place[:, None], (batch, kv_heads, num_keys, 1))
    row = np.arange(1 - query.shape[2], 1)
    whole = attention(query, key, place, returns="logsumexp", out=_room(query), **mask)
    if clip is None or clip >= num_keys:
        return _far(row - whole.out[..., 0], whole)
    near = attention(query, key, place, returns="logsumexp", window=clip, out=_room(query), **mask)
    share = _share(near, whole)
    return _far(share * (row - near.out[..., 0]) + clip * (1 - share), whole)


def local_share(
    query: Array,
    key: Array,
    window: int,
    *,
    scale: float | None = None,
    causal: bool = True,
    key_mask: Array | None = None,
    softcap: float | None = None,
    num_threads: int | None = None,
) -> Array:
    """Compute the share of each row's attention that stays within a window; the rest is far.

    Unveiling Simplicities of Attention: Adaptive Long-Context Head Identification (2025),
    calls a head local where this is large.

    Parameters
    ----------
    query, key, scale, key_mask, softcap, num_threads
        As for `reattend.attention`.
    window : int
        A row at position p keeps keys j with p - window < j, itself included.
    causal : bool, optional
        As for `reattend.attention`, but True by default.

    Returns
    -------
    array [B, H, N]
        float32; 0 for a row that sees no key.

    Examples
    --------
    >>> query, key = np.zeros((2, 1, 1, 4, 8), np.float32)
    >>> local_share(query, key, 2)[0, 0].round(3)
    array([1.   , 1.   , 0.667, 0.5  ], dtype=float32)
    """
    mask: dict[str, Any] = {
        "scale": scale, "causal": causal, "key_mask": key_mask, "softcap": softcap,
        "num_threads": num_threads, "returns": "logsumexp",
    }  # fmt: skip
    query, key = _inputs(query, key)
    narrow = _unread(key)
    whole = attention(query, key, narrow, **mask)
    near = attention(query, key, narrow, window=window, **mask)
    return np.asarray(_share(near, whole).astype(np.float32))


def future_influence(
    query: Array,
    key: Array,
    *,
    first: int = 1,
    last: int | None = None,
    scale: float | None = None,
    key_mask: Array | None = None,
    softcap: float | None = None,
    num_threads: int | None = None,
) -> Array:
    r"""Compute the mean attention that each key gets from the rows behind it.

    .. code-block:: text

        FAI_s = mean of a_ts over t from s + first to s + last

    Attention Illuminates LLM Reasoning: The Preplan-and-Anchor Rhythm Enables Fine-Grained Policy
    Optimization (2025).

    Parameters
    ----------
    query, key, scale, key_mask, softcap, num_threads
        As for `reattend.attention`; as many rows as keys.
    first, last : int, optional
        How far behind the key the rows begin and end; to the last row by default.

    Returns
    -------
    array [B, H, M]
        float32; NaN for keys that no such row is behind.

    Raises
    ------
    ValueError
        If rows and keys differ in number, or first and last do not fit.

    Examples
    --------
    >>> query, key = np.zeros((2, 1, 1, 3, 8), np.float32)
    >>> future_influence(query, key)[0, 0].round(3)
    array([0.417, 0.333,   nan], dtype=float32)
    """
    query, key = _inputs(query, key)
    num_rows, num_keys = query.shape[2], key.shape[2]
    if num_rows != num_keys:
        raise ValueError(f"query must have a row for each of key's {num_keys}, got {num_rows}")
    first = integer("first", first)
    last = max(num_keys - 1, first) if last is None else integer("last", last)
    if not 1 <= first <= last:
        raise ValueError(f"first and last must be 1 <= first <= last, got {first} and {last}")
    first, last = min(first, num_keys), min(last, num_keys)  # behind the last key is no row
    mask: dict[str, Any] = {
        "scale": scale, "causal": True, "key_mask": key_mask, "softcap": softcap,
        "num_threads": num_threads,
    }  # fmt: skip
    logsumexp = attention(query, key, _unread(key), returns="logsumexp", **mask).logsumexp
    assert logsumexp is not None
    # Weights of the whole row, summed over the rows of a window.
    until = column_sums(query, key, logsumexp, window=last + 1, **mask)
    before = column_sums(query, key, logsumexp, window=first, **mask)
    valid = np.ones((key.shape[0], num_keys), bool)
    valid = valid if key_mask is None else as_array("key_mask", key_mask)
    counted = np.pad(np.cumsum(valid, axis=-1), ((0, 0), (1, 0)))  # [B, M + 1]
    place = np.arange(num_keys)
    ends, begins = np.minimum(place + last + 1, num_keys), np.minimum(place + first, num_keys)
    count = np.where(valid, counted[:, ends] - counted[:, begins], 0)[:, None]  # [B, 1, M]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(count > 0, np.maximum(until - before, 0) / count, np.nan)
    return np.asarray(found.astype(np.float32))


def _inputs(query: Any, key: Any) -> tuple[Array, Any]:
    given: Any = array_or_stored("query", query, "[B, H, N, D]")
    return given, array_or_stored("key", key, "[B, H_kv, M, D]")


def _unread(key: Array | Stored) -> Array:
    return np.broadcast_to(np.zeros(1, np.float32), (*key.shape[:3], 1))


def _room(query: Array) -> Array:
    return np.empty((*query.shape[:3], 1), np.float32)  # else the type of query would round


def _share(near: Any, whole: Any) -> Array:
    known = ~np.isneginf(near.logsumexp)
    with np.errstate(invalid="ignore"):
        return np.where(known, np.exp(np.minimum(near.logsumexp - whole.logsumexp, 0)), 0)


def _far(distance: Array, whole: Any) -> Array:
    return np.asarray(np.where(np.isneginf(whole.logsumexp), 0, distance).astype(np.float32))
