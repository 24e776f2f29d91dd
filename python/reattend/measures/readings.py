"""Readings that change nothing: how much goes to sinks, and which heads react to the image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reattend.checks import integer, numbers, place, real
from reattend.policy import Array


class Divergence(NamedTuple):
    """How far each head moves when the image is taken away, see `head_divergence`."""

    divergence: Array  # VHD [..., H], the distance between both outputs
    text_activation: Array  # TA [..., H], squared norm of the text-only output
    limits: Array  # [..., 2], mean + standard deviation over the heads of both of these
    outlier: Array  # bool [..., H], above both limits: negative vision sensitivity
    median: Array  # [...], of the divergences, outliers at 0
    chosen: Array  # bool [..., H], above the median


def head_divergence(head_outputs: Array, text_outputs: Array) -> Divergence:
    """Compute the vision-aware head divergence of a layer, and which heads react to the image.

    Parameters
    ----------
    head_outputs : array [..., H, Dv]
        Outputs at the last prompt position, before the output projection.
    text_outputs : array [..., H, Dv]
        The same without the image.

    Returns
    -------
    Divergence
        In float64.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> text = np.zeros((3, 4))
    >>> image = text + np.array([[1.0], [2.0], [3.0]])
    >>> head_divergence(image, text).chosen.tolist()
    [False, False, True]
    """
    head_outputs = numbers("head_outputs", head_outputs, "[..., H, Dv]")
    text_outputs = numbers("text_outputs", text_outputs, "[..., H, Dv]")
    if head_outputs.shape != text_outputs.shape:
        raise ValueError(
            f"text_outputs must have the shape of head_outputs, {head_outputs.shape}, "
            f"got {text_outputs.shape}"
        )
    text = text_outputs.astype(np.float64)
    divergence = np.linalg.norm(head_outputs - text, axis=-1)  # [..., H]
    activation = (text**2).sum(-1)
    limits = np.stack([_limit(divergence), _limit(activation)], axis=-1)
    outlier = (divergence > limits[..., :1]) & (activation > limits[..., 1:])
    kept = np.where(outlier, 0, divergence)
    median = np.median(kept, axis=-1)
    return Divergence(divergence, activation, limits, outlier, median, kept > median[..., None])


def total_divergence(divergence: Array, k: int) -> Array:
    """Compute T-VHD: the k largest divergences of each layer, summed; low with hallucination.

    Parameters
    ----------
    divergence : array [L, ..., H]
        VHD of every layer, outliers not zeroed.
    k : int
        How many heads of a layer to count.

    Returns
    -------
    array [...]

    Raises
    ------
    ValueError
        If there are fewer than k heads.

    Examples
    --------
    >>> total_divergence(np.array([[1.0, 5.0, 3.0], [2.0, 0.0, 1.0]]), k=2)
    np.float64(11.0)
    """
    divergence, k = numbers("divergence", divergence, "[L, ..., H]"), integer("k", k)
    heads = divergence.shape[-1]
    if not 1 <= k <= heads:
        raise ValueError(f"k must be from 1 to {heads}, the heads of divergence, got {k}")
    return np.asarray(np.sort(divergence, axis=-1)[..., heads - k :].sum((0, -1)))[()]


def sink_rate(column_means: Array, key: int = 0, threshold: float = 0.3) -> Array:
    """Compute the share of heads whose mean attention on a key is above a threshold.

    When Attention Sink Emerges in Language Models: An Empirical View (Gu et al. 2025).

    Parameters
    ----------
    column_means : array [..., H, M]
        Column sums divided by the number of rows that may attend to each key.
    key : int, optional
        The key, the first one by default.
    threshold : float, optional
        The threshold; the comparison is strict.

    Returns
    -------
    array [...]

    Examples
    --------
    >>> sink_rate(np.array([[0.6, 0.4], [0.1, 0.9]]))
    np.float64(0.5)
    """
    column_means = numbers("column_means", column_means, "[..., H, M]")
    key = place("key", key, column_means.shape[-1], -column_means.shape[-1])
    return np.asarray((column_means[..., key] > real("threshold", threshold)).mean(-1))[()]


def _limit(values: Array) -> Array:
    """Mean + sample standard deviation over the heads; a single head has no deviation."""
    spread = values.std(-1, ddof=1) if values.shape[-1] > 1 else 0.0
    return np.asarray(values.mean(-1) + spread)
