"""Which layers and heads can do with few keys: SimLayerKV's lazy layers, Task-KV's distances."""

from __future__ import annotations

import numpy as np

from reattend.cache.selection.scores import highest
from reattend.checks import count as counted
from reattend.checks import numbers
from reattend.policy import Array


def lazy_share(weights: Array, *, sinks: int = 4, recent: int = 1024) -> Array:
    """Give how much of a layer's attention its first and its latest keys have, as SimLayerKV does.

    A layer in which that is above a threshold is lazy: it keeps `streaming` keys, and others keep
    all. SimLayerKV: A Simple Framework for Layer-Level KV Cache Reduction (2024), arXiv 2410.13846.

    Parameters
    ----------
    weights : array [..., H, M]
        Of the last row of a layer, or of several layers, see `reattend.measures.attention_rows`.
    sinks, recent : int, optional
        How many of the first and of the latest keys; a key that is both counts once.

    Returns
    -------
    array [...]
        The mean over heads, float64.

    Raises
    ------
    TypeError, ValueError
        If shapes or numbers do not fit.

    Examples
    --------
    >>> lazy_share(np.array([[0.5, 0.1, 0.1, 0.3]]), sinks=1, recent=1)
    np.float64(0.8)
    """
    weights = numbers("weights", weights, "[..., H, M]").astype(np.float64)
    sinks, recent = counted("sinks", sinks, 0), counted("recent", recent, 0)
    if not weights.shape[-2]:
        raise ValueError(f"weights must have at least one head, got shape {weights.shape}")
    place = np.arange(weights.shape[-1])
    near = (place < sinks) | (place >= weights.shape[-1] - recent)
    return np.asarray(weights[..., near].sum(-1).mean(-1))[()]


def centre_distance(head_outputs: Array) -> Array:
    """Give how far each head's output lies from the mean of the layer's heads, as Task-KV does.

    The farthest heads keep all keys, others those of `sinks_recent_middle`. Distances are
    Euclidean. Task-KV: Task-aware KV Cache Optimization via Semantic Differentiation of Attention
    Heads (2025), arXiv 2501.15113.

    Parameters
    ----------
    head_outputs : array [..., H, Dv]
        Of the last row of a prompt.

    Returns
    -------
    array [..., H]
        float64.

    Raises
    ------
    TypeError, ValueError
        If they are no such numbers.

    Examples
    --------
    >>> centre_distance(np.array([[0.0, 0.0], [0.0, 2.0]]))
    array([1., 1.])
    """
    outputs = numbers("head_outputs", head_outputs, "[..., H, Dv]").astype(np.float64)
    if not outputs.shape[-2]:
        raise ValueError(f"head_outputs must have at least one head, got shape {outputs.shape}")
    return np.asarray(np.linalg.norm(outputs - outputs.mean(-2, keepdims=True), axis=-1))


def sinks_recent_middle(
    scores: Array, *, sinks: int = 4, recent: int = 256, middle: int = 64
) -> Array:
    """Give the first keys, the latest, and of those between the ones of the highest scores.

    What a head near the centre keeps in Task-KV, see `centre_distance`, and what A-VL keeps of text
    with no sinks.

    Parameters
    ----------
    scores : array [..., M]
        Such as those of `window_scores`.
    sinks, recent, middle : int, optional
        How many of each; where there are fewer keys all are kept.

    Returns
    -------
    array of int [..., at most sinks + recent + middle]
        For `KVCache.keep`, in the order in which they lie.

    Raises
    ------
    TypeError, ValueError
        If a number is no integer from 0.

    Examples
    --------
    >>> sinks_recent_middle(np.array([0.0, 1.0, 3.0, 2.0, 0.0]), sinks=1, recent=1, middle=1)
    array([0, 2, 4])
    """
    scores = numbers("scores", scores, "[..., M]").astype(np.float64)
    num_keys = scores.shape[-1]
    sinks, recent = counted("sinks", sinks, 0), counted("recent", recent, 0)
    middle = counted("middle", middle, 0)
    place = np.arange(num_keys)
    ends = (place < sinks) | (place >= num_keys - recent)
    total = min(num_keys, int(ends.sum()) + middle)
    return highest(np.where(ends, np.inf, scores), total)
