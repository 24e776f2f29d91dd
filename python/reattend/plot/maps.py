"""Maps of layers and heads: masses, entropy, divergence; and what a method changes of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from reattend.plot.style import AMOUNT, CHANGE, axes, checked, heat
from reattend.policy import Array


def head_map(
    values: Any,
    *,
    chosen: Any = None,
    high: float | None = None,
    percent: bool = False,
    label: str = "attention mass",
    title: str = "",
    ax: Any = None,
) -> Any:
    """Draw a number for each layer and head, with chosen heads marked.

    Parameters
    ----------
    values : array [L, H]
        Such as attention mass on the image, entropy, or the divergence VHD.
    chosen : bool array [L, H], optional
        Heads to mark with a ring, such as those that VHR reinforces.
    high : float, optional
        The number of the last colour, to compare maps; the largest value by default.
    percent : bool, optional
        Whether the colour bar has percentages.
    label, title : str, optional
        Of the colour bar and above.
    ax : matplotlib.axes.Axes, optional
        Where to draw; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If the arrays do not fit.

    Examples
    --------
    >>> head_map(np.eye(3), chosen=np.eye(3) > 0).get_ylabel()
    'layer'
    """
    numbers = checked("values", values, "[L, H]")
    ax = axes(ax)
    most = float(np.nanmax(numbers, initial=0)) or 1.0
    heat(ax, numbers, colours=AMOUNT, low=min(0.0, float(np.nanmin(numbers, initial=0))),
         high=most if high is None else high, label=label, percent=percent)  # fmt: skip
    if chosen is not None:
        marks = checked("chosen", chosen, "[L, H]")
        if marks.shape != numbers.shape:
            raise ValueError(f"chosen must have shape {numbers.shape}, got {marks.shape}")
        mark(ax, marks)
    ax.set_title(title)
    return ax


def change(
    before: Any, after: Any, *, percent: bool = False, label: str = "change of attention mass",
    title: str = "", ax: Any = None,
) -> Any:  # fmt: skip
    """Draw what a method changed in each layer and head; dark is less, light is more.

    Parameters
    ----------
    before, after : arrays [L, H]
        The same reading without and with the method.
    percent : bool, optional
        Whether the colour bar has percentages.
    label, title : str, optional
        Of the colour bar and above.
    ax : matplotlib.axes.Axes, optional
        Where to draw; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If the arrays do not fit.

    Examples
    --------
    >>> change(np.zeros((2, 3)), np.ones((2, 3))).get_xlabel()
    'head'
    """
    first, second = (checked(n, x, "[L, H]") for n, x in (("before", before), ("after", after)))
    if first.shape != second.shape:
        raise ValueError(f"after must have the shape of before, {first.shape}, got {second.shape}")
    difference = second - first
    reach = float(np.nanmax(np.abs(difference), initial=0)) or 1.0
    ax = heat(axes(ax), difference, colours=CHANGE, low=-reach, high=reach, label=label,
              percent=percent)  # fmt: skip
    said = (title, "" if difference.any() else "nothing changed")
    ax.set_title("\n".join(line for line in said if line))
    return ax


def mark(ax: Any, chosen: Array) -> None:
    """Put a ring on chosen heads, bool [L, H]."""
    layer, head = np.nonzero(chosen)
    size = 110 / max(chosen.shape) + 8
    ax.scatter(head, layer, s=size, facecolors="white", edgecolors="black", linewidths=0.8,
               label="chosen")  # fmt: skip
