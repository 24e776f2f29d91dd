"""Sink dimensions of a model, from the hidden states that enter its layers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from reattend.policy import Array
from reattend.sinks import sink_dims


def find_sink_dims(hidden_states: Iterable[Array]) -> tuple[int, ...]:
    """Find a model's sink dimensions: those that any layer shows on the first token.

    Known ones are in `reattend.sinks.PUBLISHED_SINK_DIMS`.

    Parameters
    ----------
    hidden_states : iterable of array [B, N, C]
        What enters each layer, of prompts without padding; such as an answerer's
        ``hidden_states(case)``.

    Returns
    -------
    tuple of int
        The one that most layers show first; empty if none is massive.

    Examples
    --------
    >>> states = np.full((3, 1, 2, 4), 0.1)
    >>> states[1:, 0, 0, 3] = states[2, 0, 0, 1] = 2000.0
    >>> find_sink_dims(states)
    (3, 1)
    """
    counts: Array = np.zeros(0, np.intp)
    for states in hidden_states:
        found = sink_dims(states).sum(0)
        counts = found if not counts.size else counts + found
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    return tuple(order.tolist())
