"""Logits of several branches, mixed: the one formula behind the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reattend.border.arguments import broadcasts
from reattend.checks import count, listed, marks, numbers, real
from reattend.policy import Array


def mix(
    logits: Array,
    others: Sequence[Array],
    *,
    own: Any,
    weights: Sequence[Any],
    keep: Array | None = None,
) -> Array:
    r"""Mix the logits of a branch with those of others.

    .. code-block:: text

        z = own z1 + sum_i weight_i z2_i        where a token is kept, else -inf

    Parameters
    ----------
    logits : array [..., V]
        Of the branch that speaks, z1.
    others : sequence of arrays [..., V]
        Of the other branches, z2_i.
    own : float, or array that broadcasts to [..., 1]
        What multiplies ``logits``.
    weights : sequence of floats, or of such arrays
        What multiplies each of ``others``; negative to move away from it.
    keep : array of bool [..., V], optional
        The tokens that may be chosen, see `plausible` and `nucleus`; all by default.

    Returns
    -------
    array [..., V]
        Of the type of ``logits``; -inf at tokens that are not kept, or that ``logits`` rules out.

    Raises
    ------
    ValueError
        If shapes or counts differ, or the type of ``logits`` does not hold what comes out.

    Examples
    --------
    >>> mix(np.array([2.0, 1.0]), [np.array([1.0, 1.0])], own=2, weights=[-1])
    array([3., 1.])
    """
    logits = floats_of("logits", logits)
    others = listed("others", others, "a sequence of arrays")
    weights = listed("weights", weights, "a sequence of numbers or arrays")
    if len(others) != len(weights):
        raise ValueError(
            f"weights must be as many as others, {len(others)} branches, got {len(weights)}"
        )
    for other in others:
        if numbers("others", other).shape != logits.shape:
            raise ValueError(
                f"others must have the shape of logits, {logits.shape}, got {np.shape(other)}"
            )
    for name, each in (("own", own), *(("weights", weight) for weight in weights)):
        if not broadcasts(numbers(name, each).shape, (*logits.shape[:-1], 1)):
            raise ValueError(
                f"{name} must be a number or broadcast to [..., 1] of logits, {logits.shape}, got "
                f"shape {np.shape(each)}"
            )
    # In float64: strengths grow along an answer beyond what 16 bits hold.
    with np.errstate(invalid="ignore", over="ignore"):  # both branches rule a token out: inf - inf
        mixed = own * logits.astype(np.float64)
        for other, weight in zip(others, weights, strict=True):
            part = weight * np.asarray(other, np.float64)
            mixed = mixed + np.where(np.equal(weight, 0), 0, part)  # 0 leaves it out: 0 * -inf
    kept = logits != -np.inf
    if keep is not None:
        keep = marks("keep", keep, "[..., V]")
        if not broadcasts(keep.shape, logits.shape):
            raise ValueError(
                f"keep must broadcast to logits, {logits.shape}, got shape {keep.shape}"
            )
        kept = kept & keep
    mixed = np.where(kept, mixed, -np.inf)
    with np.errstate(over="ignore"):
        found = np.asarray(mixed.astype(logits.dtype, copy=False))
    lost = np.isinf(found) & np.isfinite(mixed)
    if lost.any():
        raise ValueError(
            f"logits must be of a type that holds what comes out, {mixed[lost][0]:.3g}, got "
            f"{logits.dtype}"
        )
    return found


def plausible(logits: Array, beta: float) -> Array:
    """Give the tokens whose probability is at least a share of the likeliest one's.

    Contrastive Decoding: Open-ended Text Generation as Optimization (ACL 2023), arXiv 2210.15097.

    Parameters
    ----------
    logits : array [..., V]
        Of the branch that speaks, before any mixing.
    beta : float
        The share, from 0 to 1; 0 keeps all.

    Returns
    -------
    array of bool [..., V]
        Where a logit is NaN it is kept, so that the fault shows in what comes out.

    Raises
    ------
    ValueError
        If beta is out of its range.

    Examples
    --------
    >>> plausible(np.array([2.0, 1.0, -9.0]), 0.1)
    array([ True,  True, False])
    """
    logits, beta = floats_of("logits", logits), real("beta", beta)
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be from 0 to 1, got {beta!r}")
    if beta == 0:
        return np.ones(logits.shape, bool)
    return np.asarray(~(logits < logits.max(-1, keepdims=True) + np.log(beta)))


def nucleus(logits: Array, *, top_k: int, top_p: float) -> Array:
    """Give the likeliest tokens: at most ``top_k``, and no more than hold ``top_p`` together.

    Parameters
    ----------
    logits : array [..., V]
        Of the branch that speaks.
    top_k : int
        How many at most.
    top_p : float
        The share that the kept tokens need; the one that reaches it is kept, so one always is.

    Returns
    -------
    array of bool [..., V]
        Of equal logits the first come first.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Examples
    --------
    >>> nucleus(np.log([0.5, 0.3, 0.15, 0.05]), top_k=3, top_p=0.75)
    array([ True,  True, False, False])
    """
    logits, top_k = floats_of("logits", logits), count("top_k", top_k, 1)
    top_p = real("top_p", top_p)
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p!r}")
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :top_k]
    share = np.take_along_axis(softmax(logits), order, -1)
    before = np.cumsum(share, axis=-1) - share
    keep = np.zeros(logits.shape, bool)
    np.put_along_axis(keep, order, before < top_p, -1)
    return keep


def floats_of(name: str, given: Any) -> Array:
    """Give logits as floats [..., V], of their own type; integers, which hold no -inf, as float64.

    Parameters
    ----------
    name : str
        What an error calls them.
    given : array [..., V]
        The logits of at least one token.

    Raises
    ------
    TypeError, ValueError
        If they are no such numbers.

    Examples
    --------
    >>> floats_of("logits", [1, 2])
    array([1., 2.])
    """
    found = numbers(name, given, "[..., V]")
    if not found.shape[-1]:
        raise ValueError(f"{name} must be [..., V] of at least one token, got shape {found.shape}")
    return found.astype(np.float64) if found.dtype.kind in "iub" else found


def comparable(scores: Array, mixed: Array) -> Array:
    """Give log probabilities of what was mixed, where the scores it was made of were such.

    Beam search hands these over, and compares its rows by their sums: in mixed logits each row
    would have a summand of its own.

    Parameters
    ----------
    scores, mixed : array [..., V]
        What came, and what was made of it.

    Raises
    ------
    TypeError, ValueError
        If they are no such numbers.

    Examples
    --------
    >>> comparable(np.log([0.5, 0.5]), np.array([3.0, -np.inf]))
    array([  0., -inf])
    >>> comparable(np.array([2.0, 0.0]), np.array([3.0, 1.0]))
    array([3., 1.])
    """
    scores, mixed = floats_of("scores", scores), floats_of("mixed", mixed)
    with np.errstate(over="ignore"):
        totals = np.exp(scores.astype(np.float64)).sum(-1)
    if not (totals < 1.02).all():  # so much do 16 bits round
        return mixed
    return log_softmax(mixed).astype(mixed.dtype, copy=False)


def log_softmax(logits: Array) -> Array:
    """Give log probabilities, in float64.

    Examples
    --------
    >>> np.exp(log_softmax(np.array([0.0, 0.0])))
    array([0.5, 0.5])
    """
    shifted = floats_of("logits", logits).astype(np.float64, copy=False)
    shifted = shifted - shifted.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def softmax(logits: Array) -> Array:
    """Give probabilities, in float64.

    Examples
    --------
    >>> softmax(np.array([0.0, 0.0]))
    array([0.5, 0.5])
    """
    return np.asarray(np.exp(log_softmax(logits)))
