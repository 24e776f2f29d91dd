"""Settings against each other, with intervals: hallucination against recall, and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reattend.plot.style import COLOURS, MARKERS, axes, checked

_APART = 0.66  # of a setting's row, which its groups share


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


def differences(
    groups: Mapping[str, Any], labels: Sequence[str], *, xlabel: str = "difference from plain",
    title: str = "", ax: Any = None,
) -> Any:  # fmt: skip
    """Draw how far settings are from plain attention, a row for each setting.

    Where an interval holds 0, which is a line, no difference is shown.

    Parameters
    ----------
    groups : mapping from str to array [S, 3]
        Of each group of cases, such as a difficulty, and each setting the difference, and the low
        and the high end of its interval; NaN where there is none.
    labels : sequence of str [S]
        Names of the settings.
    xlabel, title : str, optional
        Below and above.
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
    >>> ax = differences({"dim": [[0.1, -0.1, 0.3]], "hard": [[0.2, 0.1, 0.3]]}, ["VAR"])
    >>> ax.get_xlabel(), [label.get_text() for label in ax.get_yticklabels()]
    ('difference from plain', ['VAR'])
    """
    numbers = {name: checked(f"groups[{name!r}]", each, "[S, 3]") for name, each in groups.items()}
    for name, each in numbers.items():
        if each.shape != (len(labels), 3):
            raise ValueError(
                f"groups[{name!r}] must be [S, 3] with S = {len(labels)} labels, got {each.shape}"
            )
    ax = axes(ax, 4.5, 1.0 + 0.45 * len(labels))
    ax.axvline(0, color="0.5", linewidth=1)
    rows = np.arange(len(labels))
    for index, (name, each) in enumerate(numbers.items()):
        place = _APART * ((index + 0.5) / len(numbers) - 0.5)
        ax.errorbar(
            each[:, 0], rows + place, xerr=np.abs(each[:, 1:] - each[:, :1]).T, fmt=MARKERS[index],
            color=COLOURS[index + 1], markersize=4.5, elinewidth=1.6, label=name,
        )  # fmt: skip
    ax.set_yticks(rows, labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_xlabel(xlabel)
    ax.set_title(title)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    if len(numbers) > 1:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax
