"""Which image tokens are evidence: those that light up in some layers, and are no sinks in all."""

from __future__ import annotations

import numpy as np

from reattend.checks import finite, numbers
from reattend.policy import Array


def evidence_saliency(weights: Array, *, tau: float = 5.0, share: float = 0.5) -> Array:
    r"""Compute ILVAD's saliency of image tokens, from the first tokens of an answer.

    .. code-block:: text

        a_lj = mean over the rows, and over the share of heads with most attention on the image
        b_lj = 1 where a_lj > tau mean_j a_lj, else 0
        S_j  = sum over l of max(b_(l+1)j - b_lj, 0), over its largest

    For `ILVAD`. A sink is lit in nearly every layer and rarely lights up; evidence does in some.

    Finding the Correct Visual Evidence Without Forgetting: Mitigating Hallucination in LVLMs via
    Inter-Layer Visual Attention Discrepancy (ICML 2026), arXiv 2605.20965.

    Parameters
    ----------
    weights : array [T, L, H, K]
        Of the rows of the first T tokens, 10 in the paper, on the K image tokens, as
        `Recording.attention` holds them.
    tau : float, optional
        How far above the mean a token is lit.
    share : float, optional
        Of the heads, above 0 and at most 1.

    Returns
    -------
    array [K]
        float64, from 0 to 1; all 0 where nothing lights up.

    Raises
    ------
    TypeError, ValueError
        If shapes or numbers do not fit.

    Examples
    --------
    >>> weights = np.full((1, 2, 1, 8), 0.01)
    >>> weights[0, :, 0, 0] = 0.5  # a sink
    >>> weights[0, 1, 0, 3] = 0.6
    >>> evidence_saliency(weights, tau=2).tolist()
    [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    weights = numbers("weights", weights, "[T, L, H, K]").astype(np.float64)
    tau, share = finite("tau", tau), finite("share", share)
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    if 0 in weights.shape:
        raise ValueError(f"weights must have rows, layers, heads and keys, got {weights.shape}")
    by_head = weights.mean(0)  # [L, H, K]
    heads = max(1, int(share * by_head.shape[1]))
    order = np.argsort(-by_head.sum(-1), axis=-1, kind="stable")[:, :heads]
    mean = np.take_along_axis(by_head, order[..., None], 1).mean(1)  # [L, K]
    lit = (mean > tau * mean.mean(-1, keepdims=True)).astype(np.int64)
    found = np.maximum(np.diff(lit, axis=0), 0).sum(0).astype(np.float64)
    return np.asarray(found / max(found.max(initial=0), 1))
