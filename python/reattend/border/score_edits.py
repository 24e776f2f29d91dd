"""Score transforms and null keys: checked, and as the core reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from reattend.border.arguments import Shape, broadcasts, whole_strides
from reattend.checks import as_array
from reattend.policy import Array
from reattend.transform import Transform, make_room


def transform(shape: Shape, given: Any) -> Transform | None:
    """Check a transform, which the core reads as it is."""
    if given is None:
        return None
    if not isinstance(given, Transform):
        raise TypeError(f"transform must be a Transform, got {given!r}")
    make_room(given, shape.key_len)
    numbers, bounds, first, beyond = given.packed
    batch, heads = np.maximum(numbers.shape[:2], bounds.shape[:2]).tolist()
    length = numbers.shape[3]
    fits = beyond or length <= shape.key_len
    if batch not in (1, shape.batch) or heads not in (1, shape.num_heads) or not fits:
        raise ValueError(
            f"transform must broadcast to [B, H, M' <= M] = "
            f"{(shape.batch, shape.num_heads, shape.key_len)}, got {(batch, heads, length)}"
        )
    if len(first) not in (1, shape.batch):
        raise ValueError(
            f"transform: first_row must be an integer or [B] = ({shape.batch},), got {first.shape}"
        )
    return given


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
