"""Which layers a method is for: given, or those of the paper's model in proportion."""

from __future__ import annotations

from typing import Any

from reattend.checks import layer_count
from reattend.method import integers


def frozen_layers(layers: Any) -> tuple[int, ...] | None:
    """Bring layers into a form that can be hashed; None stays None.

    Parameters
    ----------
    layers : iterable of int, or None
        None stands for those of the paper.

    Raises
    ------
    TypeError
        If they are no integers.
    ValueError
        If one is negative.

    Examples
    --------
    >>> frozen_layers([3, 1, 3])
    (1, 3)
    """
    if layers is None:
        return None
    found = tuple(sorted({*integers("layers", layers)}))
    if found and found[0] < 0:
        raise ValueError(f"layers must be from 0, got {found}")
    return found


def check_layers(layers: tuple[int, ...] | None, num_layers: int) -> None:
    """Refuse layers that a model does not have.

    Parameters
    ----------
    layers : tuple, or None
        Of `frozen_layers`.
    num_layers : int
        Of the model.

    Raises
    ------
    ValueError
        Naming the layer.

    Examples
    --------
    >>> check_layers((1, 3), 4)
    """
    if layers and max(layers) >= num_layers:
        raise ValueError(
            f"layers must be below {num_layers}, the model's number, got {max(layers)}"
        )


def scaled_layers(
    layers: tuple[int, ...] | None, num_layers: int, first: int, end: int
) -> tuple[int, ...]:
    """Give a method's layers in a model: its own, or a range of 32 in proportion, never empty.

    Parameters
    ----------
    layers : tuple, or None
        Of `frozen_layers`.
    num_layers : int
        Of the model.
    first, end : int
        The range of 32 layers, ``end`` not included.

    Raises
    ------
    TypeError, ValueError
        If ``num_layers`` is no such number.

    Examples
    --------
    >>> scaled_layers(None, 16, 9, 15), scaled_layers((1, 3), 16, 9, 15)
    ((4, 5, 6), (1, 3))
    """
    num_layers = layer_count("num_layers", num_layers)
    if layers is not None:
        return layers
    begin = first * num_layers // 32
    return tuple(range(begin, max(end * num_layers // 32, begin + 1)))
