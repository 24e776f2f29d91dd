"""How a row's attention is spread: its entropy, from two passes and no matrix."""

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
    window: int | None = None,
    num_threads: int | None = None,
) -> Array:
    r"""Compute the entropy of each row of attention, in nats.

    .. code-block:: text

        H_i = - sum_j a_ij log a_ij = logsumexp_i - scale q_i . sum_j a_ij k_j

    The last sum is attention with the keys as values, so the matrix is never there. A bias or a
    softcap would break this, so there are none.

    What Does BERT Look At? An Analysis of BERT's Attention (2019), arXiv 1906.04341.

    Parameters
    ----------
    query, key, scale, key_mask, window, num_threads
        As for `reattend.attention`.
    causal : bool, optional
        As there, but True by default.

    Returns
    -------
    array [B, H, N]
        float32, within about 1e-6 of the largest score; NaN for a row that sees no key.

    Examples
    --------
    >>> query, key = np.zeros((2, 1, 1, 4, 8), np.float32)
    >>> np.exp(entropy(query, key)).round(4).tolist()
    [[[1.0, 2.0, 3.0, 4.0]]]
    """
    query = np.asarray(numbers("query", query, "[B, H, N, D]"), np.float32)
    key = np.asarray(numbers("key", key, "[B, H_kv, M, D]"), np.float32)
    result = attention(
        query, key, key, scale=scale, causal=causal, key_mask=key_mask, window=window,
        returns="logsumexp", num_threads=num_threads,
    )  # fmt: skip
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    mean = np.einsum("bhnd,bhnd->bhn", query, result.out, dtype=np.float64) * factor
    logsumexp: Any = result.logsumexp
    found = np.where(np.isneginf(logsumexp), np.nan, logsumexp - mean)
    return np.asarray(np.maximum(found, 0).astype(np.float32))


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
