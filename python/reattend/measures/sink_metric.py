"""Sinks seen from a whole model: how many heads have one, and what it does to their values."""

from __future__ import annotations

import numpy as np

from reattend.border.arguments import broadcasts
from reattend.checks import integers, marks, numbers, real
from reattend.policy import Array


def sink_metric(column_sums: Array, row_counts: Array, threshold: float = 0.3) -> Array:
    r"""Compute, for every key, the share of heads in which it is a sink.

    .. code-block:: text

        metric_k = share of (sample, layer, head) with (1 / (N - k)) sum_{i >= k} a_ik > threshold

    When Attention Sink Emerges in Language Models: An Empirical View (ICLR 2025), arXiv 2410.10781;
    key 0 and a threshold of 0.8 give the sink rate of Why do LLMs attend to the first token?
    (2025), arXiv 2504.02732.

    Parameters
    ----------
    column_sums : array [..., H, M]
        What each key received, of `reattend.column_sums` or ``attention(returns="column_sums")``.
    row_counts : array of int that broadcasts to it
        How many rows may attend to each key; N - k for causal attention over N rows and keys.
    threshold : float, optional
        The comparison is strict.

    Returns
    -------
    array [M]
        Shares; NaN for keys that no row sees.

    Raises
    ------
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> sums = np.array([[2.0, 0.5, 0.5], [1.0, 1.0, 1.0]])
    >>> sink_metric(sums, np.array([3, 2, 1]))
    array([1. , 0.5, 1. ])
    """
    sums = numbers("column_sums", column_sums, "[..., M]")
    row_counts = integers("row_counts", row_counts, "[...]")
    if not broadcasts(row_counts.shape, sums.shape):
        raise ValueError(
            f"row_counts must broadcast to column_sums, {sums.shape}, got shape {row_counts.shape}"
        )
    counts = np.broadcast_to(row_counts, sums.shape)
    seen = counts > 0
    above = seen & (sums > real("threshold", threshold) * counts)
    axes = tuple(range(above.ndim - 1))
    with np.errstate(invalid="ignore"):
        return np.asarray(above.sum(axes) / np.where(seen.any(axes), seen.sum(axes), np.nan))


def dormant_heads(sink_mass: Array, threshold: float = 0.5) -> Array:
    """Say which heads are dormant: in the mean over the rows most attention is on the sink.

    Active-Dormant Attention Heads: Mechanistically Demystifying Extreme-Token Phenomena in LLMs
    (2024), arXiv 2410.13835.

    Parameters
    ----------
    sink_mass : array [..., N]
        Each row's attention on the sink, of `mass_by_segment`.
    threshold : float, optional
        The comparison is strict.

    Returns
    -------
    array of bool [...]

    Examples
    --------
    >>> dormant_heads(np.array([[0.9, 0.8], [0.2, 0.1]]))
    array([ True, False])
    """
    mass = numbers("sink_mass", sink_mass, "[..., N]")
    return np.asarray(np.mean(mass, axis=-1) > real("threshold", threshold))


def value_drain(value: Array, sinks: Array) -> Array:
    """Compute how small the values of sinks are: their mean norm over that of all other keys.

    Active-Dormant Attention Heads: Mechanistically Demystifying Extreme-Token Phenomena in LLMs
    (2024), arXiv 2410.13835: sinks' values are drained, far below 1.

    Parameters
    ----------
    value : array [B, H_kv, M, Dv]
        The values of a layer.
    sinks : array of bool [M] or [B, M]
        Which keys are sinks.

    Returns
    -------
    array [B, H_kv]
        float64; NaN where there is no sink, or nothing else.

    Raises
    ------
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> value = np.ones((1, 1, 4, 2))
    >>> value[:, :, 0] = 0.1
    >>> value_drain(value, np.array([True, False, False, False])).round(3)
    array([[0.1]])
    """
    value = numbers("value", value, "[B, H_kv, M, Dv]")
    sinks = marks("sinks", sinks, "[M] or [B, M]")
    if sinks.shape not in (value.shape[2:3], value.shape[::2]):
        raise ValueError(
            f"sinks must be bool [M] or [B, M] of value {value.shape}, got shape {sinks.shape}"
        )
    norms = np.sqrt(np.einsum("bhmd,bhmd->bhm", value, value, dtype=np.float64))
    marked = np.broadcast_to(sinks, value.shape[::2])[:, None]

    def mean(which: Array) -> Array:
        count = which.sum(-1)
        total = np.where(which, norms, 0).sum(-1)
        return np.asarray(total / np.where(count == 0, np.nan, count))

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(mean(marked) / mean(~marked))
