"""Where one layer's keys and values lie, and which of the caches that share them may write."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from threading import Lock
from typing import Any

import numpy as np

from reattend.border.dtypes import write
from reattend.policy import Array

_GROWTH = 1.5
_LINE = 64  # bytes of a cache line
_ROOMS = Lock()  # who may write what: caches that share a room may run in threads of their own


class Layer:
    """What one cache holds of one layer: the first keys of a room that others may hold too."""

    __slots__ = ("equal", "length", "room", "sizes")

    def __init__(self) -> None:
        self.room: Room | None = None
        self.length = 0
        self.sizes = (0, 0, 0, 0)  # B, H_kv, D, Dv
        self.equal: Array  # int [B, B]: so many first keys of two items are known to be the same

    @property
    def empty(self) -> bool:
        """Whether nothing was ever appended."""
        return self.room is None

    @property
    def nbytes(self) -> int:
        """Memory that the storage takes."""
        return 0 if self.room is None else sum(array.nbytes for array in self.room.arrays)

    def views(self) -> list[Array]:
        """Give all there is."""
        return [] if self.room is None else [a[:, :, : self.length] for a in self.room.arrays]

    def append(
        self,
        sizes: tuple[int, int, int, int],
        parts: Sequence[Array],
        capacity: int,
        dtype: np.dtype[Any] | None,
    ) -> list[Array]:
        """Write to the room, or to one of its own, and give views of all there is.

        ``dtype`` is what parts are rounded to; None: each stays what it is.
        """
        start, end = self.length, self.length + parts[0].shape[2]
        room = self.room
        if room is None:
            room = Room(parts, sizes[0], max(end, capacity), end, dtype)
            self.sizes, self.equal = sizes, np.zeros((sizes[0], sizes[0]), dtype=np.intp)
        elif end > start and not room.claim(start, end):
            room = room.copy(range(sizes[0]), start, end)
        views = []
        for array, part in zip(room.arrays, parts, strict=True):
            view = array[:, :, :end]
            write(part, view[:, :, start:])
            views.append(view)
        self.room, self.length = room, end
        return views

    def crop(self, length: int) -> None:
        """Hold no more than some first keys; hand back the room that was this cache's alone."""
        if self.room is None or length >= self.length:
            return
        self.room.hand_back(self.length, length)
        self.length = length
        self.equal = np.minimum(self.equal, length)

    def keep(self, indices: Array) -> None:
        """Hold some keys only, int [B, H_kv, K] of each head, in a room of its own."""
        if self.room is None:
            return
        parts = []
        for array in self.room.arrays:
            index = indices.reshape(*indices.shape, *(1,) * (array.ndim - 3))
            parts.append(np.take_along_axis(array[:, :, : self.length], index, axis=2))
        self.room, self.length = None, 0
        self.append(self.sizes, parts, 0, None)

    def reorder(self, indices: Array) -> None:
        """Make item b what item ``indices[b]`` was: in place, but for what is shared or resized."""
        room, length, batch = self.room, self.length, len(indices)
        if room is None:
            return
        before = self.sizes[0]
        # A fork of nothing shares the room as well, and `shared` does not show it.
        in_place = batch == before or (batch < before and length > 0 and not room.shared)
        if in_place:
            starts = self.equal[np.arange(batch), indices].tolist()
            moves = [
                (to, item, start)
                for to, (item, start) in enumerate(zip(indices.tolist(), starts, strict=True))
                if item != to and start < length
            ]
            if not moves and batch == before:
                return
            in_place = all(start >= room.shared for _, _, start in moves)
        if in_place:
            for array in room.arrays:  # all is read before any is written: items may trade places
                tails = [array[item, :, start:length].copy() for _, item, start in moves]
                for (to, _, start), tail in zip(moves, tails, strict=True):
                    array[to, :, start:length] = tail
            if batch < before:
                self.room = room.narrow(batch)
        else:
            self.room = room.copy(indices.tolist(), length, length)
        self.sizes = (batch, *self.sizes[1:])
        self.equal = self.equal[indices][:, indices]
        self.equal[indices[:, None] == indices] = length

    def fork(self) -> Layer:
        """Give a second layer of the same room; from now on nobody writes what both hold."""
        if self.room is not None:
            self.room.share(self.length)
        return copy(self)


class Room:
    """Storage of one layer, of one cache and perhaps of forks that have appended nothing to it.

    Keys before ``shared`` are never written again. Of those from there to ``filled`` one cache at
    most holds any, and it alone writes. Whoever holds all up to ``filled`` may claim what follows.
    """

    __slots__ = ("arrays", "filled", "shared")

    def __init__(
        self,
        like: Sequence[Array],
        batch: int,
        capacity: int,
        filled: int,
        dtype: np.dtype[Any] | None = None,
    ) -> None:
        self.arrays = [  # keys and values, as int8 each followed by its scales
            _empty((batch, a.shape[1], capacity, *a.shape[3:]), a.dtype if dtype is None else dtype)
            for a in like
        ]
        self.filled = filled
        self.shared = 0

    def claim(self, start: int, end: int) -> bool:
        """Take the room from ``start``, if it is nobody's and large enough."""
        with _ROOMS:
            if start != self.filled or end > self.arrays[0].shape[2]:
                return False
            self.filled = end
            return True

    def hand_back(self, end: int, length: int) -> None:
        """Leave what lies between two lengths to who claims it, if it was one cache's alone."""
        with _ROOMS:
            if end > self.shared:
                self.filled = max(length, self.shared)

    def share(self, length: int) -> None:
        """Have nobody write so many first keys any more."""
        with _ROOMS:
            self.shared = max(length, self.shared)

    def narrow(self, batch: int) -> Room:
        """Give a room in the first items of this one, which nobody is to write any more."""
        room = copy(self)
        room.arrays = [array[:batch] for array in self.arrays]
        return room

    def copy(self, items: Sequence[int], length: int, filled: int) -> Room:
        """Give a room of its own to the first keys of some items."""
        capacity = self.arrays[0].shape[2]
        if filled > capacity:
            capacity = max(filled, int(capacity * _GROWTH))
        room = Room(self.arrays, len(items), capacity, filled)
        for new, old in zip(room.arrays, self.arrays, strict=True):
            for to, item in enumerate(items):
                new[to, :, :length] = old[item, :, :length]
        return room


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Give an array that begins with a cache line.

    NumPy's begin 16 bytes behind one; with AVX-512 each vector of a row then lies in two lines,
    and a step that the caches hold takes up to a quarter longer.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _LINE, np.uint8)
    start = -memory.__array_interface__["data"][0] % _LINE
    array: Array = memory[start : start + size].view(dtype).reshape(shape)
    return array
