"""Keys for rows that follow: SampleAttention's stripes, Recycled Attention's, and their masks."""

from __future__ import annotations

import numpy as np

from reattend.cache.selection.scores import highest
from reattend.checks import count as counted
from reattend.checks import integers, numbers, real
from reattend.policy import Array


def selection_bias(indices: Array, num_keys: int) -> Array:
    """Give a selection of keys as a bias, for attention on these alone with nothing evicted.

    Parameters
    ----------
    indices : array of int [B, H, K]
        The keys of each head, as `highest` gives them; a key that is named twice counts once.
    num_keys : int
        M.

    Returns
    -------
    array [B, H, 1, M]
        float32 for `reattend.attention`: 0 at the selected keys, -inf at others. Where the scores
        are of key heads, repeat it for the heads that share one.

    Raises
    ------
    TypeError, ValueError
        If they are no keys.

    Examples
    --------
    >>> selection_bias(np.array([[[0, 2]]]), 3)
    array([[[[  0., -inf,   0.]]]], dtype=float32)
    """
    indices = integers("indices", indices, "[B, H, K]")
    num_keys = counted("num_keys", num_keys, 0)
    if not ((indices >= 0) & (indices < num_keys)).all():
        raise ValueError(
            f"indices must be keys from 0 to {num_keys - 1}, got {indices.min()} to {indices.max()}"
        )
    bias = np.full((*indices.shape[:2], num_keys), -np.inf, np.float32)
    np.put_along_axis(bias, indices, 0, -1)
    return bias[:, :, None]


def stripes(weights: Array, share: float = 0.95) -> Array:
    """Give the fewest keys that hold a share of sampled rows' attention, as SampleAttention does.

    Beside a local window these columns are what its sparse prefill reads. SampleAttention:
    Near-Lossless Acceleration of Long Context LLM Inference with Adaptive Structured Sparse
    Attention (2024), arXiv 2406.15486.

    Parameters
    ----------
    weights : array [..., R, M]
        Of the sampled rows, see `reattend.measures.attention_rows`.
    share : float, optional
        Alpha, above 0 and at most 1.

    Returns
    -------
    array of bool [..., M]
        Of equal keys the first come first.

    Raises
    ------
    ValueError
        If share is out of its range.

    Examples
    --------
    >>> stripes(np.array([[0.6, 0.1, 0.3]]), 0.8)
    array([ True, False,  True])
    """
    weights, share = numbers("weights", weights, "[..., R, M]"), real("share", share)
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share!r}")
    total = weights.astype(np.float64).sum(-2)  # [..., M]
    order = np.argsort(-total, axis=-1, kind="stable")
    falling = np.take_along_axis(total, order, -1)
    before = np.cumsum(falling, -1) - falling
    chosen = np.zeros(total.shape, bool)
    whole = total.sum(-1, keepdims=True)
    np.put_along_axis(chosen, order, (before < share * whole) & (falling > 0), -1)
    return chosen


class Recycled:
    """Keys of a step, taken from the last step that read all of them, as Recycled Attention does.

    Full attention runs every so many steps, or once the query has turned away from that of the last
    full step; the steps between read the keys of the highest weights then, and those that came
    since. Recycled Attention: Efficient inference for long-context language models (2024),
    arXiv 2411.05787.

    Parameters
    ----------
    count : int
        How many keys each head takes from the full step.
    every : int, optional
        A full step at least every so many steps.
    similarity : float, optional
        A full step too where the mean cosine of a query with that of the last full step is below.

    Examples
    --------
    >>> recycled = Recycled(count=1, every=2)
    >>> query = np.ones((1, 1, 4))
    >>> recycled.keys(query, num_keys=3) is None  # the first step reads all
    True
    >>> recycled.note(query, np.array([[[0.2, 0.7, 0.1]]]))
    >>> recycled.keys(query, num_keys=4).tolist()
    [[[1, 3]]]
    """

    def __init__(self, count: int, *, every: int = 10, similarity: float | None = None) -> None:
        self.count, self.every = counted("count", count, 0), counted("every", every, 1)
        self.similarity = None if similarity is None else real("similarity", similarity)
        self._query: Array | None = None
        self._kept: Array | None = None
        self._length = 0
        self._steps = 0

    def keys(self, query: Array, num_keys: int) -> Array | None:
        """Give the keys of a step, or None where it is a full one.

        Parameters
        ----------
        query : array [B, H, D]
            Of the step.
        num_keys : int
            M, with the step's own.

        Returns
        -------
        array of int [B, H, K], or None
            None asks for full attention, and then for `note`.

        Raises
        ------
        TypeError, ValueError
            If they do not fit.

        Examples
        --------
        See the example of the class.
        """
        query = numbers("query", query, "[B, H, D]").astype(np.float64)
        num_keys = counted("num_keys", num_keys, 1)
        self._steps += 1
        if self._kept is None or self._query is None or self._steps >= self.every:
            return None
        if query.shape != self._query.shape or num_keys < self._length:
            raise ValueError(
                f"query must have the shape of the last full step's, {self._query.shape}, and "
                f"num_keys be at least {self._length}, got {query.shape} and {num_keys}"
            )
        if self.similarity is not None and _cosine(query, self._query) < self.similarity:
            return None
        since = np.arange(self._length, num_keys)
        since = np.broadcast_to(since, (*self._kept.shape[:2], len(since)))
        return np.concatenate([self._kept, since], axis=-1)

    def note(self, query: Array, weights: Array) -> None:
        """Take the keys of the highest weights of a full step.

        Parameters
        ----------
        query : array [B, H, D]
            Of the step.
        weights : array [B, H, M]
            Its attention.

        Raises
        ------
        TypeError, ValueError
            If they do not fit.

        Examples
        --------
        See the example of the class.
        """
        weights = numbers("weights", weights, "[B, H, M]")
        query = numbers("query", query, "[B, H, D]").astype(np.float64)
        if query.shape[:2] != weights.shape[:2]:
            raise ValueError(
                f"weights must have query's batch and heads, {query.shape[:2]}, got shape "
                f"{weights.shape}"
            )
        self._length, self._steps, self._query = weights.shape[-1], 0, query
        self._kept = highest(weights, min(self.count, self._length))


def _cosine(a: Array, b: Array) -> float:
    sizes = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / np.where(sizes > 0, sizes, 1)).mean())
