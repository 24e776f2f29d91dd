"""Keys and values in 8 bits, a scale for each token and head; and `quantize`, to 4 bits too."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

import numpy as np

from reattend.border.blocks import QuantizedBlocks, quantize_blocks
from reattend.checks import integer
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


Stored = Quantized | QuantizedBlocks  # what is no array


def of_head(stored: Stored, item: int, head: int) -> Array:
    """Give one head of one item as float32 [M, D].

    Parameters
    ----------
    stored : Quantized or QuantizedBlocks
        Keys or values.
    item, head : int

    Examples
    --------
    >>> of_head(quantize(np.ones((2, 3, 4, 5))), 0, 2).shape
    (4, 5)
    """
    place = slice(item, item + 1), slice(head, head + 1)
    if isinstance(stored, QuantizedBlocks):
        some: Stored = stored._replace(blocks=stored.blocks[place], rest=stored.rest[place])
    else:
        some = Quantized(stored.numbers[place], stored.scale[place])
    found: Array = some.to_float32()[0, 0]
    return found


@overload
def quantize(array: Any, *, bits: Literal[8] = 8, name: str = "array") -> Quantized: ...
@overload
def quantize(
    array: Any, *, bits: Literal[4], by_channel: bool = False, name: str = "array"
) -> QuantizedBlocks: ...
def quantize(
    array: Any, *, bits: int = 8, by_channel: bool = False, name: str = "array"
) -> Quantized | QuantizedBlocks:
    """Store keys or values as int8, or in 4 bits.

    As int8 each token of each head has a scale of its own: the row's largest magnitude over 127, so
    no value is off by more than half of it. A row whose scale would be below the smallest normal
    float32 is stored as zeros, with scale 0.

    In 4 bits 32 numbers have a scale and a least number, from which they go up in 15 steps: for
    values 32 channels of a token, for keys 32 tokens of a channel, since keys have channels that
    are large in every token, which would take the digits of the others (KIVI, arXiv 2402.02750).
    Tokens behind the last 32 then stay in full. All in all a number takes 5 bits.

    Parameters
    ----------
    array : array [B, H_kv, M, D]
        Of any float type; the last axis is a row.
    bits : {8, 4}
        Of a number.
    by_channel : bool
        Of 4 bits: whether 32 tokens of a channel share a scale, as is best for keys.
    name : str
        What an error calls the array.

    Returns
    -------
    Quantized or QuantizedBlocks
        Rounded to the nearest whole number, halves to even.

    Raises
    ------
    TypeError
        If they are no numbers.
    ValueError
        If a number is not finite: no scale would hold it, and the row's others would be lost; of 4
        bits, beyond float16's largest.

    Examples
    --------
    >>> key = np.array([[[[3.0, -127.0], [0.0, 0.0]]]])
    >>> quantize(key).to_float32()
    array([[[[   3., -127.],
             [   0.,    0.]]]], dtype=float32)
    >>> rng = np.random.default_rng(0)
    >>> key = rng.standard_normal((1, 8, 640, 128), np.float32)
    >>> key.nbytes / quantize(key, bits=4, by_channel=True).nbytes
    6.4
    """
    bits = integer("bits", bits)
    if not isinstance(by_channel, (bool, np.bool_)):
        raise TypeError(f"by_channel must be a bool, got {by_channel!r}")
    if bits == 4:
        numbers = np.asarray(real_numbers(name, array, "[B, H_kv, M, D]"), np.float32)
        return quantize_blocks(numbers, by_channel, name)
    if bits != 8:
        raise ValueError(f"bits must be 8 or 4, got {bits!r}")
    if by_channel:
        raise ValueError("by_channel is for 4 bits, got bits=8")
    numbers = np.asarray(real_numbers(name, array, "[..., M, D]"), np.float32)
    largest = np.abs(numbers).max(-1, initial=0)  # NaN if the row has one
    if not np.isfinite(largest).all():
        found = numbers[~np.isfinite(numbers)][0]
        raise ValueError(f"{name} must be finite to be stored as int8, got {found}")
    scale = np.minimum(largest / _LARGEST, _MOST_SCALE)
    scale[scale < _LEAST_SCALE] = 0
    quotient = numbers / np.where(scale, scale, 1)[..., None]
    return Quantized(np.rint(quotient, out=quotient).astype(np.int8), scale)
