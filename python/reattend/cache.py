"""KVCache: keys and values of a generation, in one growing array a layer."""

from __future__ import annotations

import numpy as np

from reattend.policy import Array

_DTYPES = {"float32": np.dtype(np.float32)}  # narrower storage has its place here
_GROWTH = 1.5


class KVCache:
    """Keys and values of each layer; reading them copies nothing.

    Parameters
    ----------
    num_layers : int
        Number of layers.
    dtype : {"float32"}
        What the numbers are stored as.
    capacity : int, optional
        Number of keys to make room for at first. Storage grows by half when it is full.

    Examples
    --------
    >>> cache = KVCache(num_layers=2)
    >>> step = np.ones((1, 4, 3, 8), dtype=np.float32)
    >>> keys, values = cache.append(0, step, step)
    >>> keys, values = cache.append(0, step[:, :, :1], step[:, :, :1])
    >>> keys.shape, cache.length(0), len(cache)
    ((1, 4, 4, 8), 4, 4)
    """

    def __init__(self, num_layers: int, *, dtype: str = "float32", capacity: int = 0) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {sorted(_DTYPES)}, got {dtype!r}")
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        if capacity < 0:
            raise ValueError(f"capacity must not be negative, got {capacity}")
        self.num_layers = num_layers
        self.dtype = _DTYPES[dtype]
        self._capacity = capacity
        self._keys: list[Array | None] = [None] * num_layers  # [B, H_kv, capacity, D]
        self._values: list[Array | None] = [None] * num_layers  # [B, H_kv, capacity, Dv]
        self._lengths = [0] * num_layers

    def append(self, layer: int, key: Array, value: Array) -> tuple[Array, Array]:
        """Add keys and values to a layer and give all it has.

        Parameters
        ----------
        layer : int
            The layer, from 0.
        key, value : array [B, H_kv, N, D] and [B, H_kv, N, Dv]
            What to add.

        Returns
        -------
        keys, values : array [B, H_kv, M, D] and [B, H_kv, M, Dv]
            Views of the storage; later appends do not change what they show.

        Raises
        ------
        ValueError
            If shapes do not fit one another or what the layer holds.

        Examples
        --------
        >>> step = np.ones((1, 4, 3, 8), dtype=np.float32)
        >>> keys, values = KVCache(num_layers=1).append(0, step, step)
        """
        self._check(layer)
        if key.ndim != 4 or value.ndim != 4 or key.shape[:3] != value.shape[:3]:
            raise ValueError(
                "key and value must be [B, H_kv, N, D] and [B, H_kv, N, Dv], "
                f"got shapes {key.shape} and {value.shape}"
            )
        start = self._lengths[layer]
        end = start + key.shape[2]
        keys = self._keys[layer] = self._room("key", self._keys[layer], key, start, end)
        values = self._values[layer] = self._room("value", self._values[layer], value, start, end)
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        self._lengths[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def crop(self, length: int) -> None:
        """Forget what lies beyond a number of keys, in every layer.

        Parameters
        ----------
        length : int
            How many keys to keep.

        Raises
        ------
        ValueError
            If it is negative.

        Examples
        --------
        >>> cache = KVCache(num_layers=1)
        >>> _ = cache.append(0, np.ones((1, 1, 5, 2)), np.ones((1, 1, 5, 2)))
        >>> cache.crop(3)
        >>> len(cache)
        3
        """
        if length < 0:
            raise ValueError(f"length must not be negative, got {length}")
        self._lengths = [min(length, n) for n in self._lengths]

    def reorder(self, indices: Array) -> None:
        """Reorder the batch, as beam search does: item b becomes what item ``indices[b]`` was.

        Parameters
        ----------
        indices : array of int
            One index into the batch for each item; the batch may grow or shrink.

        Examples
        --------
        >>> cache = KVCache(num_layers=1)
        >>> keys, _ = cache.append(0, np.arange(2.0).reshape(2, 1, 1, 1), np.ones((2, 1, 1, 1)))
        >>> cache.reorder(np.array([1, 1]))
        >>> cache.append(0, np.ones((2, 1, 0, 1)), np.ones((2, 1, 0, 1)))[0].ravel()
        array([1., 1.], dtype=float32)
        """
        indices = np.asarray(indices)
        for store in (self._keys, self._values):
            for layer, array in enumerate(store):
                if array is not None:
                    new = np.empty((len(indices), *array.shape[1:]), dtype=self.dtype)
                    length = self._lengths[layer]  # the room beyond holds nothing
                    new[:, :, :length] = array[indices, :, :length]
                    store[layer] = new

    def length(self, layer: int) -> int:
        """Give the number of keys that a layer holds.

        Parameters
        ----------
        layer : int
            The layer, from 0.

        Examples
        --------
        >>> KVCache(num_layers=2).length(1)
        0
        """
        self._check(layer)
        return self._lengths[layer]

    def __len__(self) -> int:
        return max(self._lengths)

    @property
    def nbytes(self) -> int:
        """Memory that the storage takes, in bytes."""
        return sum(a.nbytes for a in self._keys + self._values if a is not None)

    def __repr__(self) -> str:
        return f"KVCache({self.num_layers} layers, {len(self)} keys, {self.nbytes / 2**20:.1f} MiB)"

    def _check(self, layer: int) -> None:
        if not 0 <= layer < self.num_layers:
            raise ValueError(f"layer must be from 0 to {self.num_layers - 1}, got {layer}")

    def _room(self, name: str, old: Array | None, new: Array, start: int, end: int) -> Array:
        """Give storage for ``end`` keys that holds the old ones."""
        batch, heads, _, size = new.shape
        if old is not None:
            held = (*old.shape[:2], old.shape[3])
            if (batch, heads, size) != held:
                raise ValueError(
                    f"{name} must have the batch, heads and head size that the layer holds, "
                    f"{held}, got {(batch, heads, size)}"
                )
            if end <= old.shape[2]:
                return old
        capacity = max(end, self._capacity)
        if old is not None:
            capacity = max(end, int(old.shape[2] * _GROWTH))
        grown = np.empty((batch, heads, capacity, size), dtype=self.dtype)
        if old is not None:
            grown[:, :, :start] = old[:, :, :start]
        return grown
