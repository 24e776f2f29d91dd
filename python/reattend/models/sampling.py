"""Chooses the next token from logits."""

from __future__ import annotations

import numpy as np

from reattend.policy import Array


def choose(logits: Array, temperature: float, top_p: float, rng: np.random.Generator) -> Array:
    """Choose the next token of each item: the likeliest, or at random if temperature is above 0.

    Parameters
    ----------
    logits : array [B, V]
        Of the last token.
    temperature : float
        Divides the logits; 0 takes the likeliest token.
    top_p : float
        Sample among the fewest tokens that have at least this probability together.
    rng : numpy.random.Generator
        Where chance comes from.

    Returns
    -------
    int array [B]

    Raises
    ------
    ValueError
        If temperature is negative, or top_p not above 0 and at most 1.

    Examples
    --------
    >>> choose(np.array([[0.0, 2.0, 1.0]]), 0.0, 1.0, np.random.default_rng(0))
    array([1])
    """
    if not 0 <= temperature < np.inf:
        raise ValueError(f"temperature must be 0 or a positive number, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    if temperature == 0:
        return np.asarray(logits.argmax(-1))
    order = np.argsort(-logits, axis=-1, kind="stable")
    scores = np.take_along_axis(logits, order, axis=-1).astype(np.float64)
    # Dividing first would overflow at a tiny temperature; this way the likeliest is always exp(0).
    likely = np.exp(np.maximum((scores - scores[:, :1]) / temperature, -1e3))
    likely /= likely.sum(-1, keepdims=True)
    before = np.cumsum(likely, axis=-1) - likely
    ends = np.cumsum(np.where(before < top_p, likely, 0), axis=-1)  # the likeliest always stays
    drawn = (ends <= rng.random((len(logits), 1)) * ends[:, -1:]).sum(-1, keepdims=True)
    chosen: Array = np.take_along_axis(order, drawn, axis=-1)[:, 0]
    return chosen
