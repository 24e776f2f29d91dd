"""What the pictures share: axes, and colours that stay apart in grey and for the colour-blind."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

import numpy as np

from reattend.checks import numbers
from reattend.optional import demand
from reattend.policy import Array

# Okabe and Ito's colours, in an order of rising lightness in grey, with a hatch and a line each.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "++", "--")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
AMOUNT = "viridis"  # its lightness rises with the number
CHANGE = "cividis"  # dark is less, light is more, also in grey


def axes(ax: Any, width: float = 4.5, height: float = 3.2) -> Any:
    """Give the axes to draw on: those given, or those of a new figure."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def new_figure(width: float, height: float) -> Any:
    """Give a figure: in IPython pyplot's, which a notebook shows, else one without global state."""
    if hasattr(builtins, "__IPYTHON__"):
        pyplot = demand("matplotlib.pyplot")
        return pyplot.figure(figsize=(width, height), layout="constrained")
    figure = demand("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    demand("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    return figure


def heat(
    ax: Any, values: Array, *, colours: str, low: float, high: float, label: str,
    percent: bool = False,
) -> Any:  # fmt: skip
    """Draw layers x heads with a colour bar, and give its axes."""
    image = ax.imshow(
        values, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    for axis, count in ((ax.xaxis, values.shape[1]), (ax.yaxis, values.shape[0])):
        number_places(axis, count)
    colour_bar(ax, image, label, percent=percent)
    return ax


def number_places(axis: Any, count: int) -> None:
    """Number the layers or heads along an axis, some of them if there are many."""
    axis.set_major_locator(demand("matplotlib.ticker").MaxNLocator(min(count, 10), integer=True))


def colour_bar(
    ax: Any, image: Any, label: str, *, percent: bool = False, shrink: float = 1.0
) -> None:
    """Put a bar beside a map that says what its colours are, as shares or in percent."""
    bar = ax.figure.colorbar(image, ax=ax, label=label, alpha=1, shrink=shrink)
    bar.outline.set_visible(False)
    if percent:
        low, high = image.get_clim()
        decimals = 0 if high - low > 0.08 else 1 if high - low > 0.008 else 2
        bar.formatter = demand("matplotlib.ticker").PercentFormatter(1, decimals=decimals)
        bar.update_ticks()


def name_spans(ax: Any, spans: Mapping[str, tuple[int, int]]) -> None:
    """Write the names of spans of keys above the axes, each over the middle of its keys."""
    for name, (start, stop) in spans.items():
        ax.text((start + stop - 1) / 2, 1.01, name, transform=ax.get_xaxis_transform(),
                ha="center", va="bottom", fontsize=8)  # fmt: skip


def checked(name: str, values: Any, shape: str) -> Array:
    """Give numbers with axes such as "[L, H]" as float64, or say what came."""
    return numbers(name, values, shape).astype(float)


def checked_picture(picture: Array) -> Array:
    """Give a picture that is uint8 [height, width, 3], or say what came."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"picture must be uint8 [height, width, 3], got {picture.dtype} {picture.shape}"
        )
    return picture
