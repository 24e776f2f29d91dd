"""Lines along positions: what each key receives, and T-VHD along the words of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reattend.plot.style import COLOURS, axes, checked, name_spans


def column_profile(
    sums: Any, *, spans: Mapping[str, tuple[int, int]] | None = None, title: str = "",
    ax: Any = None,
) -> Any:  # fmt: skip
    """Draw the attention that each key receives, on a logarithmic scale.

    Parameters
    ----------
    sums : array [M], or [H, M]
        Column sums or means; of several heads the median and the range are drawn.
    spans : mapping from str to (start, stop), optional
        Parts of the prompt to name, such as ``{"image": (5, 581)}``.
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
        If the array does not fit.

    Examples
    --------
    >>> column_profile(np.ones((2, 9)), spans={"image": (2, 6)}).get_xlabel()
    'key'
    """
    numbers = np.asarray(sums)
    numbers = checked("sums", numbers[None] if numbers.ndim == 1 else numbers, "[M] or [H, M]")
    ax = axes(ax, 5.6, 2.8)
    keys = np.arange(numbers.shape[1])
    ax.plot(keys, np.median(numbers, 0), color=COLOURS[1], linewidth=1.2, label="median head")
    if len(numbers) > 1:
        ax.fill_between(keys, numbers.min(0), numbers.max(0), color="0.8", label="all heads",
                        linewidth=0)  # fmt: skip
        ax.legend(frameon=False, fontsize=8)
    ax.set_yscale("log")
    for index, (start, stop) in enumerate((spans or {}).values()):
        hatch = "/" * (index % 2)
        ax.axvspan(start - 0.5, stop - 0.5, facecolor="0.92", edgecolor="0.5", hatch=hatch,
                   linewidth=0.5, zorder=0)  # fmt: skip
    name_spans(ax, spans or {})
    ax.set(xlabel="key", ylabel="attention received")
    ax.set_title(title, pad=16 if spans else 6)
    return ax


def divergence_along(
    total: Any, words: Sequence[str], *, made_up: Sequence[bool] | None = None, title: str = "",
    ax: Any = None,
) -> Any:  # fmt: skip
    """Draw T-VHD along an answer, with hallucinated words marked.

    Parameters
    ----------
    total : array [T]
        Of `reattend.measures.total_divergence`, at each word.
    words : sequence of str [T]
        The answer.
    made_up : sequence of bool [T], optional
        Which words are hallucinated.
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
    >>> divergence_along([3, 1], ["a", "cow"], made_up=[False, True]).get_ylabel()
    'T-VHD'
    """
    numbers = checked("total", total, "[T]")
    marks = np.zeros(len(numbers), bool) if made_up is None else np.asarray(made_up, bool)
    if not len(words) == len(marks) == len(numbers):
        raise ValueError(
            f"words and made_up must have the length of total, {len(numbers)}, got {len(words)} "
            f"and {len(marks)}"
        )
    ax = axes(ax, max(4.0, 0.32 * len(words) + 1), 2.8)
    places = np.arange(len(numbers))
    ax.plot(places, numbers, color=COLOURS[1], marker="o", markersize=3.5, linewidth=1.2)
    if marks.any():
        ax.scatter(places[marks], numbers[marks], marker="X", s=70, color=COLOURS[2], zorder=3,
                   edgecolors="black", linewidths=0.6, label="hallucinated")  # fmt: skip
        ax.legend(frameon=False, fontsize=8)
    ax.set_xticks(places, [word.strip() for word in words], rotation=60, ha="right", fontsize=8)
    for label, mark in zip(ax.get_xticklabels(), marks, strict=True):
        label.set_fontweight("bold" if mark else "normal")
    ax.set(ylabel="T-VHD", ylim=(0, 1.1 * float(numbers.max(initial=0)) or 1))
    ax.set_title(title)
    return ax
