"""Over-trust: how much an answer's rows lean on one of its own tokens, as OPERA counts it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reattend.checks import finite, numbers
from reattend.policy import Array


class OverTrust(NamedTuple):
    """What `over_trust` finds."""

    log_penalty: Array  # [...], log of phi, which a candidate's logit loses
    place: Array  # int [...], the response token that is leant on, counted from its first


def over_trust(weights: Array, *, scale: float = 50.0, base: float = 1e-7) -> OverTrust:
    r"""Compute OPERA's penalty: the column of the response that all rows behind it see most.

    .. code-block:: text

        w_ij  = max over heads of a_ij, over its sum over all keys j
        phi_j = base prod_{i >= j} scale w_ij        i, j rows and keys of the response
        phi   = max_j phi_j

    A candidate's logit loses phi, which a logits processor does; to go back where the same place
    comes up again and again is the loop's. Products are kept as logarithms: they leave float64's
    range after some dozens of rows. While an answer is shorter than 10 tokens the published code
    adds the row's attention on the image instead.

    OPERA: Alleviating Hallucination in Multi-Modal Large Language Models via Over-Trust Penalty and
    Retrospection-Allocation (CVPR 2024), arXiv 2311.17911.

    Parameters
    ----------
    weights : array [..., H, R, M]
        Attention of the last layer, of the response's R rows, whose keys are the last R of M; see
        `attention_rows`.
    scale, base : float, optional
        Of the products.

    Returns
    -------
    OverTrust

    Raises
    ------
    TypeError, ValueError
        If shapes or numbers do not fit.

    Examples
    --------
    >>> weights = np.array([[[0.5, 0.5, 0.0], [0.2, 0.6, 0.2]]])  # one head, two rows
    >>> found = over_trust(weights, scale=10, base=1.0)
    >>> np.exp(found.log_penalty).round(3), found.place
    (np.float64(30.0), np.int64(0))
    """
    weights = numbers("weights", weights, "[..., H, R, M]").astype(np.float64)
    heads, rows, num_keys = weights.shape[-3:]
    if not heads or not 1 <= rows <= num_keys:
        raise ValueError(
            f"weights must be [..., H, R, M] with heads, rows and M >= R, got {weights.shape}"
        )
    scale, base = finite("scale", scale), finite("base", base)
    if not (scale > 0 and base > 0):
        raise ValueError(f"scale and base must be above 0, got {scale} and {base}")
    most = weights.max(-3)  # [..., R, M]
    total = most.sum(-1, keepdims=True)
    own = (most / np.where(total > 0, total, 1))[..., num_keys - rows :]  # [..., R, R]
    with np.errstate(divide="ignore"):
        logs = np.log(scale * own)
    column = np.where(np.tri(rows, dtype=bool), logs, 0).sum(-2) + np.log(base)
    return OverTrust(np.asarray(column.max(-1))[()], np.asarray(column.argmax(-1))[()])
