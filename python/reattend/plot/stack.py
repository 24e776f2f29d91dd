"""How each layer shares its attention out among segments of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reattend.plot.style import COLOURS, HATCHES, axes, checked


def masses_by_layer(
    masses: Any, segments: Sequence[str], *, title: str = "", ax: Any = None
) -> Any:
    """Draw each layer's attention mass on each segment, the mean over its heads.

    Parameters
    ----------
    masses : array [L, H, G], or [L, G]
        Attention on each segment; each row of G adds up to 1 or less.
    segments : sequence of str [G]
        Their names.
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
    >>> masses_by_layer(np.full((4, 2, 3), 1 / 3), ["text", "sinks", "image"]).get_xlabel()
    'layer'
    """
    numbers = np.asarray(masses)
    numbers = numbers.mean(1) if numbers.ndim == 3 else numbers
    numbers = checked("masses", numbers, "[L, H, G] or [L, G]")
    if numbers.shape[1] != len(segments):
        raise ValueError(
            f"segments must name {numbers.shape[1]} segments, those of masses, got {len(segments)}"
        )
    if len(segments) > len(COLOURS):
        raise ValueError(f"segments must be at most {len(COLOURS)}, got {len(segments)}")
    ax = axes(ax, 5.2, 3.0)
    layers, bottom = np.arange(len(numbers)), np.zeros(len(numbers))
    order = COLOURS[1:] + COLOURS[:1]  # black last: hatches do not show on it
    for index, name in enumerate(segments):
        ax.bar(layers, numbers[:, index], bottom=bottom, width=0.9, color=order[index],
               hatch=HATCHES[index], edgecolor="white", linewidth=0.4, label=name)  # fmt: skip
        bottom = bottom + numbers[:, index]
    ax.set(xlabel="layer", ylabel="attention mass", ylim=(0, max(1.0, float(bottom.max()))))
    ax.set_title(title)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax
