"""Hidden states of unusual size and direction: massive activations, cosine sinks, alignment."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from reattend.checks import integer, marks, numbers, real
from reattend.policy import Array


class MassiveActivations(NamedTuple):
    """What `massive_activations` finds."""

    top: Array  # [..., k], the largest absolute values, falling
    places: Array  # int [..., k, 2], the token and the dimension of each
    median: Array  # [...], of all absolute values
    massive: Array  # bool [..., k], which of the top are massive activations


def massive_activations(
    hidden_states: Array, *, k: int = 3, at_least: float = 100.0, times: float = 1000.0
) -> MassiveActivations:
    """Find the largest activations of each layer, and which of them are massive.

    Massive Activations in Large Language Models (COLM 2024), arXiv 2402.17762: larger than 100
    and at least about 1000 times the median, in magnitude.

    Parameters
    ----------
    hidden_states : array [..., N, C]
        Of a layer, or of several.
    k : int, optional
        How many to report.
    at_least, times : float, optional
        The criterion: above the first, and at least the second times the median.

    Returns
    -------
    MassiveActivations

    Raises
    ------
    ValueError
        If there are fewer than k numbers.

    Examples
    --------
    >>> states = np.full((4, 8), 0.1)
    >>> states[0, 5] = -200
    >>> found = massive_activations(states, k=2)
    >>> found.massive.tolist(), found.places[0].tolist()
    ([True, False], [0, 5])
    """
    states, k = numbers("hidden_states", hidden_states), integer("k", k)
    if states.ndim < 2 or not 1 <= k <= states.shape[-1] * states.shape[-2]:
        raise ValueError(
            "hidden_states must be [..., N, C] with at least k numbers, "
            f"got shape {states.shape} and k = {k}"
        )
    size = np.abs(
        states.reshape(*states.shape[:-2], prod(states.shape[-2:])).astype(np.float32, copy=False)
    )
    order = np.argpartition(-size, k - 1, axis=-1)[..., :k]
    top = np.take_along_axis(size, order, -1)
    falling = np.argsort(-top, axis=-1, kind="stable")
    top, order = np.take_along_axis(top, falling, -1), np.take_along_axis(order, falling, -1)
    median = np.asarray(np.median(size, axis=-1))
    massive = (top > real("at_least", at_least)) & (top >= real("times", times) * median[..., None])
    places = np.stack(np.divmod(order, states.shape[-1]), axis=-1)
    return MassiveActivations(top, places, median, massive)


def cosine_to_first(hidden_states: Array) -> Array:
    """Compute how much each token's state points where the first one's does.

    Mitigating Attention Sinks and Massive Activations in Audio-Visual Speech Recognition with LLMs
    (2025): tokens close to 1 are intermediate sinks.

    Parameters
    ----------
    hidden_states : array [..., N, C]
        Of a layer.

    Returns
    -------
    array [..., N]
        float64; NaN for a state that is 0.

    Examples
    --------
    >>> cosine_to_first(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
    array([1., 1., 0.])
    """
    unit = _unit(numbers("hidden_states", hidden_states, "[..., N, C]"))
    return np.asarray((unit * unit[..., :1, :]).sum(-1))


def modality_alignment(hidden_states: Array, image: Array) -> Array:
    """Compute the mean cosine between states of image tokens and of text tokens.

    Implicit Multimodal Alignment: On the Generalization of Frozen LLMs to Multimodal Inputs
    (NeurIPS 2024), arXiv 2405.16700: a low score goes with hallucination. It is the mean over all
    pairs, computed as the product of two mean unit vectors.

    Parameters
    ----------
    hidden_states : array [..., N, C]
        Of a layer, or of several.
    image : array of bool [N]
        The image tokens.

    Returns
    -------
    array [...]
        float64.

    Raises
    ------
    ValueError
        If image does not mark some tokens and leave some.

    Examples
    --------
    >>> states = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> modality_alignment(states, np.array([False, False, True])).round(3)
    np.float64(0.707)
    """
    states = numbers("hidden_states", hidden_states, "[..., N, C]")
    image = marks("image", image, "[N] of hidden_states", states.shape[-2:-1])
    if image.all() or not image.any():
        raise ValueError(
            f"image must mark some tokens, not all, got {int(image.sum())} of {len(image)} marked"
        )
    unit = _unit(states)
    return np.asarray((unit[..., image, :].mean(-2) * unit[..., ~image, :].mean(-2)).sum(-1))[()]


def _unit(states: Array) -> Array:
    states = states.astype(np.float64, copy=False)
    norm = np.linalg.norm(states, axis=-1, keepdims=True)
    return np.asarray(states / np.where(norm == 0, np.nan, norm))
