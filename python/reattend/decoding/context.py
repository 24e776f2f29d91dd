"""The answer follows its context: votes of attention heads for the context's tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reattend.checks import count, finite, integers, numbers
from reattend.decoding.mixing import floats_of, log_softmax
from reattend.decoding.mixing import softmax as probabilities
from reattend.policy import Array

Probe = Callable[[Array], Array]  # ratios [U, H] -> whether each token is used, bool [U]


def context_votes(
    weights: Array,
    ids: Array,
    vocab_size: int,
    *,
    head_weights: Array | None = None,
    probe: Probe | None = None,
    logits: Array | None = None,
    top_rank: int | None = None,
) -> Array:
    r"""Compute which tokens of the context heads vote for, a distribution over the vocabulary.

    .. code-block:: text

        r_hu = mean weight of head h on the places of token u, over their sum for all u
        U_u  = sum_h w_h r_hu, over their sum        u that the probe takes, and that rank high

    For `DAGCD`. The probe is a small logistic regression over the heads' ratios, and the heads are
    those of its largest coefficients w; both are the model's facts.

    Parameters
    ----------
    weights : array [H, K]
        Attention of the row that chooses a word, of the chosen heads on the K keys of the context.
    ids : array of int [K]
        The tokens of these keys.
    vocab_size : int
        V.
    head_weights : array [H], optional
        w; 1 by default.
    probe : callable, optional
        Called with the ratios [U, H] of the U distinct tokens, rising; gives bool [U]. All by
        default.
    logits : array [V], optional
        Of the row, to rank tokens by.
    top_rank : int, optional
        Tokens that rank lower, from 1, get no vote.

    Returns
    -------
    array [V]
        float64; 0 where no token of the context is voted for.

    Raises
    ------
    TypeError, ValueError
        If they do not fit.

    Examples
    --------
    >>> context_votes(np.array([[0.2, 0.1, 0.1]]), np.array([3, 1, 1]), 4).round(3)
    array([0.   , 0.333, 0.   , 0.667])
    """
    weights = numbers("weights", weights, "[H, K]").astype(np.float64)
    ids = integers("ids", ids, "[K]")
    vocab_size = count("vocab_size", vocab_size, 1, 2**31)
    if ids.shape != weights.shape[1:]:
        raise ValueError(f"ids must be one for each of {weights.shape[1]} keys, got {len(ids)}")
    if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise ValueError(f"ids must be from 0 to {vocab_size - 1}, got {ids.min()} to {ids.max()}")
    by = (
        np.ones(len(weights))
        if head_weights is None
        else numbers("head_weights", head_weights, "[H]")
    )
    if len(by) != len(weights):
        raise ValueError(
            f"head_weights must be one for each of {len(weights)} heads, got {len(by)}"
        )
    tokens, place = np.unique(ids, return_inverse=True)
    sums = np.zeros((len(tokens), len(weights)))
    np.add.at(sums, place, weights.T)
    means = sums / np.bincount(place, minlength=len(tokens))[:, None]
    ratios = means / np.maximum(means.sum(0), 1e-8)
    used = np.ones(len(tokens), bool)
    if probe is not None:
        if not callable(probe):
            raise TypeError(f"probe must be a callable, ratios [U, H] -> bool [U], got {probe!r}")
        try:
            used = np.asarray(probe(ratios)).astype(bool)
        except (TypeError, ValueError) as error:
            raise TypeError(f"probe must give bool [U] of ratios [U, H], got {error}") from error
        if used.shape != tokens.shape:
            raise ValueError(f"probe must give bool [U] = {tokens.shape}, got {used.shape}")
    if top_rank is not None:
        used = used & _ranks_high(logits, count("top_rank", top_rank, 1), tokens, vocab_size)
    found = np.where(used, ratios @ by, 0)
    votes = np.zeros(vocab_size)
    votes[tokens] = found / max(found.sum(), 1e-8)
    return votes


def _ranks_high(logits: Array | None, most: int, tokens: Array, vocab_size: int) -> Array:
    if logits is None:
        raise ValueError("logits must be given where top_rank is, to rank tokens by, got None")
    logits = numbers("logits", logits, "[V]")
    if len(logits) != vocab_size:
        raise ValueError(f"logits must be [V] = ({vocab_size},), got shape {logits.shape}")
    rank = np.empty(vocab_size, np.int64)
    rank[np.argsort(-logits, kind="stable")] = np.arange(1, vocab_size + 1)
    return np.asarray(rank[tokens] <= most)


@dataclass(frozen=True)
class DAGCD:
    r"""Adds votes for the context's tokens, the more the less sure the model is.

    .. code-block:: text

        P' = P + alpha H(P) / log V  U

    U are the votes of `context_votes`, in the place of a branch's logits; H is the entropy. What is
    given back are logarithms of P', which does not sum to 1. Rows whose likeliest token is one of
    ``end_tokens`` stay as they are. Paper: Dynamic Attention-Guided Context Decoding for Mitigating
    Context Faithfulness Hallucinations in Large Language Models (ACL Findings 2025),
    arXiv 2501.01059.

    Examples
    --------
    >>> DAGCD()(np.zeros(2), np.array([0.0, 1.0])).round(3)
    array([-0.693,  0.916])
    """

    alpha: float = 2.0  # how much; 4 for chat models
    end_tokens: tuple[int, ...] = ()  # tokens that are no words: a new line, the end

    def __post_init__(self) -> None:
        alpha = finite("alpha", self.alpha)
        if alpha < 0:
            raise ValueError(f"alpha must be a number from 0, got {alpha}")
        ends = integers("end_tokens", self.end_tokens, "[...]")
        object.__setattr__(self, "end_tokens", tuple(ends.ravel().tolist()))

    def __call__(self, logits: Array, *others: Array, step: int = 0) -> Array:
        """Give logarithms to choose from, of logits [..., V] and the votes [..., V]."""
        if len(others) != 1:
            raise ValueError(f"DAGCD must be given the votes beside the logits, got {len(others)}")
        logits, votes = floats_of("logits", logits), numbers("votes", others[0])
        if votes.shape != logits.shape:
            raise ValueError(f"votes must have the shape of logits, {logits.shape}, {votes.shape}")
        log_p, p = log_softmax(logits), probabilities(logits)
        entropy = -np.where(p > 0, p * np.where(p > 0, log_p, 0), 0).sum(-1, keepdims=True)
        share = entropy / np.log(max(logits.shape[-1], 2))
        with np.errstate(divide="ignore"):
            found = np.log(p + self.alpha * share * votes)
        ends = np.isin(logits.argmax(-1), self.end_tokens)[..., None]
        return np.asarray(np.where(ends, log_p, found).astype(logits.dtype, copy=False))
