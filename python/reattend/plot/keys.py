"""Map of layers and keys: which keys draw attention, such as sinks, and in which layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reattend.optional import demand
from reattend.plot.style import AMOUNT, axes, checked, colour_bar, name_spans, number_places

_POWER = 0.4  # of a share, which its colour goes by: next to a sink others would be all dark


def attention_on_keys(
    weights: Any,
    *,
    spans: Mapping[str, tuple[int, int]] | None = None,
    percent: bool = False,
    label: str = "attention on a key",
    title: str = "",
    ax: Any = None,
) -> Any:
    """Draw how much attention each key gets in each layer; sinks are upright lines.

    Colours go by a power of the attention, as the colour bar says, so that what lies between the
    sinks is seen too.

    Parameters
    ----------
    weights : array [L, K]
        Attention on each key, such as the mean over rows and heads.
    spans : mapping from str to (start, stop), optional
        Parts of the prompt to name, such as ``{"image": (5, 581)}``.
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
        If the array does not fit, or holds a negative number.

    Examples
    --------
    >>> attention_on_keys(np.eye(3, 9), spans={"image": (2, 6)}).get_xlabel()
    'key'
    """
    numbers = checked("weights", weights, "[L, K]")
    if np.any(numbers < 0):
        raise ValueError(f"weights must be 0 or more, got {numbers.min()}")
    ax = axes(ax, 5.6, 3.4)
    scale = demand("matplotlib.colors").PowerNorm(
        _POWER, vmin=0, vmax=float(numbers.max(initial=0)) or 1.0
    )
    image = ax.imshow(numbers, cmap=AMOUNT, norm=scale, aspect="auto", interpolation="nearest")
    for start, stop in (spans or {}).values():
        for edge in {start, stop} - {0, numbers.shape[1]}:
            ax.axvline(edge - 0.5, color="white", linewidth=0.8, linestyle=":")
    name_spans(ax, spans or {})
    ax.set(xlabel="key", ylabel="layer")
    number_places(ax.yaxis, len(numbers))
    ax.set_title(title, pad=16 if spans else 6)
    colour_bar(ax, image, label, percent=percent)
    return ax
