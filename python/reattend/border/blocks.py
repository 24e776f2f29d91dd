"""Keys and values in blocks of 32 numbers with a scale of their own: of 4 bits, or llama.cpp's."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from reattend.checks import as_array
from reattend.policy import Array

Layout = Literal["q8_0", "q4_0", "int4", "int4_by_channel"]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
BY_CHANNEL: Layout = "int4_by_channel"
BLOCK = 32  # numbers that share a scale
_SIZES = {"q8_0": 34, "q4_0": 18}  # bytes of a block
_HEIGHT = 8  # of a tile's rows 8 are a word in each column
_MOST = 15  # the largest number of 4 bits
_LARGEST = np.finfo(np.float16).max


def together(layout: str) -> int:
    """Give the number of rows that lie together.

    Parameters
    ----------
    layout : str
        As of `QuantizedBlocks`.

    Examples
    --------
    >>> together("q8_0"), together("int4")
    (1, 32)
    """
    return 1 if layout in _SIZES else BLOCK


def row_bytes(layout: str, dim: int) -> int:
    """Give the bytes that they take.

    Parameters
    ----------
    layout : str
        As of `QuantizedBlocks`.
    dim : int
        D.

    Examples
    --------
    >>> row_bytes("q4_0", 128), row_bytes("int4", 128), row_bytes("int4_by_channel", 128)
    (72, 2560, 2560)
    """
    if layout == BY_CHANNEL:
        return _tile_bytes(-(-dim // _HEIGHT) * _HEIGHT)
    return -(-dim // BLOCK) * _SIZES.get(layout, _tile_bytes(BLOCK))


def _tile_bytes(height: int) -> int:
    """Give the bytes of a tile of 32 columns: scales and least numbers as float16, nibbles."""
    return (4 + BLOCK // 2) * height


class QuantizedBlocks(NamedTuple):
    """Keys or values of 4 or 8 bits, of which 32 numbers have a scale of their own.

    ``"int4_by_channel"``, for keys, and ``"int4"``, for values, are made by `quantize`: 32 rows lie
    together, and share a scale in each channel, or a row shares one for each 32 channels. A number
    n from 0 to 15 stands for ``scale n + least``. Rows that follow may be there in full.

    ``"q8_0"`` and ``"q4_0"`` are llama.cpp's: a row is blocks of a float16 scale and 32 numbers,
    of which n stands for ``scale n`` or ``scale (n - 8)``.

    Examples
    --------
    >>> from reattend import quantize
    >>> key = np.linspace(-1, 1, 320, dtype=np.float32).reshape(1, 1, 40, 8)
    >>> stored = quantize(key, bits=4, by_channel=True)
    >>> stored.shape, stored.blocks.shape, stored.rest.shape, stored.nbytes
    ((1, 1, 40, 8), (1, 1, 1, 160), (1, 1, 8, 8), 416)
    >>> bool(np.abs(stored.to_float32() - key).max() < 0.06)
    True
    """

    blocks: Array  # uint8 [B, H_kv, rows, bytes], of int4 [B, H_kv, rows / 32, bytes]
    layout: Layout
    rest: Array  # float32 [B, H_kv, R, D], the rows that follow; R may be 0

    @classmethod
    def from_ggml(cls, blocks: Array, layout: Layout) -> QuantizedBlocks:
        """Take a cache of llama.cpp as it is.

        Parameters
        ----------
        blocks : uint8 array [B, H_kv, M, bytes]
            Of each key or value, D / 32 blocks.
        layout : {"q8_0", "q4_0"}
            What they are: its ``--cache-type-k`` and ``--cache-type-v``.

        Returns
        -------
        QuantizedBlocks
            Of the very same array.

        Raises
        ------
        TypeError, ValueError
            If they are no bytes of whole blocks, or of another layout.

        Examples
        --------
        >>> one = np.frombuffer(np.float16(0.5).tobytes() + bytes(range(32)), np.uint8)
        >>> key = QuantizedBlocks.from_ggml(one.reshape(1, 1, 1, 34), "q8_0")
        >>> key.to_float32()[0, 0, 0, :4]
        array([0. , 0.5, 1. , 1.5], dtype=float32)
        """
        names = LAYOUTS[:2]
        if not isinstance(layout, str) or layout not in names:
            raise ValueError(f"layout must be one of {names}, got {layout!r}")
        blocks = as_array("blocks", blocks)
        if blocks.dtype != np.uint8 or blocks.ndim != 4 or blocks.shape[3] % _SIZES[layout]:
            raise TypeError(
                f"blocks must be uint8 [B, H_kv, M, bytes], {_SIZES[layout]} for each 32 "
                f"numbers, got {blocks.dtype} {blocks.shape}"
            )
        dim = blocks.shape[3] // _SIZES[layout] * BLOCK
        return cls(blocks, layout, np.empty((*blocks.shape[:2], 0, dim), np.float32))

    @property
    def packed(self) -> int:
        """Number of rows that are in blocks."""
        rows: int = self.blocks.shape[2]
        return rows * together(self.layout)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the numbers."""
        batch, heads, length, dim = self.rest.shape
        return batch, heads, self.packed + length, dim

    @property
    def ndim(self) -> int:
        """Number of axes of the numbers."""
        return self.rest.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the blocks: bytes."""
        return self.blocks.dtype

    @property
    def nbytes(self) -> int:
        """Memory that blocks and rest take, in bytes."""
        return self.blocks.nbytes + self.rest.nbytes

    def to_float32(self) -> Array:
        """Give the values as float32 [B, H_kv, M, D]."""
        found = np.empty(self.shape, np.float32)
        found[:, :, : self.packed] = self._unpacked()
        found[:, :, self.packed :] = self.rest
        return found

    def _unpacked(self) -> Array:
        *lead, length = self.blocks.shape
        dim = self.rest.shape[3]
        with np.errstate(over="ignore", invalid="ignore"):  # scales may hold anything
            if self.layout == BY_CHANNEL:  # [B, H_kv, groups, D, 32]
                values = _tile_values(self.blocks)[..., :dim, :].swapaxes(-1, -2)
                return values.reshape(*lead[:2], self.packed, dim)
            if self.layout == "int4":  # [B, H_kv, groups, tiles, 32 rows, 32 channels]
                size = _tile_bytes(BLOCK)
                values = _tile_values(self.blocks.reshape(*lead, length // size, size))
                values = values.swapaxes(-2, -3)
            else:
                size = _SIZES[self.layout]
                each = self.blocks.reshape(*lead, length // size, size)
                scale, numbers = _float16(each[..., :2]), each[..., 2:]
                if self.layout == "q8_0":
                    values = numbers.view(np.int8) * scale
                else:
                    whole = np.concatenate([numbers & 15, numbers >> 4], axis=-1)
                    values = (whole.astype(np.int8) - np.int8(8)) * scale
        return values.reshape(*lead[:2], self.packed, length // size * BLOCK)[..., :dim]


def some_rows(stored: QuantizedBlocks, keys: slice) -> QuantizedBlocks:
    """Give some rows: whole blocks as they are, without a copy; others at the ends in full.

    Parameters
    ----------
    stored : QuantizedBlocks
        Keys or values.
    keys : slice
        Without a step.

    Examples
    --------
    >>> stored = quantize_blocks(np.ones((1, 1, 70, 8), np.float32), True, "key")
    >>> some = some_rows(stored, slice(32, 66))
    >>> some.shape, some.packed
    ((1, 1, 34, 8), 32)
    """
    begin, end, _ = keys.indices(stored.shape[2])
    end, packed, step = max(begin, end), stored.packed, together(stored.layout)
    blocks, rest = stored.blocks, stored.rest
    if begin % step and begin < packed:  # what follows is no rest
        whole = some_rows(stored, slice(begin - begin % step, end)).to_float32()
        return stored._replace(blocks=blocks[:, :, :0], rest=whole[:, :, begin % step :])
    first, last = min(begin, packed) // step, min(end, packed) // step
    if end < packed and end % step:
        cut = stored._replace(blocks=blocks[:, :, last : last + 1], rest=rest[:, :, :0])
        rest = cut.to_float32()[:, :, : end % step]
    else:
        rest = rest[:, :, max(begin - packed, 0) : max(end - packed, 0)]
    return stored._replace(blocks=blocks[:, :, first:last], rest=rest)


def quantize_blocks(numbers: Array, by_channel: bool, name: str) -> QuantizedBlocks:
    """Store float32 numbers [B, H_kv, M, D] as 4 bits.

    Parameters
    ----------
    numbers : float32 array
        What to store.
    by_channel : bool
        Whether 32 rows share a scale in each channel, else 32 channels in each row.
    name : str
        What an error calls them.

    Raises
    ------
    ValueError
        If a number is beyond float16's.

    Examples
    --------
    >>> value = np.arange(96, dtype=np.float32).reshape(1, 1, 32, 3)
    >>> quantize_blocks(value, False, "value").to_float32()[0, 0, 1].round(1)
    array([3. , 4.1, 5. ], dtype=float32)
    """
    check_range(numbers, name)
    batch, heads, length, dim = numbers.shape
    groups = length // BLOCK
    layout: Layout = BY_CHANNEL if by_channel else "int4"
    rest = numbers[:, :, groups * BLOCK :].copy()
    each = numbers[:, :, : groups * BLOCK]
    if by_channel:  # columns of a tile are rows
        height = -(-dim // _HEIGHT) * _HEIGHT
        tiles = _widened(each, height).reshape(batch, heads, groups, BLOCK, height)
        blocks = _tiles(tiles.swapaxes(-1, -2))
    else:
        count = -(-dim // BLOCK)
        tiles = _widened(each, count * BLOCK).reshape(batch, heads, groups, BLOCK, count, BLOCK)
        blocks = _tiles(tiles.swapaxes(-2, -3))
    blocks = blocks.reshape(batch, heads, groups, row_bytes(layout, dim))
    return QuantizedBlocks(blocks, layout, rest)


def check_range(numbers: Array, name: str) -> None:
    """Raise ValueError where float32 numbers cannot be stored as 4 bits.

    Parameters
    ----------
    numbers : float32 array
        What is to be stored.
    name : str
        What an error calls them.

    Examples
    --------
    >>> check_range(np.ones(3, np.float32), "key")
    """
    largest = np.abs(numbers).max(initial=0)  # NaN if there is one
    if not np.isfinite(largest):
        found = numbers[~np.isfinite(numbers)][0]
        raise ValueError(f"{name} must be finite to be stored as int4, got {found}")
    if largest > _LARGEST:
        raise ValueError(
            f"{name} must be at most {_LARGEST}, float16's largest, to be stored as int4, "
            f"got {largest}"
        )


def _widened(numbers: Array, dim: int) -> Array:
    """Give so many channels: the last one again, which widens no range."""
    missing = dim - numbers.shape[3]
    return np.pad(numbers, ((0, 0),) * 3 + ((0, missing),), "edge") if missing else numbers


def _tiles(numbers: Array) -> Array:
    """Round numbers [..., rows, 32] of tiles to 4 bits: bytes [..., (4 + 16) rows]."""
    *lead, height, _ = numbers.shape
    least = numbers.min(-1, keepdims=True).astype(np.float16)
    scale = (numbers.max(-1, keepdims=True) - least) / np.float32(_MOST)
    scale = scale.astype(np.float16)
    step = scale.astype(np.float32)
    whole = (numbers - least) / np.where(step, step, 1)
    whole = np.rint(whole, out=whole).clip(0, _MOST, out=whole).astype(np.uint8)
    pairs = whole.reshape(*lead, height // _HEIGHT, 4, 2, BLOCK)  # of a byte
    words = (pairs[..., 0, :] | pairs[..., 1, :] << 4).swapaxes(-1, -2)  # [..., octets, 32, 4]
    tiles = np.empty((*lead, _tile_bytes(height)), np.uint8)
    tiles[..., : 2 * height] = scale.view(np.uint8).reshape(*lead, 2 * height)
    tiles[..., 2 * height : 4 * height] = least.view(np.uint8).reshape(*lead, 2 * height)
    tiles[..., 4 * height :] = words.reshape(*lead, BLOCK // 2 * height)
    return tiles


def _tile_values(tiles: Array) -> Array:
    """Give the numbers float32 [..., rows, 32] of tiles."""
    *lead, size = tiles.shape
    height = size // _tile_bytes(1)
    scale, least = _float16(tiles[..., : 2 * height]), _float16(tiles[..., 2 * height : 4 * height])
    words = tiles[..., 4 * height :].reshape(*lead, height // _HEIGHT, BLOCK, 4).swapaxes(-1, -2)
    whole = np.stack([words & 15, words >> 4], axis=-2)  # [..., octets, 4, 2, 32]
    return whole.reshape(*lead, height, BLOCK) * scale[..., None] + least[..., None]


def _float16(stored: Array) -> Array:
    """Give float32 [..., n] of bytes [..., 2 n]."""
    return np.ascontiguousarray(stored).view(np.float16).astype(np.float32)
