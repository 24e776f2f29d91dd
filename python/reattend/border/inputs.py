"""What a call reads: arrays and masks, checked together."""

from __future__ import annotations

from typing import NamedTuple

from reattend import _core
from reattend.border import arguments
from reattend.border.arguments import Masks, Shape
from reattend.border.quantized import Quantized
from reattend.policy import Array


class Inputs(NamedTuple):
    """What a call reads, checked, as the core takes it."""

    query: Array
    key: Array
    value: Array
    scales: tuple[Array | None, Array | None]  # of int8 keys and values
    shape: Shape
    mask: Masks


def checked(
    query: Array,
    key: Array | Quantized,
    value: Array | Quantized,
    scale: float | None,
    causal: bool,
    key_mask: Array | None,
    bias: Array | None,
    window: int | None,
    softcap: float | None,
    dtype: str | None,
) -> Inputs:
    """Check what all passes over keys and values are given, and bring it to what the core reads."""
    masks = (scale, causal, key_mask, bias, window, softcap)
    # The core sees at once whether arrays need anything; most do not.
    fit = None if dtype is not None else _core.type_if_fit(query, key, value)
    if fit is not None:
        assert not isinstance(key, Quantized)
        assert not isinstance(value, Quantized)
        shape = Shape(*query.shape[:3], *key.shape[2:])
        mask = arguments.masks(shape, *masks, None if fit == "float32" else fit)
        return Inputs(query, key, value, (None, None), shape, mask)
    query = arguments.tensor("query", query, "[B, H, N, D]", dtype)
    key, key_scale = arguments.stored("key", key, "[B, H_kv, M, D]", dtype)
    value, value_scale = arguments.stored("value", value, "[B, H_kv, M, Dv]", dtype)
    shape = arguments.sizes(query, key)
    arguments.check_value(value, key)
    half = arguments.half_type(dtype, query=query, key=key, value=value)
    mask = arguments.masks(shape, *masks, half)
    return Inputs(query, key, value, (key_scale, value_scale), shape, mask)
