"""Keys and values in 8 bits: whole numbers, and one scale for each token and head."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from reattend.checks import numbers as real_numbers
from reattend.deprecated import warn_renamed
from reattend.policy import Array

_LARGEST = np.float32(127)  # -128 is not used: a key and its negative are stored alike
_LEAST_SCALE = np.finfo(np.float32).tiny  # with fewer digits it would take quotients beyond 127
_MOST_SCALE = np.nextafter(np.finfo(np.float32).max / _LARGEST, np.float32(0))  # 127 of it: finite


class Quantized(NamedTuple):
    """Keys or values as int8, a quarter of float32: ``number * scale`` is the value.

    Examples
    --------
    >>> stored = quantize(np.array([[[[0.5, -1.27]]]]))
    >>> stored.numbers, stored.scale
    (array([[[[  50, -127]]]], dtype=int8), array([[[0.01]]], dtype=float32))
    >>> stored.shape, stored.nbytes
    ((1, 1, 1, 2), 6)
    """

    numbers: Array  # int8 [B, H_kv, M, D], from -127 to 127
    scale: Array  # float32 [B, H_kv, M]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the numbers."""
        return self.numbers.shape

    @property
    def ndim(self) -> int:
        """Number of axes of the numbers."""
        return self.numbers.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self.numbers.dtype

    @property
    def nbytes(self) -> int:
        """Memory that numbers and scales take, in bytes."""
        return self.numbers.nbytes + self.scale.nbytes

    def widened(self) -> Array:
        """Old name of `to_float32`."""
        warn_renamed("Quantized.widened", "to_float32")
        return self.to_float32()

    def to_float32(self) -> Array:
        """Give the values as float32 [B, H_kv, M, D]."""
        return np.multiply(self.numbers, self.scale[..., None], dtype=np.float32)


def quantize(array: Any, *, name: str = "array") -> Quantized:
    """Store keys or values as int8, each token of each head with a scale of its own.

    The scale is the row's largest magnitude over 127, so no value is off by more than half of it.
    A row whose scale would be below the smallest normal float32 is stored as zeros, with scale 0.

    Parameters
    ----------
    array : array [B, H_kv, M, D]
        Of any float type; the last axis is a row.
    name : str
        What an error calls the array.

    Returns
    -------
    Quantized
        Rounded to the nearest whole number, halves to even.

    Raises
    ------
    TypeError
        If they are no numbers.
    ValueError
        If a number is not finite: no scale would hold it, and the row's others would be lost.

    Examples
    --------
    >>> key = np.array([[[[3.0, -127.0], [0.0, 0.0]]]])
    >>> quantize(key).to_float32()
    array([[[[   3., -127.],
             [   0.,    0.]]]], dtype=float32)
    """
    numbers = np.asarray(real_numbers(name, array, "[..., M, D]"), np.float32)
    largest = np.abs(numbers).max(-1, initial=0)  # NaN if the row has one
    if not np.isfinite(largest).all():
        found = numbers[~np.isfinite(numbers)][0]
        raise ValueError(f"{name} must be finite to be stored as int8, got {found}")
    scale = np.minimum(largest / _LARGEST, _MOST_SCALE)
    scale[scale < _LEAST_SCALE] = 0
    quotient = numbers / np.where(scale, scale, 1)[..., None]
    return Quantized(np.rint(quotient, out=quotient).astype(np.int8), scale)
