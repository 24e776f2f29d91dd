"""Heads against each other, and against the answer: distances, retrieval, attribution, order."""

from __future__ import annotations

import numpy as np

from reattend.checks import integers, numbers, pair
from reattend.policy import Array


def jensen_shannon(weights: Array) -> Array:
    r"""Compute how far apart heads are: the Jensen-Shannon divergence of their rows, summed.

    .. code-block:: text

        JS(a, b) = H((a + b) / 2) - (H(a) + H(b)) / 2, in nats

    What Does BERT Look At? An Analysis of BERT's Attention (2019), arXiv 1906.04341.

    Parameters
    ----------
    weights : array [..., H, R, M]
        Rows of attention, see `attention_rows`.

    Returns
    -------
    array [..., H, H]
        float64, symmetric, at most R log 2.

    Examples
    --------
    >>> jensen_shannon(np.array([[[1.0, 0.0]], [[0.0, 1.0]]])).round(4)
    array([[0.    , 0.6931],
           [0.6931, 0.    ]])
    """
    weights = numbers("weights", weights, "[..., H, R, M]")
    num_heads = weights.shape[-3]
    own = _entropies(weights)  # [..., H]
    apart = np.zeros((*own.shape, num_heads))
    for head in range(num_heads):  # pairs with one head at a time: no [H, H, R, M]
        both = (weights[..., head : head + 1, :, :].astype(np.float64) + weights) / 2
        apart[..., head, :] = _entropies(both) - (own[..., head : head + 1] + own) / 2
    return np.asarray(np.maximum(apart, 0))


def retrieval_score(
    weights: Array, prompt_ids: Array, generated_ids: Array, needle: tuple[int, int]
) -> Array:
    r"""Compute how much of the needle a head copied: the retrieval score.

    A step counts for a head if its largest weight lies inside the needle, on a token equal to the
    one that the step generated; the score is their number over the needle's length. It may exceed 1
    if tokens are repeated. The paper counts only answers with a ROUGE-1 recall above 50, and
    averages over prompts.

    Retrieval Head Mechanistically Explains Long-Context Factuality (ICLR 2025), arXiv 2404.15574.

    Parameters
    ----------
    weights : array [S, ..., M]
        Of the row that generated each of S tokens; keys beyond those of the prompt do not matter.
    prompt_ids : array of int [P]
        The prompt's tokens.
    generated_ids : array of int [S]
        The tokens that came out.
    needle : (int, int)
        Where in the prompt it begins, and the position after its end.

    Returns
    -------
    array [...]
        float64, such as [L, H] of weights [S, L, H, M].

    Raises
    ------
    ValueError
        If shapes do not fit, or the needle lies outside the prompt.

    Examples
    --------
    >>> weights = np.array([[[0.1, 0.8, 0.1]], [[0.1, 0.2, 0.7]]])  # two steps, one head
    >>> retrieval_score(weights, np.array([4, 5, 6]), np.array([5, 9]), needle=(1, 3))
    array([0.5])
    """
    weights, prompt_ids = numbers("weights", weights), integers("prompt_ids", prompt_ids, "[P]")
    generated_ids = integers("generated_ids", generated_ids, "[S]")
    start, end = pair("needle", needle, "where it begins, and the position after its end")
    if not 0 <= start < end <= len(prompt_ids):
        raise ValueError(
            f"needle must lie within 0 to {len(prompt_ids)}, the length of prompt_ids, got {needle}"
        )
    steps, keys = (weights.shape[0], weights.shape[-1]) if weights.ndim > 1 else (-1, -1)
    if steps != len(generated_ids) or keys < len(prompt_ids):
        raise ValueError(
            "weights must be [S, ..., M] with a step for each of generated_ids and M >= P, got "
            f"shape {weights.shape} for {len(generated_ids)} tokens and prompt_ids of length "
            f"{len(prompt_ids)}"
        )
    place = weights.argmax(-1)  # [S, ...]
    inside = (place >= start) & (place < end)
    token = prompt_ids[np.where(inside, place, start)]
    same = token == generated_ids.reshape(-1, *(1,) * (place.ndim - 1))
    return np.asarray((inside & same).sum(0) / (end - start))


