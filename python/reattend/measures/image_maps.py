"""Attention on the patches of an image, as maps: what the question is about, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reattend.checks import count, integer, numbers, pair, pairs, real
from reattend.policy import Array


class Crop(NamedTuple):
    """A box of patches; the upper and left borders are inside, the others are not."""

    top: int
    left: int
    bottom: int
    right: int


def relative_map(weights: Array, generic: Array, lamb: float = 0.0) -> Array:
    r"""Compute what a question looks at beyond what any question looks at.

    .. code-block:: text

        A_question / (A_generic + lamb)

    With lamb = 0 the relative attention of MLLMs Know Where to Look: Training-free Perception of
    Small Visual Details with Multimodal LLMs (ICLR 2025), arXiv 2502.17422; above 0 that of
    Focusing by Contrastive Attention: Enhancing VLMs' Visual Reasoning (2025).

    Parameters
    ----------
    weights, generic : array [...]
        Attention of the last row on the patches: of the question, and of a generic one such as
        'Write a general description of the image.'
    lamb : float, optional
        Keeps patches of little attention from standing out.

    Returns
    -------
    array [...]
        0 where both are 0.

    Raises
    ------
    ValueError
        If shapes differ, or something would be divided by 0.

    Examples
    --------
    >>> relative_map(np.array([0.2, 0.4]), np.array([0.1, 0.4]))
    array([2., 1.])
    """
    weights, generic = numbers("weights", weights), numbers("generic", generic)
    if weights.shape != generic.shape:
        raise ValueError(
            f"generic must have the shape of weights, {weights.shape}, got {generic.shape}"
        )
    below = generic + real("lamb", lamb)
    if ((below == 0) & (weights != 0)).any():
        raise ValueError("generic must not be 0 where weights are not: give a lamb above 0")
    return np.asarray(weights / np.where(below == 0, 1, below))


def grounding_map(weights: Array, num_heads: int) -> Array:
    """Average the maps of the heads that look at the image most.

    Attention-driven GUI Grounding: Leveraging Pretrained Multimodal Large Language Models without
    Fine-Tuning (AAAI 2025).

    Parameters
    ----------
    weights : array [R, H, P]
        Attention on the patches, of the rows of the chosen prompt tokens and all heads (of all
        layers, on one axis).
    num_heads : int
        How many heads, those of the largest mean mass on the patches.

    Returns
    -------
    array [P]

    Raises
    ------
    ValueError
        If there are fewer heads.

    Examples
    --------
    >>> grounding_map(np.array([[[0.1, 0.1], [0.2, 0.6]]]), num_heads=1)
    array([0.2, 0.6])
    """
    weights, num_heads = numbers("weights", weights), integer("num_heads", num_heads)
    if weights.ndim != 3 or not 1 <= num_heads <= weights.shape[1]:
        raise ValueError(
            "weights must be [R, H, P] and num_heads from 1 to H, "
            f"got shape {weights.shape} and {num_heads}"
        )
    mass = weights.sum(-1).mean(0)
    chosen = np.argsort(-mass, kind="stable")[:num_heads]
    return np.asarray(weights[:, chosen].mean((0, 1)))


def best_crop(patches: Array, sizes: Sequence[tuple[int, int]]) -> Crop:
    """Find the box of an attention map that stands out most.

    For each size the box of the largest sum is taken; of these the one whose mean exceeds those of
    the boxes one patch beside it most.

    MLLMs Know Where to Look: Training-free Perception of Small Visual Details with Multimodal LLMs
    (ICLR 2025), arXiv 2502.17422.

    Parameters
    ----------
    patches : array [rows, columns]
        Such as `relative_map`, reshaped to the grid.
    sizes : sequence of (int, int)
        Rows and columns of the boxes to try.

    Returns
    -------
    Crop
        In patches.

    Raises
    ------
    ValueError
        If no size is given, or one does not fit.

    Examples
    --------
    >>> patches = np.zeros((6, 6))
    >>> patches[2:4, 1:3] = 1
    >>> best_crop(patches, [(2, 2), (3, 3)])
    Crop(top=2, left=1, bottom=4, right=3)
    """
    patches = numbers("patches", patches).astype(np.float64, copy=False)
    boxes = pairs("sizes", sizes, "pairs of rows and columns")
    if patches.ndim != 2 or not boxes:
        raise ValueError(
            f"patches must be [rows, columns] and sizes not empty, got {patches.shape} and {boxes}"
        )
    total = np.pad(patches, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    found, most = Crop(0, 0, 0, 0), -np.inf
    for height, width in boxes:
        if not (1 <= height <= patches.shape[0] and 1 <= width <= patches.shape[1]):
            raise ValueError(
                f"sizes must be from 1 to those of patches, {patches.shape}, got {(height, width)}"
            )
        sums = (
            total[height:, width:] - total[:-height, width:]
            - total[height:, :-width] + total[:-height, :-width]
        )  # fmt: skip
        top, left = (int(i) for i in np.unravel_index(sums.argmax(), sums.shape))
        beside = [
            sums[i, j]
            for i, j in ((top - 1, left), (top + 1, left), (top, left - 1), (top, left + 1))
            if 0 <= i < sums.shape[0] and 0 <= j < sums.shape[1]
        ]
        stands_out = (sums[top, left] - (np.mean(beside) if beside else 0)) / (height * width)
        if stands_out > most:
            found, most = Crop(top, left, top + height, left + width), float(stands_out)
    return found


def neighbour_rings(weights: Array, grid: tuple[int, int]) -> Array:
    """Compute the mean weight between patches, by how many steps apart they are on the grid.

    Ring k of a patch are those k steps away, diagonal steps allowed.

    How Does Attention Work in Vision Transformers? A Visual Analytics Attempt (2023).

    Parameters
    ----------
    weights : array [..., P, P]
        Attention among the patches.
    grid : (int, int)
        Rows and columns; P is their product.

    Returns
    -------
    array [..., number of rings]
        From ring 0, the patch itself.

    Raises
    ------
    ValueError
        If the grid does not fit.

    Examples
    --------
    >>> neighbour_rings(np.array([[0.6, 0.4], [0.2, 0.8]]), (1, 2))
    array([0.7, 0.3])
    """
    weights = numbers("weights", weights)
    rows, columns = (count("grid", n, 1) for n in pair("grid", grid, "rows and columns"))
    if weights.shape[-2:] != (rows * columns, rows * columns):
        raise ValueError(
            f"weights must be [..., P, P] with P = {rows * columns} of grid, got shape "
            f"{weights.shape}"
        )
    row, column = np.divmod(np.arange(rows * columns), columns)
    ring = np.maximum(np.abs(row[:, None] - row), np.abs(column[:, None] - column))
    return np.stack([weights[..., ring == k].mean(-1) for k in range(max(rows, columns))], axis=-1)
