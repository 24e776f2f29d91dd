"""Attention over the picture that a model saw, as a whole or word by word."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import isqrt
from typing import Any

import numpy as np

from reattend.optional import demand
from reattend.plot.style import AMOUNT, axes, checked, checked_picture, colour_bar, new_figure
from reattend.plot.views import View, join_views
from reattend.recording import Recording

_PALEST = 0.85  # of the map, where attention is highest


def grid_of(tokens: int, grid: tuple[int, int] | None = None) -> tuple[int, int]:
    """Give rows and columns of an image's tokens; a square by default.

    Parameters
    ----------
    tokens : int
        How many there are.
    grid : (rows, columns), optional
        What the user says.

    Raises
    ------
    ValueError
        If they do not hold the tokens.

    Examples
    --------
    >>> grid_of(576)
    (24, 24)
    """
    side = isqrt(tokens)
    rows, columns = grid or (side, side)
    if rows * columns != tokens:
        raise ValueError(
            f"grid must hold {tokens} image tokens, got {rows} x {columns}"
            + ("" if grid else "; pass grid=(rows, columns)")
        )
    return rows, columns


def attention_on_picture(
    weights: Any,
    picture: Any = None,
    *,
    grid: tuple[int, int] | None = None,
    views: Sequence[View] = (),
    sinks: Collection[int] = (),
    percent: bool = False,
    title: str = "",
    ax: Any = None,
) -> Any:
    """Draw attention on an image's tokens over the picture, visual sinks framed.

    Parameters
    ----------
    weights : Recording, or array [K]
        Attention on each image token; of a recording the mean over rows, layers and heads, with
        its picture, grid and sinks.
    picture : uint8 array [height, width, 3], optional
        What the model saw.
    grid : (rows, columns), optional
        Of the image's tokens; a square by default.
    views : sequence of View, optional
        Where the model saw the picture in parts, such as an overview and tiles: `join_views` lays
        them on one grid, on which no sinks are framed.
    sinks : collection of int, optional
        Image tokens to frame.
    percent : bool, optional
        Whether the colour bar has percentages.
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
    >>> attention_on_picture(np.arange(6) / 15, grid=(2, 3), sinks=[5], title="map").get_title()
    'map'
    """
    if isinstance(weights, Recording):
        made = weights
        weights = made.attention.astype(float).mean((0, 1, 2))
        picture = made.picture if picture is None else picture
        grid = grid or (None if views else made.grid)
        sinks = sinks or ([] if views else visual_sinks(made))
    if views and sinks:
        raise ValueError("sinks are tokens of one view: pass sinks or views, not both")
    if views:
        laid = join_views(weights, views, grid=grid)
        weights, grid = laid.ravel(), (laid.shape[0], laid.shape[1])
    numbers = checked("weights", weights, "[K]")
    rows, columns = grid_of(len(numbers), grid)
    if any(not 0 <= sink < len(numbers) for sink in sinks):
        raise ValueError(f"sinks must be image tokens from 0 to {len(numbers) - 1}, got {sinks}")
    ax = axes(ax, 3.6, 3.2)
    high = float(numbers.max(initial=0)) or 1.0
    extent, alpha = (-0.5, columns - 0.5, rows - 0.5, -0.5), None
    if picture is not None:
        grey = checked_picture(picture).mean(-1, keepdims=True).repeat(3, -1) / 255
        ax.imshow(grey, extent=extent, interpolation="bilinear")
        alpha = np.clip(0.1 + numbers.reshape(rows, columns) / high, 0, _PALEST)
    image = ax.imshow(numbers.reshape(rows, columns), cmap=AMOUNT, vmin=0, vmax=high, alpha=alpha,
                      extent=extent, interpolation="nearest")  # fmt: skip
    rectangle = demand("matplotlib.patches").Rectangle
    for sink in sinks:
        row, column = divmod(sink, columns)
        for colour, width in (("black", 3.0), ("white", 1.4)):  # seen on dark and on light
            ax.add_patch(rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=colour,
                                   linewidth=width))  # fmt: skip
    if picture is not None:
        ax.set_aspect(picture.shape[0] / picture.shape[1] * columns / rows)
    ax.set_axis_off()
    ax.set_title(title)
    label = f"attention on a {'cell' if views else 'token'}"
    colour_bar(ax, image, label, percent=percent, shrink=0.8)
    return ax


def attention_by_word(
    recording: Recording, *, words: Sequence[int] | None = None, columns: int = 4
) -> Any:
    """Draw attention over the picture once for each word of an answer.

    Parameters
    ----------
    recording : Recording
        With words; its picture and grid are used.
    words : sequence of int, optional
        Which rows of the answer; all by default.
    columns : int, optional
        How many stand side by side.

    Returns
    -------
    array of matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If there are no words.

    Examples
    --------
    >>> made = Recording(np.ones((2, 1, 1, 4)) / 4, np.zeros((2, 1, 1)), np.zeros((1, 4)),
    ...                  np.ones(4), words=("a", "cat"))
    >>> [at.get_title() for at in attention_by_word(made)]
    ['a', 'cat']
    """
    if not recording.words:
        raise ValueError("recording must have words, got none: recording.with_words([...])")
    chosen = range(len(recording.words)) if words is None else words
    count = max(1, min(columns, len(chosen)))
    lines = -(-len(chosen) // count)
    figure = new_figure(2.6 * count, 2.3 * lines)
    made = []
    for place, row in enumerate(chosen):
        at = figure.add_subplot(lines, count, place + 1)
        weights = recording.attention[row].astype(float).mean((0, 1))
        made.append(
            attention_on_picture(
                weights, recording.picture, grid=recording.grid, sinks=visual_sinks(recording),
                title=recording.words[row].strip() or repr(recording.words[row]), ax=at,
            )
        )  # fmt: skip
    return np.array(made)


def visual_sinks(recording: Recording) -> list[int]:
    """Give the image tokens that are sinks in any layer but the first two and the last.

    Parameters
    ----------
    recording : Recording
        With the states' sinks.

    Examples
    --------
    >>> made = Recording(np.zeros((0, 4, 1, 2)), np.zeros((0, 4, 1)), np.eye(4, 3, -1),
    ...                  [False, True, True])
    >>> visual_sinks(made)
    [0]
    """
    middle: Any = recording.sinks[2 : max(3, len(recording.sinks) - 1)]
    return np.flatnonzero(middle[:, recording.image].any(0)).tolist()
