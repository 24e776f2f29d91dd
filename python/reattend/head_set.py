"""Which heads a method is for: a mapping from layers to heads, kept so that it can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import index
from typing import Any

import numpy as np

from reattend.policy import Array


def frozen_heads(heads: Any) -> tuple[tuple[int, tuple[int, ...]], ...] | None:
    """Bring a mapping layer -> heads into a form that can be hashed; None stays None.

    Parameters
    ----------
    heads : mapping from int to iterable of int, iterable of such pairs, or None
        None stands for all heads.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If a layer or a head is negative.

    Examples
    --------
    >>> frozen_heads({3: [2, 0], 1: ()})
    ((1, ()), (3, (0, 2)))
    """
    if heads is None:
        return None
    pairs: Iterable[Any] = heads.items() if isinstance(heads, Mapping) else heads
    try:
        frozen = {index(layer): tuple(sorted({index(h) for h in some})) for layer, some in pairs}
    except (TypeError, ValueError):
        raise TypeError(f"heads must map layers to heads, or be None, got {heads!r}") from None
    if any(layer < 0 or (some and some[0] < 0) for layer, some in frozen.items()):
        raise ValueError(f"heads must hold layers and heads from 0, got {heads!r}")
    return tuple(sorted(frozen.items()))


def check_heads(heads: Any, num_layers: int, num_heads: int | None) -> None:
    """Refuse layers and heads that a model does not have.

    Parameters
    ----------
    heads : tuple, or None
        Of `frozen_heads`.
    num_layers : int
        Of the model.
    num_heads : int or None
        Of the model; None where that is not known.

    Raises
    ------
    ValueError
        Naming the layer or the head.

    Examples
    --------
    >>> check_heads(((3, (0, 2)),), 4, 4)
    """
    for layer, some in heads or ():
        if some and layer >= num_layers:
            raise ValueError(
                f"heads must be in layers below {num_layers}, those of the model, got layer {layer}"
            )
        if some and num_heads is not None:
            heads_of_layer(((layer, some),), layer, num_heads)


def heads_of_layer(heads: Any, layer: int, num_heads: int) -> Array:
    """Say which heads of a layer are in a set, bool [H].

    Parameters
    ----------
    heads : tuple, or None
        Of `frozen_heads`.
    layer : int
        The layer.
    num_heads : int
        H, the heads of the model.

    Raises
    ------
    ValueError
        If the model has fewer heads.

    Examples
    --------
    >>> heads_of_layer(((3, (0, 2)),), 3, 4).tolist()
    [True, False, True, False]
    """
    if heads is None:
        return np.ones(num_heads, bool)
    some = dict(heads).get(layer, ())
    if some and max(some) >= num_heads:
        raise ValueError(
            f"heads must be below {num_heads}, the heads of the model, got {max(some)} "
            f"in layer {layer}"
        )
    chosen = np.zeros(num_heads, dtype=bool)
    chosen[list(some)] = True
    return chosen
