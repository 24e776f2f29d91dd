"""Keys and values of a batch whose items begin alike: what they share is there once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from reattend.border.blocks import QuantizedBlocks, some_rows
from reattend.border.quantized import Quantized, Stored
from reattend.policy import Array


class Prefixed(NamedTuple):
    """Keys or values [B, H_kv, P + M, D] of which the first P are those of all items.

    `attention`, `segment_pass` and `Session.attend` take it for key and value, as `KVCache.fork`
    gives it: of up to 8 rows an item, what is shared is read once for the whole batch and merged
    with each item's own, exactly, policies and all. Other calls join both parts first, a copy.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> shared, own = rng.standard_normal((1, 2, 5, 8)), rng.standard_normal((3, 2, 1, 8))
    >>> keys = Prefixed(shared, own)
    >>> keys.shape, keys.whole().shape
    ((3, 2, 6, 8), (3, 2, 6, 8))
    """

    prefix: Array | Stored  # [1, H_kv, P, D]
    own: Array | Stored  # [B, H_kv, M, D], of the same type

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of both together."""
        batch, heads, length, dim = self.own.shape
        return batch, heads, self.prefix.shape[2] + length, dim

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.own.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self.own.dtype

    @property
    def nbytes(self) -> int:
        """Memory that both take, in bytes."""
        return self.prefix.nbytes + self.own.nbytes

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Give all keys of all items as an array: what NumPy's functions read."""
        if copy is False:
            raise ValueError("two parts become one array by a copy")
        whole = self.whole()
        array = whole.to_float32() if isinstance(whole, Stored) else whole
        return array if dtype is None else array.astype(dtype, copy=False)

    def whole(self) -> Array | Stored:
        """Give all keys of all items in one array."""
        if isinstance(self.prefix, Quantized):
            assert isinstance(self.own, Quantized)
            return Quantized(*map(_joined, self.prefix, self.own))
        if isinstance(self.prefix, QuantizedBlocks):  # a block may not end where the prefix does
            assert isinstance(self.own, QuantizedBlocks)
            return _joined(self.prefix.to_float32(), self.own.to_float32())
        assert not isinstance(self.own, Stored)
        return _joined(self.prefix, self.own)


def keys_between(stored: Array | Stored | Prefixed, keys: slice) -> Array | Stored | Prefixed:
    """Give some of the keys or values [B, H_kv, M, D], as they are stored.

    Nothing is copied but what is left of a block of 32 keys.
    """
    if isinstance(stored, QuantizedBlocks):
        return some_rows(stored, keys)
    if isinstance(stored, Quantized):
        return Quantized(stored.numbers[:, :, keys], stored.scale[:, :, keys])
    if not isinstance(stored, Prefixed):
        return stored[:, :, keys]
    cut = stored.prefix.shape[2]
    begin, end, _ = keys.indices(stored.shape[2])
    parts: Any = (
        keys_between(stored.prefix, slice(min(begin, cut), min(end, cut))),
        keys_between(stored.own, slice(max(begin - cut, 0), max(end - cut, 0))),
    )
    return Prefixed(*parts)


def _joined(prefix: Array, own: Array) -> Array:
    """Give both along the axis of keys, the first part for each item; contiguous."""
    cut = prefix.shape[2]
    joined = np.empty((*own.shape[:2], cut + own.shape[2], *own.shape[3:]), own.dtype)
    joined[:, :, :cut] = prefix
    joined[:, :, cut:] = own
    return joined
