"""Score transforms and null keys, as the core reads them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from reattend.border.arguments import Shape, broadcasts, whole_strides
from reattend.checks import as_array
from reattend.policy import Array
from reattend.transform import Transform


class PackedTransform(NamedTuple):
    """A transform as the core reads it."""

    numbers: Array  # float32 [B or 1, H or 1, 3, M']
    bounds: Array  # int64 [B, 2], the keys of an item that change
    first_row: Array  # int64 [B], the position from which rows change


def transform(shape: Shape, given: Transform | PackedTransform | None) -> PackedTransform | None:
    """Check a transform; None where it changes no score, itself where that was done before."""
    if given is None or isinstance(given, PackedTransform):
        return given
    if not isinstance(given, Transform):
        raise TypeError(f"transform must be a Transform, got {given!r}")
    numbers = np.ascontiguousarray(given.numbers, np.float32)
    batch, heads, _, length = numbers.shape
    if batch not in (1, shape.batch) or heads not in (1, shape.num_heads) or length > shape.key_len:
        raise ValueError(
            f"transform must broadcast to [B, H, M' <= M] = "
            f"{(shape.batch, shape.num_heads, shape.key_len)}, got {(batch, heads, length)}"
        )
    changes = (numbers != np.array([1, 0, 0], np.float32)[:, None]).any((1, 2))  # [B or 1, M']
    if not changes.any():
        return None
    begin = np.where(changes.any(-1), changes.argmax(-1), length)
    end = np.where(changes.any(-1), length - changes[:, ::-1].argmax(-1), length)
    bounds = np.broadcast_to(np.stack([begin, end], axis=-1), (shape.batch, 2))
    first = np.asarray(0 if given.first_row is None else given.first_row)
    if first.ndim and len(first) not in (1, shape.batch):
        raise ValueError(
            f"transform: first_row must be an integer or [B] = ({shape.batch},), got {first.shape}"
        )
    return PackedTransform(
        numbers,
        np.ascontiguousarray(bounds, np.int64),
        np.ascontiguousarray(np.broadcast_to(first, shape.batch), np.int64),
    )


def null_logit(shape: Shape, given: Any) -> Array | None:
    """Check the null key's scores; float32 that broadcasts to [B, H, N]."""
    if given is None:
        return None
    logits = as_array("null_logit", given)
    if logits.dtype.kind not in "fiu" or logits.ndim > 3:
        raise ValueError(
            f"null_logit must be numbers that broadcast to [B, H, N], got {logits.dtype} of shape "
            f"{logits.shape}"
        )
    with np.errstate(over="ignore"):  # is refused below
        logits = logits.astype(np.float32, copy=False)
    if np.isnan(logits).any() or np.isposinf(logits).any():
        raise ValueError("null_logit must be finite in float32, or -inf for no null key")
    if not broadcasts(logits.shape, shape.rows):
        raise ValueError(
            f"null_logit must broadcast to [B, H, N] = {shape.rows}, got shape {logits.shape}"
        )
    return whole_strides(logits)
