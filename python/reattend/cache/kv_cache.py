"""KVCache: keys and values of a generation, in one growing array a layer."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from reattend.border.blocks import QuantizedBlocks
from reattend.border.prefixed import Prefixed
from reattend.border.quantized import Quantized, Stored, quantize
from reattend.cache.four_bits import FourBitLayer
from reattend.cache.storage import Layer
from reattend.checks import as_array, count, integers, items, layer_count, place
from reattend.one_thread import OneThread, UsedByOneThread, alone
from reattend.optional import demand
from reattend.policy import Array

_DTYPES = ("float32", "float16", "bfloat16", "int8", "int4")


class KVCache(UsedByOneThread):
    """Keys and values of each layer; reading them copies nothing.

    A cache and its forks share storage: each holds the first so many keys of the same arrays. The
    first that appends goes on in the room beyond, and a layer is copied when another one appends to
    it. Pages of keys would share more, but then a layer would be no array: the kernel reads keys
    by one stride, and a page table would stand between any two of its tiles.

    Each thread has a cache, or a fork, of its own: one that two threads change at once raises
    RuntimeError.

    Parameters
    ----------
    num_layers : int
        Number of layers.
    dtype : {"float32", "float16", "bfloat16", "int8", "int4"}
        What the numbers are stored as. ``"bfloat16"`` needs the package ml_dtypes; ``"int8"`` gives
        keys and values as `Quantized`, ``"int4"`` as `QuantizedBlocks`: keys by channel, values by
        token, and the last 32 to 63 of both in full. What is cropped or kept within 32 keys of 4
        bits is rounded again once it is 32 keys old.
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
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {_DTYPES}, got {dtype!r}")
        self.num_layers = layer_count("num_layers", num_layers)
        self.dtype = np.dtype(
            demand("ml_dtypes").bfloat16
            if dtype == "bfloat16"
            else np.uint8  # 4 bits lie in bytes
            if dtype == "int4"
            else dtype
        )
        self._capacity = count("capacity", capacity, 0)
        narrow = dtype in ("int8", "int4")
        self._as_given = None if narrow else self.dtype  # the type that needs no change
        self._kind = FourBitLayer if dtype == "int4" else Layer
        self._layers: list[Layer | FourBitLayer] = [self._kind() for _ in range(self.num_layers)]
        self._prefix: list[Layer | FourBitLayer] | None = None  # what all items begin with
        self._batch = 0  # of a cache with a prefix
        self._use = OneThread("KVCache")

    @alone
    def append(self, layer: int, key: Array, value: Array) -> tuple[Any, Any]:
        """Add keys and values to a layer and give all it has.

        Parameters
        ----------
        layer : int
            The layer, from 0.
        key, value : array [B, H_kv, N, D] and [B, H_kv, N, Dv]
            What to add, of any float type; rounded to the cache's.

        Returns
        -------
        keys, values : array, Quantized, QuantizedBlocks or Prefixed
            [B, H_kv, M, D] and [B, H_kv, M, Dv].
            Views of the storage. They show the same until this cache is reordered, or cropped to
            fewer keys than they have; nothing that is done to another cache changes them.

        Raises
        ------
        TypeError
            If key or value is of another type than a float.
        ValueError
            If shapes do not fit one another or what the layer holds, or if numbers to be stored as
            int8 or int4 are not finite, as int4 beyond float16's.

        Examples
        --------
        >>> step = np.ones((1, 4, 3, 8), dtype=np.float32)
        >>> keys, values = KVCache(num_layers=1, dtype="int8").append(0, step, step)
        >>> keys.numbers.shape, keys.scale.shape
        ((1, 4, 3, 8), (1, 4, 3))
        """
        held = self._layer(layer)
        if (
            getattr(key, "dtype", None) is not self._as_given
            or getattr(value, "dtype", None) is not self._as_given
            or not (type(key) is type(value) is np.ndarray)
        ):
            key, value = self._floats("key", key), self._floats("value", value)
        if key.ndim != 4 or value.ndim != 4 or key.shape[:3] != value.shape[:3]:
            raise ValueError(
                "key and value must be [B, H_kv, N, D] and [B, H_kv, N, Dv], "
                f"got shapes {key.shape} and {value.shape}"
            )
        sizes = (*key.shape[:2], key.shape[3], value.shape[3])
        prefix = None if self._prefix is None else self._prefix[layer]
        expected = sizes if held.empty else held.sizes
        if prefix is not None:
            expected = (self._batch, *(sizes if prefix.empty else prefix.sizes)[1:])
        if sizes != expected:
            raise ValueError(
                "key and value must have the batch, heads and head sizes that the layer holds, "
                f"{expected}, got {sizes}"
            )
        parts: tuple[Any, ...] = (key, value)
        if self._as_given is None and self._kind is Layer:
            parts = *quantize(key, name="key"), *quantize(value, name="value")
        keys, values = _stored(held.append(sizes, parts, self._capacity, self._as_given))
        if prefix is None or prefix.empty:
            return keys, values
        shared = _stored(prefix.views())
        return Prefixed(shared[0], keys), Prefixed(shared[1], values)

    @alone
    def crop(self, length: int) -> None:
        """Forget what lies beyond a number of keys, in every layer.

        Views that show more keys end: the next append writes where they look. To ask several
        questions about one prompt in turn, crop to the prompt after each; nothing is copied.

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
        length = count("length", length, 0)
        for layer, held in enumerate(self._layers):
            held.crop(max(length - self._before(layer), 0))
            if self._prefix is not None:
                self._prefix[layer].crop(length)

    @alone
    def keep(self, layer: int, indices: Array) -> None:
        """Keep some keys of a layer and forget the others; what forks hold stays as it is.

        Keys were turned to their positions before they came here, so these are kept too. Rows that
        follow see all that is kept, as one row at a time does; a `Session` counts keys, and does
        not go on with fewer. `reattend.cache.selection` chooses by published scores.

        Parameters
        ----------
        layer : int
            The layer, from 0.
        indices : array of int that broadcasts to [B, H_kv, K]
            The keys that each head keeps, in the order in which they shall lie.

        Raises
        ------
        TypeError
            If they are no integers.
        ValueError
            If they are no keys of the layer.

        Examples
        --------
        >>> cache = KVCache(num_layers=1)
        >>> _ = cache.append(0, np.arange(4.0).reshape(1, 1, 4, 1), np.ones((1, 1, 4, 1)))
        >>> cache.keep(0, np.array([0, 2, 3]))
        >>> step = np.full((1, 1, 1, 1), 9.0)
        >>> cache.append(0, step, step)[0].ravel()
        array([0., 2., 3., 9.], dtype=float32)
        """
        held = self._layer(layer)
        if self._prefix is not None:
            raise ValueError("keep() is for a cache without a shared prefix: keep, then fork")
        indices = integers("indices", indices, "[K] or [H_kv, K] or [B, H_kv, K]")
        whole = held.sizes[:2]
        lead = indices.shape[:-1]
        if any(n not in (1, size) for n, size in zip(lead[::-1], whole[::-1], strict=False)):
            raise ValueError(
                f"indices must broadcast to [B, H_kv, K] with B, H_kv = {whole}, got shape "
                f"{indices.shape}"
            )
        if not ((indices >= 0) & (indices < held.length)).all():
            raise ValueError(
                f"indices must be keys from 0 to {held.length - 1}, got {indices.min()} to "
                f"{indices.max()}"
            )
        held.keep(np.broadcast_to(indices, (*whole, indices.shape[-1])))

    @alone
    def reorder(self, indices: Array) -> None:
        """Reorder the batch, as beam search does: item b becomes what item ``indices[b]`` was.

        Items that stay cost nothing, and of others only the keys are copied from where the two
        items part: beams share their prompt, and most of what they generated. Views that this cache
        gave before end.

        Parameters
        ----------
        indices : array of int
            One index into the batch for each item; the batch may grow or shrink.

        Raises
        ------
        TypeError
            If they are no integers.
        ValueError
            If they are no items of the batch.

        Examples
        --------
        >>> cache = KVCache(num_layers=1)
        >>> keys, _ = cache.append(0, np.arange(2.0).reshape(2, 1, 1, 1), np.ones((2, 1, 1, 1)))
        >>> cache.reorder(np.array([1, 1]))
        >>> cache.append(0, np.ones((2, 1, 0, 1)), np.ones((2, 1, 0, 1)))[0].ravel()
        array([1., 1.], dtype=float32)
        """
        batch = min((held.sizes[0] for held in self._layers if not held.empty), default=None)
        if self._prefix is not None:
            batch = self._batch
        indices = items("indices", indices, batch)
        if batch is None:
            return
        self._batch = len(indices)
        for held in self._layers:
            held.reorder(indices)

    @alone
    def fork(self, batch: int | None = None) -> KVCache:
        """Give a second cache that holds what this one does, without a copy.

        For many questions about one image, or branches of a search: what is done to one of the two
        never shows in the other. It is called as in vLLM and SGLang, after the system call, which
        copies on write too; llama.cpp's ``seq_cp`` names a copy that is none.

        Parameters
        ----------
        batch : int, optional
            A cache of so many items, each of which begins with what this one, of one item, holds.
            `append` then gives `Prefixed` keys and values: their beginning is there once, and read
            once a step for all items.

        Raises
        ------
        TypeError, ValueError
            If ``batch`` is no number from 1, or the cache holds several items or has a prefix.

        Examples
        --------
        >>> cache = KVCache(num_layers=1)
        >>> image, word = np.ones((1, 4, 600, 8)), np.zeros((1, 4, 1, 8))
        >>> _ = cache.append(0, image, image)
        >>> branch = cache.fork()
        >>> _ = branch.append(0, word, word)
        >>> len(cache), len(branch)
        (600, 601)

        Three questions about the image, which is there once:

        >>> questions = cache.fork(batch=3)
        >>> keys, _ = questions.append(0, *np.zeros((2, 3, 4, 1, 8)))
        >>> keys.shape, keys.prefix.shape, keys.own.shape
        ((3, 4, 601, 8), (1, 4, 600, 8), (3, 4, 1, 8))
        """
        if batch is not None:
            batch = count("batch", batch, 1)
            most = max((held.sizes[0] for held in self._layers if not held.empty), default=1)
            if most > 1 or self._prefix is not None:
                raise ValueError(
                    "batch is for a cache of one item that shares no prefix, got "
                    + (f"{most} items" if self._prefix is None else "one that does")
                )
        other = copy(self)
        other._layers = [held.fork() for held in self._layers]
        if self._prefix is not None:
            other._prefix = [held.fork() for held in self._prefix]
        if batch is not None:
            other._batch = batch
            other._capacity = max(self._capacity - len(self), 0)  # of what each has of its own
            other._prefix, other._layers = other._layers, [self._kind() for _ in self._layers]
        other._use = OneThread("KVCache")
        return other

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
        return self._layer(layer).length + self._before(layer)

    def __len__(self) -> int:
        return max(map(self.length, range(self.num_layers)))

    @property
    def nbytes(self) -> int:
        """Memory that the storage takes, in bytes; what forks share counts in each of them."""
        return sum(held.nbytes for held in (*self._layers, *(self._prefix or ())))

    def __repr__(self) -> str:
        return f"KVCache({self.num_layers} layers, {len(self)} keys, {self.nbytes / 2**20:.1f} MiB)"

    def _before(self, layer: int) -> int:
        """Give the number of keys that all items share."""
        return (
            0
            if self._prefix is None
            else self._prefix[place("layer", layer, self.num_layers)].length
        )

    def _layer(self, layer: int) -> Layer | FourBitLayer:
        return self._layers[place("layer", layer, self.num_layers)]

    def _floats(self, name: str, array: Any) -> Any:
        """Give an array of floats."""
        if isinstance(array, Stored):
            kind = array.layout if isinstance(array, QuantizedBlocks) else array.dtype
            raise TypeError(f"{name} must be float32, float16, bfloat16 or float64, got {kind}")
        array = as_array(name, array)
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            raise TypeError(
                f"{name} must be float32, float16, bfloat16 or float64, got {array.dtype}"
            )
        return array


def _stored(views: list[Any]) -> tuple[Any, Any]:
    """Give keys and values, of which a room holds two arrays, or four of 8 bits."""
    if len(views) == 2:
        return views[0], views[1]
    return Quantized(*views[:2]), Quantized(*views[2:])