def logit_attribution(head_outputs: Array, projection: Array, unembedding: Array) -> Array:
    r"""Compute what each head adds to the logits of some tokens, directly.

    .. code-block:: text

        u_v . (W_O,h o_h)

    The final norm's scale is the caller's to put into ``unembedding``. Interpreting Key Mechanisms
    of Factual Recall in Transformer-Based Language Models (2024).

    Parameters
    ----------
    head_outputs : array [..., H, Dv]
        Before the output projection.
    projection : array [C, H * Dv]
        W_O, as torch's ``o_proj.weight`` is.
    unembedding : array [V, C]
        Rows of the head for the tokens in question.

    Returns
    -------
    array [..., H, V]

    Raises
    ------
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> logit_attribution(np.array([[1.0], [2.0]]), np.eye(2), np.array([[1.0, 10.0]]))
    array([[ 1.],
           [20.]])
    """
    outputs = numbers("head_outputs", head_outputs, "[..., H, Dv]")
    projection = numbers("projection", projection)
    unembedding = numbers("unembedding", unembedding)
    num_heads, size = outputs.shape[-2:]
    if projection.ndim != 2 or projection.shape[1] != num_heads * size:
        raise ValueError(
            f"projection must be [C, H * Dv] = [C, {num_heads * size}] of head_outputs "
            f"{outputs.shape}, got shape {projection.shape}"
        )
    if unembedding.ndim != 2 or unembedding.shape[1] != len(projection):
        raise ValueError(
            f"unembedding must be [V, C] = [V, {len(projection)}], got shape {unembedding.shape}"
        )
    tokens = unembedding @ projection  # [V, H * Dv]
    tokens = tokens.reshape(-1, num_heads, size)
    return np.asarray(np.einsum("...hd,vhd->...hv", outputs, tokens))


def ships(logits: Array, without_head: Array) -> Array:
    r"""Compute how much each head matters to the answer: the safety head importance score.

    .. code-block:: text

        Ships_h = KL(p || p without head h)

    On the Role of Attention Heads in Large Language Model Safety (ICLR 2025), arXiv 2410.13708;
    `HeadMask` with one head at 0 gives the second.

    Parameters
    ----------
    logits : array [V]
        Of the next token.
    without_head : array [..., V]
        The same, with one head ablated in each.

    Returns
    -------
    array [...]
        float64, in nats.

    Raises
    ------
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> ships(np.array([0.0, 0.0]), np.array([[0.0, 0.0], [1.0, 0.0]])).round(3)
    array([0.  , 0.12])
    """
    logits = numbers("logits", logits, "[V]")
    without_head = numbers("without_head", without_head, "[..., V]")
    if without_head.shape[-1] != len(logits) or not len(logits):
        raise ValueError(
            f"without_head must be [..., V] with V, the length of logits, {len(logits)}, and not "
            f"0, got shape {without_head.shape}"
        )
    own, other = _log_softmax(logits), _log_softmax(without_head)
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(own), 0, np.exp(own) * (own - other))
    return np.asarray(terms.sum(-1))


def pruning_order(importance: Array) -> list[tuple[int, int]]:
    r"""Give the order in which to mask heads, the least important first.

    Each layer's importances are divided by their l2 norm, then all are sorted.

    Are Sixteen Heads Really Better than One? (NeurIPS 2019), arXiv 1905.10650, where the importance
    of a head is the mean over data of \|dL / dxi_h\|, xi_h the factor of `HeadMask`.

    Parameters
    ----------
    importance : array [L, H]
        From 0.

    Returns
    -------
    list of (layer, head)

    Raises
    ------
    ValueError
        If importance is not two axes of numbers from 0.

    Examples
    --------
    >>> pruning_order(np.array([[3.0, 4.0], [0.0, 1.0]]))
    [(1, 0), (0, 0), (0, 1), (1, 1)]
    """
    importance = numbers("importance", importance).astype(np.float64, copy=False)
    if importance.ndim != 2 or not (importance >= 0).all():
        raise ValueError(f"importance must be numbers from 0 [L, H], got {importance!r}")
    norm = np.linalg.norm(importance, axis=-1, keepdims=True)
    share = importance / np.where(norm == 0, 1, norm)
    order = np.argsort(share, axis=None, kind="stable")
    return [(int(i), int(j)) for i, j in zip(*np.divmod(order, share.shape[1]), strict=True)]


def _entropies(weights: Array) -> Array:
    """Sum over the rows of each head's entropies."""
    logs = np.log(np.where(weights > 0, weights, 1), dtype=np.float64)
    return np.asarray(-(weights * logs).sum((-1, -2)))


def _log_softmax(logits: Array) -> Array:
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
