"""What the pictures share: axes, and colours that stay apart in grey and for the colour-blind."""

from __future__ import annotations

import builtins
from typing import Any

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


def heat(ax: Any, values: Array, *, colours: str, low: float, high: float, label: str) -> Any:
    """Draw layers x heads with a colour bar, and give its axes."""
    ticker = demand("matplotlib.ticker")
    image = ax.imshow(
        values, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    for axis, count in ((ax.xaxis, values.shape[1]), (ax.yaxis, values.shape[0])):
        axis.set_major_locator(ticker.MaxNLocator(min(count, 10), integer=True))
    bar = ax.figure.colorbar(image, ax=ax, label=label)
    bar.outline.set_visible(False)
    return ax


def checked(name: str, values: Any, shape: str) -> Array:
    """Give numbers with axes such as "[L, H]" as float64, or say what came."""
    return numbers(name, values, shape).astype(float)
