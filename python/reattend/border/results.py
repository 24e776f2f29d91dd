"""What a pass over the keys gives back: two named tuples, of the kernel and of its reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from reattend.checks import listed, numbers
from reattend.policy import Array


class AttentionResult(NamedTuple):
    """What `attention` gives when ``returns`` names anything; what was not asked for is None.

    All but the output, factors and changed are of plain attention, before any policy. Keys whose
    score is -inf, hidden ones and those of a bias, count in none of them.
    """

    out: Array  # [B, H, N, Dv]
    masses: Array | None = None  # [B, H, N, G], the share of each row that each segment got
    logsumexp: Array | None = None  # [B, H, N], natural logarithm; -inf where a row sees no key
    column_sums: Array | None = None  # [B, H, M], the attention each key received
    factors: Array | None = None  # [B, H, N, G], what multiplied each segment; 1 in rows left alone
    changed: Array | None = None  # bool [B, H, N], the rows with a factor that is not 1
    score_sums: Array | None = None  # [B, H, N, G], of scores as the softmax takes them
    abs_score_sums: Array | None = None  # [B, H, N, G], of their sizes
    entropies: Array | None = None  # [B, H, N, G], -sum A log A, in nats; a row's is the sum over G
    largest: Array | None = None  # [B, H, N, G], the largest weight; 0 where no key is seen
    largest_keys: Array | None = None  # int64 [B, H, N, G], the key that has it, the first; or -1
    scores: Array | None = None  # [B, H, N, M], as the softmax takes them; -inf where not seen

    def __repr__(self) -> str:
        return _shapes(self)


class SegmentState(NamedTuple):
    """What each segment of keys holds of each row: the open form of one pass.

    States over disjoint sets of keys merge exactly, see `merge`.
    """

    masses: Array  # [B, H, N, G]
    partials: Array  # [B, H, N, G, Dv], each segment's share of the output
    logsumexp: Array  # [B, H, N]

    def __repr__(self) -> str:
        return _shapes(self)


def _shapes(result: Any) -> str:
    """Show a tuple of arrays by their types and shapes; the numbers would fill a screen."""
    shown = ", ".join(
        f"{name}={array.dtype}{list(array.shape)}"
        for name, array in result._asdict().items()
        if array is not None
    )
    return f"{type(result).__name__}({shown})"


def combine(partials: Array, factors: Array) -> Array:
    """Compute sum_g factor_g partial_g, the output under a policy's factors.

    Parameters
    ----------
    partials : array [B, H, N, G, Dv]
    factors : array [B, H, N, G]

    Returns
    -------
    array [B, H, N, Dv]

    Raises
    ------
    TypeError, ValueError
        If they are no numbers, or the shapes do not match.

    Examples
    --------
    >>> combine(np.ones((1, 1, 1, 2, 3)), np.array([[[[0.5, 2.0]]]]))
    array([[[[2.5, 2.5, 2.5]]]])
    """
    partials = numbers("partials", partials, "[..., G, Dv]")
    factors = numbers("factors", factors)
    if factors.shape != partials.shape[:-1]:
        raise ValueError(
            f"factors must have the shape of partials without its last axis, "
            f"{partials.shape[:-1]}, got {factors.shape}"
        )
    result: Array = (factors[..., None, :] @ partials)[..., 0, :]
    return result


def merge(states: Sequence[SegmentState]) -> SegmentState:
    """Join states of the same rows over disjoint sets of keys, exactly.

    The sets may come from shards of a cache, a shared prefix, other processes or machines. Policies
    are applied after the merge: masses and partials add up once weighed by exp(logsumexp).

    Parameters
    ----------
    states : sequence of SegmentState
        With equal shapes.

    Returns
    -------
    SegmentState

    Raises
    ------
    TypeError, ValueError
        If there is none, one is no state, or shapes differ.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.standard_normal((3, 1, 2, 6, 8), dtype=np.float32)
    >>> from reattend import attention, segment_pass
    >>> halves = [segment_pass(query, key[:, :, part], value[:, :, part], segments=None)
    ...           for part in (slice(0, 2), slice(2, 6))]
    >>> np.allclose(merge(halves).partials[..., 0, :], attention(query, key, value), atol=1e-6)
    True
    """
    if isinstance(states, SegmentState):  # a tuple too
        raise TypeError("states must be a sequence of SegmentState, got one state")
    states = listed("states", states, "a sequence of SegmentState")
    if not states:
        raise ValueError("states must hold at least one state, got none")
    for state in states:
        if not isinstance(state, SegmentState):
            raise TypeError(f"states must hold SegmentState, got {type(state).__name__}")
        shapes = tuple(np.shape(array) for array in state)
        if shapes != (first := tuple(np.shape(array) for array in states[0])):
            raise ValueError(
                "states must have equal shapes, got masses, partials and logsumexp of "
                f"{first} and {shapes}"
            )
    logsumexp = np.logaddexp.reduce([state.logsumexp for state in states])
    base = np.where(np.isneginf(logsumexp), 0, logsumexp).astype(logsumexp.dtype)
    masses, partials = np.zeros_like(states[0].masses), np.zeros_like(states[0].partials)
    for state in states:
        share = np.exp(state.logsumexp - base)[..., None]
        masses += share * state.masses
        partials += share[..., None] * state.partials
    return SegmentState(masses, partials, logsumexp)
