"""How a row's attention is spread: its entropy, from one pass over the keys and no matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from reattend.attention import attention
from reattend.checks import numbers, real
from reattend.policy import Array


def entropy(
    query: Array,
    key: Array,
    *,
    scale: float | None = None,
    causal: bool = True,
    key_mask: Array | None = None,
    bias: Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    num_threads: int | None = None,
) -> Array:
    r"""Compute the entropy of each row of attention, in nats.

    .. code-block:: text

        H_i = - sum_j a_ij log a_ij

    Summed inside the pass: the matrix is never there, and no value is read.

    What Does BERT Look At? An Analysis of BERT's Attention (2019), arXiv 1906.04341.

    Parameters
    ----------
    query, key, scale, key_mask, bias, window, softcap, num_threads
        As for `reattend.attention`.
    causal : bool, optional
        As there, but True by default.

    Returns
    -------
    array [B, H, N]
        float32; NaN for a row that sees no key.

    Examples
    --------
    >>> query, key = np.zeros((2, 1, 1, 4, 8), np.float32)
    >>> np.exp(entropy(query, key)).round(4).tolist()
    [[[1.0, 2.0, 3.0, 4.0]]]
    """
    query = np.asarray(numbers("query", query, "[B, H, N, D]"), np.float32)
    key = np.asarray(numbers("key", key, "[B, H_kv, M, D]"), np.float32)
    found: Any = attention(
        query, key, key[..., :0], scale=scale, causal=causal, key_mask=key_mask, bias=bias,
        window=window, softcap=softcap, returns=("logsumexp", "entropies"),
        num_threads=num_threads,
    )  # fmt: skip
    entropies: Array = np.maximum(found.entropies[..., 0], 0)  # below 0 by a rounding
    return np.where(np.isneginf(found.logsumexp), np.float32(np.nan), entropies)


def collapsed(entropies: Array, at_most: float = 1.0) -> Array:
    """Say which heads' attention has collapsed: its mean entropy over the rows is low.

    Stabilizing Transformer Training by Preventing Attention Entropy Collapse (ICML 2023),
    arXiv 2303.06296.

    Parameters
    ----------
    entropies : array [..., N]
        Of `entropy`; NaN rows do not count.
    at_most : float, optional
        The largest mean entropy of a collapsed head, in nats.

    Returns
    -------
    array of bool [...]

    Examples
    --------
    >>> collapsed(np.array([[0.1, 0.2], [2.0, 3.0]]))
    array([ True, False])
    """
    entropies = numbers("entropies", entropies, "[..., N]")
    known = ~np.isnan(entropies)
    total = np.where(known, entropies, 0).sum(-1)
    return np.asarray(total <= real("at_most", at_most) * known.sum(-1))
