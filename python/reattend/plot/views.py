"""A picture that a model saw in several views: an overview and tiles, laid on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from reattend.plot.style import checked
from reattend.policy import Array


class View(NamedTuple):
    """What one part of an image's tokens shows of the picture.

    Examples
    --------
    >>> View((24, 24)).box
    (0.0, 0.0, 1.0, 1.0)
    """

    grid: tuple[int, int]  # rows and columns of its tokens
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)  # left, top, right, bottom


def tiles(rows: int, columns: int, grid: tuple[int, int]) -> list[View]:
    """Give the views of a picture that is cut into tiles, row by row.

    Parameters
    ----------
    rows, columns : int
        How many tiles there are.
    grid : (rows, columns)
        Of the tokens of one tile.

    Returns
    -------
    list of View
        InternVL's has its overview behind: `[*tiles(2, 3, (16, 16)), View((16, 16))]`. LLaVA-NeXT's
        has it before, and the rows of its tiles go through: `[View((24, 24)), View((48, 48))]`.

    Examples
    --------
    >>> tiles(1, 2, (16, 16))[1].box
    (0.5, 0.0, 1.0, 1.0)
    """
    return [
        View(grid, (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows))
        for row in range(rows)
        for column in range(columns)
    ]


def join_views(
    weights: Any, views: Sequence[View], *, grid: tuple[int, int] | None = None
) -> Array:
    """Lay attention on the tokens of several views on one grid over the picture.

    Parameters
    ----------
    weights : array [K]
        Attention on each image token, view after view.
    views : sequence of View
        Which tokens show what.
    grid : (rows, columns), optional
        To lay it on; by default as fine as the finest view.

    Returns
    -------
    array [rows, columns]
        A token's attention is shared by the cells that it covers, in proportion: sums stay.

    Raises
    ------
    ValueError
        If the views do not hold the tokens, or lie outside the picture.

    Examples
    --------
    >>> join_views([0.4, 0.1, 0.2, 0.0, 0.3], [View((1, 1)), View((2, 2))]).round(2).tolist()
    [[0.2, 0.3], [0.1, 0.4]]
    """
    numbers = checked("weights", weights, "[K]")
    counts = [rows * columns for (rows, columns), _ in views]
    if sum(counts) != len(numbers):
        raise ValueError(
            f"views must hold {len(numbers)} image tokens, got {' + '.join(map(str, counts))}"
        )
    for view in views:
        left, top, right, bottom = view.box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(f"a view's box must lie in the picture, 0 to 1, got {view.box}")
    rows, columns = grid or (
        max(ceil(v.grid[0] / (v.box[3] - v.box[1]) - 1e-9) for v in views),
        max(ceil(v.grid[1] / (v.box[2] - v.box[0]) - 1e-9) for v in views),
    )
    out = np.zeros((rows, columns))
    for view, part in zip(views, np.split(numbers, np.cumsum(counts)[:-1]), strict=True):
        left, top, right, bottom = view.box
        down = _covered(view.grid[0], top, bottom, rows)
        across = _covered(view.grid[1], left, right, columns)
        out += down @ part.reshape(view.grid) @ across.T
    return out


def _covered(tokens: int, begin: float, end: float, cells: int) -> Array:
    """Give the share of each token that lies in each cell [cells, tokens], along one side."""
    edges = np.linspace(begin, end, tokens + 1) * cells
    cell = np.arange(cells)[:, None]
    shared = np.minimum(edges[1:], cell + 1) - np.maximum(edges[:-1], cell)
    return np.asarray(shared.clip(0) / (edges[1] - edges[0]))
