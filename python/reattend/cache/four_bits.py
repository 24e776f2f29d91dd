"""One layer's keys and values in 4 bits, and in full those that came last."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np

from reattend.border.blocks import (
    BLOCK,
    BY_CHANNEL,
    Layout,
    QuantizedBlocks,
    check_range,
    quantize_blocks,
    row_bytes,
    some_rows,
)
from reattend.border.dtypes import to_float32
from reattend.cache.storage import Layer
from reattend.policy import Array

IN_FULL = 32  # keys at least, and fewer than 64: what a text is about to use is rounded last
_LAYOUTS: tuple[Layout, Layout] = (BY_CHANNEL, "int4")
_FLOAT32 = np.dtype(np.float32)


class FourBitLayer:
    """What a `Layer` is, of keys by channel and values by token, 32 to a block."""

    __slots__ = ("blocks", "recent", "sizes")

    def __init__(self) -> None:
        self.blocks = Layer()  # of 32 keys each
        self.recent = Layer()
        self.sizes = (0, 0, 0, 0)

    @property
    def length(self) -> int:
        """Number of keys."""
        return self.blocks.length * BLOCK + self.recent.length

    @property
    def empty(self) -> bool:
        """Whether nothing was ever appended."""
        return self.recent.empty

    @property
    def nbytes(self) -> int:
        """Memory that the storage takes."""
        return self.blocks.nbytes + self.recent.nbytes

    def append(
        self,
        sizes: tuple[int, int, int, int],
        parts: Sequence[Array],
        capacity: int,
        _dtype: np.dtype[Any] | None = None,
    ) -> list[Any]:
        """Add float keys and values, and give all there is."""
        parts = [np.asarray(part, np.float32) for part in parts]
        for name, part in zip(("key", "value"), parts, strict=True):
            check_range(part, name)
        groups = max(self.recent.length + parts[0].shape[2] - IN_FULL, 0) // BLOCK
        if groups:
            if self.recent.length:
                before = self.recent.views()
                parts = [np.concatenate(each, axis=2) for each in zip(before, parts, strict=True)]
            packed = groups * BLOCK
            blocks = [
                quantize_blocks(part[:, :, :packed], layout == BY_CHANNEL, name).blocks
                for name, part, layout in zip(("key", "value"), parts, _LAYOUTS, strict=True)
            ]
            recent = _in_full(sizes, [part[:, :, packed:] for part in parts])
            self.blocks.append(sizes, blocks, capacity // BLOCK, None)
            self.recent = recent
        else:
            self.recent.append(sizes, parts, 2 * BLOCK, _FLOAT32)
        self.sizes = sizes
        return self.views()

    def views(self) -> list[Any]:
        """Give all there is."""
        recent = self.recent.views()
        if not self.blocks.empty:
            return [*map(QuantizedBlocks, self.blocks.views(), _LAYOUTS, recent)]
        return [
            QuantizedBlocks(
                np.empty((*rest.shape[:2], 0, row_bytes(layout, rest.shape[3])), np.uint8),
                layout,
                rest,
            )
            for layout, rest in zip(_LAYOUTS, recent, strict=True)
        ]

    def crop(self, length: int) -> None:
        """Hold no more than some first keys; of a block cut through what is left, in full."""
        packed = self.blocks.length * BLOCK
        if length >= packed:
            self.recent.crop(length - packed)
            return
        recent = _in_full(
            self.sizes, [some_rows(each, slice(length)).rest for each in self.views()]
        )
        self.blocks.crop(length // BLOCK)
        self.recent = recent

    def keep(self, indices: Array) -> None:
        """Hold some keys only, int [B, H_kv, K] of each head; they are rounded again."""
        if self.empty:
            return
        parts = [
            np.take_along_axis(to_float32(each), indices[..., None], axis=2)
            for each in self.views()
        ]
        self.blocks, self.recent = Layer(), Layer()
        self.append(self.sizes, parts, 0)

    def reorder(self, indices: Array) -> None:
        """Make item b what item ``indices[b]`` was."""
        self.blocks.reorder(indices)
        self.recent.reorder(indices)
        self.sizes = (len(indices), *self.sizes[1:])

    def fork(self) -> FourBitLayer:
        """Give a second layer of the same storage."""
        other = copy(self)
        other.blocks, other.recent = self.blocks.fork(), self.recent.fork()
        return other


def _in_full(sizes: tuple[int, int, int, int], parts: list[Array]) -> Layer:
    """Give new room that holds some keys and values."""
    room = Layer()
    room.append(sizes, parts, 2 * BLOCK, _FLOAT32)
    return room
