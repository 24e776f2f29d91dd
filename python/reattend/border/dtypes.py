"""16-bit floats on NumPy's side: float16, bfloat16 of `ml_dtypes`, and raw bits as uint16."""

from __future__ import annotations

from typing import Any

import numpy as np

from reattend import _core
from reattend.border.quantized import Stored
from reattend.policy import Array


def to_float32(array: Any, dtype: str | None = None) -> Array:
    """Give numbers as float32.

    Parameters
    ----------
    array : array, Quantized or QuantizedBlocks
        Of any float type, or uint16: the bits of ``dtype``.
    dtype : "float16" or "bfloat16", optional
        What uint16 bits stand for.

    Examples
    --------
    >>> to_float32(np.array([0x3FC0], np.uint16), "bfloat16")
    array([1.5], dtype=float32)
    """
    if isinstance(array, Stored):
        return array.to_float32()
    numbers: Array = np.asarray(array)
    if numbers.dtype != np.uint16:
        return np.asarray(numbers, np.float32)
    if dtype == "bfloat16":
        return np.asarray((numbers.astype(np.uint32) << 16).view(np.float32))
    return np.asarray(numbers.view(np.float16), np.float32)


def write(numbers: Array, out: Array, dtype: str | None = None) -> None:
    """Write float32 numbers, rounded to the nearest, where an output of any type is wanted.

    Parameters
    ----------
    numbers : float32 array [..., D], of at most four axes
    out : array [..., D]
        Of any float type, or uint16: the bits of ``dtype``.
    dtype : "float16" or "bfloat16", optional
        What uint16 bits stand for.

    Examples
    --------
    >>> bits = np.empty(1, np.uint16)
    >>> write(np.array([1.5], np.float32), bits, "bfloat16")
    >>> hex(bits[0])
    '0x3fc0'
    """
    if out.itemsize != 2 or numbers.dtype != np.float32:
        out[...] = numbers
        return
    axes = (None,) * (4 - out.ndim)
    to = out if _in_rows(out) else np.empty(out.shape, out.dtype.newbyteorder("="))
    rows = numbers if _in_rows(numbers) else numbers.copy()
    # NumPy takes ten times as long for float16, and three times for bfloat16.
    _core.narrow(rows[axes], to[axes], "bfloat16" in (out.dtype.name, dtype))
    if to is not out:
        out[...] = to


def arrays_of(kind: type, tensors: tuple[Any, ...]) -> list[Array] | None:
    """Give tensors of a framework as arrays of the same memory.

    Parameters
    ----------
    kind : type
        Their class; of a subclass it is not known what memory means.
    tensors : tuple
        On the CPU, all of float32, of float16, or of bfloat16, whose bits are given as uint16.

    Returns
    -------
    list of array, or None
        None: of another type or kind, elsewhere, or the framework has no exchange API of DLPack 1.

    Examples
    --------
    >>> arrays_of(list, ([1.0],)) is None
    True
    """
    return _core.arrays_of(kind, tensors)


def _in_rows(array: Array) -> bool:
    """Whether numbers of the last axis lie side by side, and all where their type wants them."""
    side_by_side = array.shape[-1] <= 1 or array.strides[-1] == array.itemsize
    return side_by_side and array.flags.aligned and array.dtype.isnative
