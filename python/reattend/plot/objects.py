"""The objects of a picture: which of them an answer names, and which it misses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reattend.optional import demand
from reattend.plot.style import COLOURS, axes, checked, checked_picture

_NAMED, _MISSED = (COLOURS[1], "-"), (COLOURS[2], "--")  # apart in grey too
_ROOM = 0.08  # of the height, which a name needs above its box


def objects_on_picture(
    picture: Any,
    names: Sequence[str],
    boxes: Any,
    *,
    named: Sequence[bool] | None = None,
    title: str = "",
    ax: Any = None,
) -> Any:
    """Draw a picture with a box around each object, dashed where an answer does not name it.

    Parameters
    ----------
    picture : uint8 array [height, width, 3]
        What the model saw.
    names : sequence of str [n]
        Of the objects.
    boxes : array [n, 4]
        Left, top, right and bottom of each, in pixels.
    named : sequence of bool [n], optional
        Which of them the answer names; all by default.
    title : str, optional
        Above.
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
    >>> ax = objects_on_picture(np.zeros((9, 9, 3), np.uint8), ["cat", "dog"],
    ...                         [[0, 0, 4, 4], [5, 5, 9, 9]], named=[True, False])
    >>> [patch.get_linestyle() for patch in ax.patches]
    ['-', '--']
    """
    shown = checked_picture(np.asarray(picture))
    corners = checked("boxes", boxes, "[n, 4]") if len(names) else np.zeros((0, 4))
    marks = np.ones(len(names), bool) if named is None else np.asarray(named, bool)
    if not len(corners) == len(names) == len(marks) or corners.shape[1] != 4:
        raise ValueError(
            f"boxes must be [n, 4] and named [n] with n = {len(names)} names, got {corners.shape} "
            f"and {marks.shape}"
        )
    ax = axes(ax, 3.2, 3.2)
    ax.imshow(shown, interpolation="nearest")
    rectangle = demand("matplotlib.patches").Rectangle
    for name, (left, top, right, bottom), mark in zip(names, corners, marks, strict=True):
        colour, style = _NAMED if mark else _MISSED
        place = (left - 0.5, top - 0.5)
        ax.add_patch(rectangle(place, right - left, bottom - top, fill=False, edgecolor=colour,
                               linewidth=1.6, linestyle=style))  # fmt: skip
        above = top > _ROOM * len(shown)
        ax.annotate(
            name, ((left + right) / 2 - 0.5, (top if above else bottom) - 0.5),
            (0, 3 if above else -3), textcoords="offset points", fontsize=7.5, color="white",
            ha="center", va="bottom" if above else "top",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": colour, "edgecolor": "none"},
        )  # fmt: skip
    ax.set_axis_off()
    ax.set_title(title)
    return ax
