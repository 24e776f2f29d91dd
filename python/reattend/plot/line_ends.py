"""Names at the ends of lines: as near to their heights as fits, none over another."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import Any

Point = tuple[float, float, str, str]  # x, y, name, colour


def name_ends(ax: Any, points: Sequence[Point], column: float, align: str = "left") -> None:
    """Write the points' names below one another at x = column, on logarithmic axes."""
    if not points:
        return
    low, high = map(log, ax.get_ylim())
    gap = 13 / (ax.figure.get_figheight() * 72 * ax.get_position().height) * (high - low)
    points = sorted(points, key=lambda point: point[1])
    groups: list[list[float]] = []  # heights that names want, of those that touch one another
    for _, y, _, _ in points:
        groups.append([log(y)])
        while len(groups) > 1 and _bottom(groups[-1], gap) < _top(groups[-2], gap) + gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    heights = [_bottom(group, gap) + i * gap for group in groups for i in range(len(group))]
    over = max(0.0, heights[-1] - high) + min(0.0, heights[0] - low - gap)
    line: dict[str, Any] = {"arrowstyle": "-", "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
    line["relpos"] = (0 if align == "left" else 1, 0.5)
    for (x, y, name, colour), height in zip(points, heights, strict=True):
        ax.annotate(
            name, (x, y), (column, exp(height - over)), color=colour, va="center", ha=align,
            fontsize=9, annotation_clip=False, bbox={"color": "white", "pad": 0.5},
            arrowprops={**line, "color": colour},
        )  # fmt: skip


def _bottom(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: list[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2
