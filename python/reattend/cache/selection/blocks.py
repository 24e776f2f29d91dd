"""Keys by blocks that a caller gives: HiP's search down a tree, DHSA's chunks."""

from __future__ import annotations

import numpy as np

from reattend.cache.selection.row import row_and_keys
from reattend.checks import count as counted
from reattend.checks import integers
from reattend.policy import Array


def chunk_scores(query: Array, key: Array, starts: Array) -> Array:
    r"""Score chunks of keys for a row, and give each key its chunk's score, as DHSA does.

    .. code-block:: text

        s_j = q . (sqrt(n_c) mean of the keys of chunk c)        j in c, n_c keys

    Where the chunks begin is learnt in the paper; here a caller says it. Long-Context Modeling with
    Dynamic Hierarchical Sparse Attention for On-Device LLMs (2025).

    Parameters
    ----------
    query : array [B, H, D]
        Of one row, or of a chunk of rows: sqrt(n) times their mean.
    key : array [B, H_kv, M, D]
        The keys.
    starts : array of int [C]
        Where each chunk begins, rising from 0.

    Returns
    -------
    array [B, H, M]
        float64, for `highest` and `selection_bias`.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, or the chunks do not rise from 0.

    Examples
    --------
    >>> key = np.array([1.0, 3.0, 5.0]).reshape(1, 1, 3, 1)
    >>> chunk_scores(np.ones((1, 1, 1)), key, np.array([0, 2])).round(2)
    array([[[2.83, 2.83, 5.  ]]])
    """
    query, key = row_and_keys(query, key)
    starts = integers("starts", starts, "[C]")
    num_keys = key.shape[2]
    if not len(starts) or starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= num_keys:
        raise ValueError(
            f"starts must rise from 0 and stay below {num_keys}, the keys, got {starts.tolist()}"
        )
    length = np.diff(np.append(starts, num_keys))
    sums = np.add.reduceat(key.astype(np.float64), starts, axis=2)  # [B, H_kv, C, D]
    chunks = sums / np.sqrt(length)[:, None]
    return np.repeat(_products(query, chunks), length, axis=-1)


def tree_keys(query: Array, key: Array, *, keep: int, block: int) -> Array:
    """Search for a row's keys down a tree of ranges, as HiP Attention does.

    The keys are cut into ``keep`` ranges. Each is halved, the halves are scored by the key in their
    middle, and the ``keep`` best go on, until none is longer than a block. All keys of these are
    given. HiP Attention: Sparse Sub-Quadratic Attention with Hierarchical Attention Pruning
    (ICLR 2025), arXiv 2406.09827.

    Parameters
    ----------
    query : array [B, H, D]
        Of one row, or the mean of a block of rows.
    key : array [B, H_kv, M, D]
        The keys.
    keep : int
        How many ranges go on.
    block : int
        How long they may be at last.

    Returns
    -------
    array of int [B, H, K]
        For `selection_bias`, rising; where ranges are of unequal length the last key of the last
        one is named again. All keys where there are no more than ``keep`` blocks.

    Raises
    ------
    TypeError, ValueError
        If shapes or numbers do not fit.

    Examples
    --------
    >>> key = np.array([0.0, 1, 2, 9, 0, 0, 0, 0]).reshape(1, 1, 8, 1)
    >>> tree_keys(np.ones((1, 1, 1)), key, keep=1, block=2).tolist()
    [[[2, 3]]]
    """
    query, key = row_and_keys(query, key)
    keep, block = counted("keep", keep, 1), counted("block", block, 1)
    batch, heads, num_keys = query.shape[0], query.shape[1], key.shape[2]
    if num_keys <= keep * block:
        return np.broadcast_to(np.arange(num_keys), (batch, heads, num_keys)).copy()
    edges = np.linspace(0, num_keys, keep + 1).astype(np.int64)
    ranges = np.broadcast_to(np.stack([edges[:-1], edges[1:]], -1), (batch, heads, keep, 2))
    key = np.repeat(key, heads // key.shape[1], axis=1)
    while (ranges[..., 1] - ranges[..., 0]).max() > block:
        middle = (ranges[..., 0] + ranges[..., 1]) // 2
        left = np.stack([ranges[..., 0], middle], -1)
        halves = np.concatenate([left, np.stack([middle, ranges[..., 1]], -1)], axis=2)
        size = halves[..., 1] - halves[..., 0]
        place = np.minimum((halves[..., 0] + halves[..., 1]) // 2, num_keys - 1)
        near = np.take_along_axis(key, place[..., None], 2).astype(np.float64)
        scores = np.where(size > 0, np.einsum("bhd,bhcd->bhc", query, near), -np.inf)
        best = np.argsort(-scores, axis=-1, kind="stable")[..., :keep]
        ranges = np.take_along_axis(halves, best[..., None], 2)
    return _keys_of(ranges)


def _keys_of(ranges: Array) -> Array:
    """Name all keys of ranges [B, H, C, 2], rising."""
    size = ranges[..., 1] - ranges[..., 0]
    offsets = np.arange(size.max())
    keys = ranges[..., :1] + offsets  # [B, H, C, longest]
    inside = offsets < size[..., None]
    last = np.where(inside, keys, -1).max((-1, -2), keepdims=True)
    flat = np.sort(np.where(inside, keys, last).reshape(*ranges.shape[:2], -1), axis=-1)
    return np.asarray(flat[..., : size.sum(-1).max()] if inside.all() else flat)


def _products(query: Array, key: Array) -> Array:
    """Give q . k of a row [B, H, D] with keys [B, H_kv, C, D], [B, H, C]."""
    grouped = query.reshape(query.shape[0], key.shape[1], -1, query.shape[2])
    return np.asarray((grouped @ key.swapaxes(-1, -2)).reshape(*query.shape[:2], -1))
