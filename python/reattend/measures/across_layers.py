"""Attention followed through layers: rollout and flow. These need the matrices of all layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from reattend.checks import numbers, place
from reattend.optional import demand
from reattend.policy import Array

MAX_ROLLOUT = 4096  # tokens: a matrix of 128 MiB in float64
MAX_FLOW = 256  # tokens: a flow for each of them, over a graph of L N^2 edges


def rollout(weights: Array) -> Array:
    r"""Compute attention rollout: how much of each input token reaches each output token.

    .. code-block:: text

        A'_l = (A_l + I) / row sum        R_0 = A'_0        R_l = A'_l R_(l-1)

    Quantifying Attention Flow in Transformers (ACL 2020), arXiv 2005.00928. It needs the matrix of
    every layer (`attention_rows` over all rows), heads averaged by the caller.

    Parameters
    ----------
    weights : array [L, N, N]
        Attention of each layer, from the first.

    Returns
    -------
    array [N, N]
        float64; rows sum to 1.

    Raises
    ------
    ValueError
        If the shape is another, or N is above 4096.

    Examples
    --------
    >>> rollout(np.array([[[1.0, 0.0], [0.5, 0.5]]]))
    array([[1.  , 0.  ],
           [0.25, 0.75]])
    """
    layers = _layers(weights, MAX_ROLLOUT)
    reached = _with_residual(layers[0])
    for layer in layers[1:]:
        reached = _with_residual(layer) @ reached
    return reached


def flow(weights: Array, row: int = -1) -> Array:
    """Compute attention flow: the most that can flow from a row of the last layer to each token.

    Edges carry A' of `rollout` as capacity, between one token in a layer and another in the next.
    Quantifying Attention Flow in Transformers (ACL 2020), arXiv 2005.00928. It needs the matrix of
    every layer and, for each token, a maximum flow through all of them: networkx computes it, and
    256 tokens are the limit.

    Parameters
    ----------
    weights : array [L, N, N]
        Attention of each layer, from the first, heads averaged.
    row : int, optional
        The output token; the last one by default.

    Returns
    -------
    array [N]
        float64.

    Raises
    ------
    ValueError
        If the shape is another, N is above 256, or there is no such row.

    Examples
    --------
    >>> flow(np.array([[[1.0, 0.0], [0.5, 0.5]]]))
    array([0.25, 0.75])
    """
    layers = _layers(weights, MAX_FLOW)
    num_tokens = layers.shape[1]
    row = place("row", row, num_tokens, -num_tokens)
    networkx: Any = demand("networkx")
    graph = networkx.DiGraph()
    for depth, layer in enumerate(layers):
        capacity = _with_residual(layer)
        graph.add_nodes_from((depth, token) for token in range(num_tokens))
        for i, j in zip(*np.nonzero(capacity), strict=True):
            graph.add_edge((depth + 1, int(i)), (depth, int(j)), capacity=float(capacity[i, j]))
    source = (len(layers), row % num_tokens)
    return np.array([networkx.maximum_flow_value(graph, source, (0, j)) for j in range(num_tokens)])


def _layers(weights: Array, most: int) -> Array:
    weights = numbers("weights", weights)
    if weights.ndim != 3 or not len(weights) or weights.shape[1] != weights.shape[2]:
        raise ValueError(f"weights must be [L, N, N], heads averaged, got shape {weights.shape}")
    if weights.shape[1] > most:
        raise ValueError(
            f"weights must have at most {most} tokens, got {weights.shape[1]}: choose rows and "
            "keys, or average tokens into groups"
        )
    return weights


def _with_residual(layer: Array) -> Array:
    both = layer.astype(np.float64) + np.eye(len(layer))
    return np.asarray(both / both.sum(-1, keepdims=True))
