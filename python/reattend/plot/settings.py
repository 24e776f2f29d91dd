"""Settings against each other: hallucinated objects against recall, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reattend.plot.style import COLOURS, MARKERS, axes, checked


def frontier(
    recall: Any, hallucination: Any, labels: Sequence[str], *, title: str = "", ax: Any = None
) -> Any:
    """Draw what settings find against what they hallucinate, with their intervals.

    Parameters
    ----------
    recall, hallucination : arrays [S, 3]
        Of each setting the estimate, and the low and the high end of its interval.
    labels : sequence of str [S]
        Names of the settings.
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
    >>> frontier([[0.8, 0.7, 0.9]], [[0.2, 0.1, 0.3]], ["plain"]).get_xlabel()
    'recall'
    """
    across = checked("recall", recall, "[S, 3]")
    up = checked("hallucination", hallucination, "[S, 3]")
    if not across.shape == up.shape == (len(labels), 3):
        raise ValueError(
            f"recall and hallucination must be [S, 3] with S = {len(labels)} labels, got "
            f"{across.shape} and {up.shape}"
        )
    ax = axes(ax, 5.2, 3.4)
    for index, label in enumerate(labels):
        x, y = across[index], up[index]
        ax.errorbar(
            x[0], y[0], xerr=np.abs(x[1:] - x[0])[:, None], yerr=np.abs(y[1:] - y[0])[:, None],
            marker=MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)],
            markeredgecolor="black", markeredgewidth=0.5, capsize=2, linewidth=0.9, label=label,
        )  # fmt: skip
    ax.set(xlabel="recall", ylabel="hallucinated objects")
    ax.set_title(title)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax
