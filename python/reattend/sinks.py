"""Where attention sinks are: massive activations, the sink score of a token, sinks of a column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reattend import _core
from reattend.border import arguments
from reattend.checks import as_array, integers, marks, numbers, real
from reattend.deprecated import renamed_names
from reattend.policy import Array

__all__ = [
    "column_sinks",
    "massive_activations",
    "sink_dims",
    "sink_score",
    "sink_tokens",
    "update_column_sinks",
]

MASSIVE = 100.0  # Sun et al. 2024: a magnitude above this
MASSIVE_RATIO = 1000.0  # and above this many times the median magnitude
# D_sink as published (See What You Are Told, arXiv 2503.03321): of the language model, so of every
# vision-language model that is built on it.
PUBLISHED_SINK_DIMS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("llama-2-7b", "vicuna-7b", "llava-1.5-7b"), (1415, 2533)),
    **dict.fromkeys(("llama-2-13b", "vicuna-13b", "llava-1.5-13b"), (2100, 4743)),
}
_EPSILON = 1e-6  # of the root mean square norm


def massive_activations(hidden_states: Array, key_mask: Array | None = None) -> Array:
    """Find activations above 100 that are above 1000 times the median magnitude of their prompt.

    Massive Activations in Large Language Models (Sun et al. 2024).

    Parameters
    ----------
    hidden_states : array [B, N, C]
        States between two layers, before any norm.
    key_mask : array of bool [B, N], optional
        False for padding, which has no activations.

    Returns
    -------
    array of bool [B, N, C]

    Examples
    --------
    >>> states = np.full((1, 2, 4), 0.1)
    >>> states[0, 0, 3] = -2000.0
    >>> np.argwhere(massive_activations(states))
    array([[0, 0, 3]])
    """
    states, key_mask = _states(hidden_states, key_mask)
    magnitude = np.abs(states)
    found = np.asarray(magnitude > MASSIVE)
    if key_mask is not None:
        found &= key_mask[..., None]
    for item in np.flatnonzero(np.any(found, axis=(1, 2))):  # a median takes long: few need one
        tokens = magnitude[item] if key_mask is None else magnitude[item][key_mask[item]]
        found[item] &= magnitude[item] > MASSIVE_RATIO * np.median(tokens)
    return found


def sink_dims(hidden_states: Array, key_mask: Array | None = None) -> Array:
    """Find a model's sink dimensions: those that are massive on the first token.

    They are the same in all layers that have them, but the first layers may not show them.

    Parameters
    ----------
    hidden_states : array [B, N, C]
        States of the whole prompt that enter a layer.
    key_mask : array of bool [B, N], optional
        False for padding.

    Returns
    -------
    array of bool [B, C]
        For each item; ``np.flatnonzero(dims[b])`` are their indices.

    Raises
    ------
    TypeError, ValueError
        If the states are no numbers [B, N, C], or there is no first token.

    Examples
    --------
    >>> states = np.full((1, 2, 4), 0.1)
    >>> states[0, 0, 3] = 2000.0
    >>> np.flatnonzero(sink_dims(states)[0])
    array([3])
    """
    states, key_mask = _states(hidden_states, key_mask)
    if not states.shape[1]:
        raise ValueError(f"hidden_states must have a first token, got shape {states.shape}")
    first: Any = 0 if key_mask is None else key_mask.argmax(-1)
    massive = massive_activations(states, key_mask)
    return np.asarray(massive[np.arange(len(massive)), first])


def sink_score(hidden_states: Array, sink_dims: Array | Sequence[int]) -> Array:
    """Compute phi: the largest root-mean-square-normalised magnitude in the sink dimensions.

    It is at most the square root of C.

    Parameters
    ----------
    hidden_states : array [B, N, C]
        States that enter a layer, before its norm.
    sink_dims : sequence of int, or array of bool [C] or [B, C]
        D_sink, of the model or of each item.

    Returns
    -------
    array [B, N]
        0 where an item has no sink dimension.

    Raises
    ------
    TypeError, ValueError
        If a dimension is not one of the C.

    Examples
    --------
    >>> states = np.array([[[0.0, 0.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]]])
    >>> sink_score(states, (3,)).round(3)
    array([[2., 1.]])
    """
    hidden_states = numbers("hidden_states", hidden_states, "[B, N, C]")
    chosen = _chosen(sink_dims, hidden_states)
    largest = np.zeros(hidden_states.shape[:-1])
    for dim in np.flatnonzero(chosen.any(0)).tolist():  # one at a time: read straight through
        magnitude = np.where(chosen[:, dim, None], np.abs(hidden_states[..., dim]), 0)
        largest = np.maximum(largest, magnitude)
    states = hidden_states.astype(np.promote_types(hidden_states.dtype, np.float32), copy=False)
    mean_square = np.einsum("...c,...c->...", states, states) / states.shape[-1]
    return np.asarray(largest / np.sqrt(mean_square + _EPSILON))


def sink_tokens(hidden_states: Array, sink_dims: Array | Sequence[int], tau: float) -> Array:
    """Find the tokens whose sink score phi is above tau.

    In float32. Few tokens are near it: of most, some channels already show that they are not.

    Parameters
    ----------
    hidden_states : array [B, N, C]
        States that enter a layer, before its norm.
    sink_dims : sequence of int, or array of bool [C] or [B, C]
        D_sink, of the model or of each item.
    tau : float
        The threshold; the comparison is strict.

    Returns
    -------
    array of bool [B, N]

    Raises
    ------
    TypeError, ValueError
        If a dimension is not one of the C.

    Examples
    --------
    >>> states = np.array([[[0.0, 0.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]]])
    >>> sink_tokens(states, (3,), tau=1.5).tolist()
    [[True, False]]
    """
    states = numbers("hidden_states", hidden_states, "[B, N, C]")
    states = arguments.readable(np.asarray(states, np.float32))
    found = np.empty(states.shape[:-1], dtype=bool)
    _core.sink_tokens(states, _chosen(sink_dims, states), real("tau", tau), _EPSILON, found)
    return found


def column_sinks(column_means: Array, theta: float) -> Array:
    """Find keys whose mean attention, over the rows that may see them, is above a threshold.

    Parameters
    ----------
    column_means : array [..., M]
        Column sums divided by the number of rows that may attend to each key.
    theta : float
        The threshold; the comparison is strict.

    Returns
    -------
    array of bool [..., M]

    Examples
    --------
    >>> column_sinks(np.array([0.5, 0.1, 0.2]), theta=0.1).tolist()
    [True, False, True]
    """
    return np.asarray(numbers("column_means", column_means, "[..., M]") > real("theta", theta))


def update_column_sinks(
    column_sums: Array,
    row_counts: Array,
    first_key: Array,
    theta: float,
    heads: Array | None = None,
    before: Array | None = None,
    known: Array | None = None,
) -> tuple[Array, Array]:
    """Add what keys receive to what they received before, and find the sinks among them.

    `column_sinks` of the means says which keys are sinks, in float32.

    Parameters
    ----------
    column_sums : float32 array [B, H, M]
        Of the newest rows.
    row_counts : int64 array [B, M]
        How many of these may attend to each key.
    first_key : int array [B]
        A key of each item that is no sink.
    theta : float
        The threshold; the comparison is strict.
    heads : bool array [H], optional
        The heads to follow, C of them; all by default.
    before : float32 array [B, C + 1, M' <= M], optional
        What this function gave for the rows before.
    known : uint8 array [B, H, L], optional
        Labels that this function gave, to be given again where sinks are the same.

    Returns
    -------
    received : array [B, C + 1, M]
        Sums over all rows, and last how many may attend to each key.
    labels : uint8 array [B, H, L]
        1 at sinks, up to the last of them.

    Raises
    ------
    TypeError, ValueError
        Naming the argument whose type or shape does not fit.

    Examples
    --------
    >>> sums, counts = np.array([[[2.0, 0.7, 0.3]]], np.float32), np.array([[3, 2, 1]])
    >>> received, labels = update_column_sinks(sums, counts, np.zeros(1, int), theta=0.2)
    >>> received[0].tolist()
    [[2.0, 0.699999988079071, 0.30000001192092896], [3.0, 2.0, 1.0]]
    >>> labels.tolist()
    [[[0, 1, 1]]]
    """
    theta = real("theta", theta)
    found = _core.column_sinks(column_sums, row_counts, heads, first_key, before, theta, known)
    if found is None:  # not as the core reads it
        sums = _contiguous(numbers("column_sums", column_sums, "[B, H, M]"), np.float32)
        row_counts = _contiguous(integers("row_counts", row_counts, "[B, M]"), np.int64)
        first_key = _contiguous(integers("first_key", first_key, "[B]"), np.int64)
        if heads is not None:
            heads = _contiguous(marks("heads", heads, "[H]"), bool)
        if before is not None:
            before = _contiguous(numbers("before", before, "[B, C + 1, M']"), np.float32)
        if known is not None:
            known = _contiguous(integers("known", known, "[B, H, L]"), np.uint8)
        found = _core.column_sinks(sums, row_counts, heads, first_key, before, theta, known)
        assert found is not None
    received, labels = found
    if labels is None:
        assert known is not None
        labels = known
    return received, labels


__getattr__ = renamed_names(
    __name__, {"follow_columns": ("update_column_sinks", update_column_sinks)}
)


def _states(hidden_states: Array, key_mask: Array | None) -> tuple[Array, Array | None]:
    states = numbers("hidden_states", hidden_states, "[B, N, C]")
    if key_mask is None:
        return states, None
    return states, marks("key_mask", key_mask, "[B, N]", states.shape[:2])


def _contiguous(array: Array, dtype: Any) -> Array:
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def _chosen(sink_dims: Array | Sequence[int], hidden_states: Array) -> Array:
    """Check sink dimensions; give them as bool [1 or B, C]."""
    dims, (batch, _, size) = as_array("sink_dims", sink_dims), hidden_states.shape
    if dims.dtype == bool:
        if dims.shape not in ((size,), (batch, size)):
            raise ValueError(
                f"sink_dims must be bool [C] or [B, C] = {(batch, size)}, got shape {dims.shape}"
            )
        return np.ascontiguousarray(dims.reshape(-1, size))
    if dims.ndim != 1 or (dims.size and dims.dtype.kind not in "iu"):
        raise TypeError(f"sink_dims must be integers or bool, got {dims.dtype} {dims.shape}")
    if any(not 0 <= dim < size for dim in dims.tolist()):
        raise ValueError(f"sink_dims must be from 0 to {size - 1}, got {dims.tolist()}")
    chosen = np.zeros((1, size), dtype=bool)
    chosen[0, dims.astype(np.intp)] = True
    return chosen
