"""A row's products with all keys, made once: a method reads scores off them, then the pass does."""

from __future__ import annotations

from typing import Any

import numpy as np

from reattend.border.core_call import attend
from reattend.border.request import MaskSpec, Request
from reattend.policy import Array

_PRODUCTS = Request(returns=("scores",), instead="nothing", num_segments=1)
_BARE = MaskSpec(scale=1.0)


def around(marked: Array) -> slice:
    """Give the keys from the first to the last that is marked in any item.

    Parameters
    ----------
    marked : array of bool [B, M]

    Examples
    --------
    >>> around(np.array([[False, True, False, False], [False, False, True, False]]))
    slice(1, 3, None)
    """
    places = np.flatnonzero(marked.any(0))
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def products_of(query: Any, key: Any, mask: MaskSpec, num_threads: int | None) -> Array:
    """Multiply a row with all keys, [B, H, 1, M]: a pass that knows them reads values alone.

    Parameters
    ----------
    query : array [B, H, 1, D]
    key : array [B, H_kv, M, D]
    mask : MaskSpec
        The call's.
    num_threads : int or None
        As for `reattend.attention`.

    Examples
    --------
    >>> query = key = np.ones((1, 1, 1, 4), np.float32)
    >>> products_of(query, key, MaskSpec(), 1).ravel()
    array([4.], dtype=float32)
    """
    bare = _BARE if mask.dtype is None else _BARE._replace(dtype=mask.dtype)
    found: Array = attend(query, key, key, bare, _PRODUCTS, num_threads).scores
    return found


def scores_of(products: Array, mask: MaskSpec, head_dim: int) -> Array:
    """Scale products, and cap them where the call does.

    Parameters
    ----------
    products : float32 array
        Of queries with keys.
    mask : MaskSpec
        The call's.
    head_dim : int
        D.

    Examples
    --------
    >>> scores_of(np.array([4.0], np.float32), MaskSpec(), 4)
    array([2.], dtype=float32)
    """
    scale = head_dim**-0.5 if mask.scale is None else mask.scale
    scores: Array = products * np.float32(scale)
    if mask.softcap is not None:
        cap = np.float32(mask.softcap)
        scores = cap * np.tanh(scores / cap)
    return scores
