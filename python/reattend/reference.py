"""Attention written down with the full matrix, in float64: the specification of the pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reattend.border.arguments import names
from reattend.border.dtypes import to_float32
from reattend.border.quantized import Stored
from reattend.border.results import AttentionResult, SegmentState
from reattend.epilogue import Epilogue
from reattend.policy import LARGEST, Array, Policy, Reweight
from reattend.row_statistics import statistics
from reattend.transform import Transform


def weights(
    query: Array, key: Array | Stored, *, null_logit: Array | None = None, **mask: Any
) -> tuple[Array, Array, Array]:
    """Give the attention matrix A [B, H, N, M], logsumexp [B, H, N] and the keys each row sees."""
    scores, seen = _scores(query, key, **mask)
    with np.errstate(invalid="ignore", over="ignore"):
        largest = scores.max(-1, keepdims=True, initial=-np.inf)
        shifted = np.exp(scores - np.where(np.isneginf(largest), 0, largest))
        total = shifted.sum(-1, keepdims=True)
        if null_logit is not None:  # a key without a value, for rows that see another
            extra = np.exp(np.asarray(null_logit, np.float64)[..., None] - largest)
            total = np.where(total == 0, 0, total + extra)
        matrix = np.where(seen, shifted / np.where(total == 0, 1, total), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return matrix, (np.log(total) + np.where(total == 0, 0, largest))[..., 0], seen


def _scores(
    query: Array,
    key: Array | Stored,
    *,
    scale: float | None = None,
    causal: bool = False,
    key_mask: Array | None = None,
    bias: Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dtype: str | None = None,
    transform: Transform | None = None,
    null_logit: Array | None = None,
) -> tuple[Array, Array]:
    """Give scores [B, H, N, M] as the softmax takes them, -inf at keys a row does not see.

    A null key is none of them.
    """
    num_rows, num_keys = query.shape[2], key.shape[2]
    key = np.repeat(_numbers(key, dtype), query.shape[1] // max(key.shape[1], 1), axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        scores = _numbers(query, dtype) @ key.swapaxes(-1, -2)  # [B, H, N, M]
        scores *= query.shape[-1] ** -0.5 if scale is None else scale
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        row, column = np.arange(num_keys - num_rows, num_keys)[:, None], np.arange(num_keys)
        if transform is not None:
            scores = transform(scores, row[:, 0])
        if bias is not None:
            scores = scores + bias
        seen = np.ones(scores.shape, dtype=bool)
        if causal:
            seen &= column <= row
        if window is not None:
            seen &= abs(row - column) < window  # row + window may wrap
        if key_mask is not None:
            seen &= key_mask[:, None, None, :]
    return np.where(seen, scores, -np.inf), seen


def _labels(segments: Array | None, key_len: int) -> Array:
    """Give a label for each key [B or 1, H or 1, M]: those beyond the given ones are in 0."""
    segments = np.zeros((1, 1, 0), np.uint8) if segments is None else segments
    return np.pad(segments, ((0, 0), (0, 0), (0, key_len - segments.shape[-1])))


def segment_pass(
    query: Array,
    key: Array | Stored,
    value: Array | Stored,
    *,
    segments: Array | None,
    num_segments: int | None = None,
    num_threads: int | None = None,
    **mask: Any,
) -> SegmentState:
    """Give masses, partials and logsumexp; ``mask`` are the mask arguments of `attention`."""
    matrix, logsumexp, seen = weights(query, key, **mask)
    seen = seen & ~np.isneginf(logsumexp)[..., None]  # scores that are all -inf are no keys
    labels = _labels(segments, key.shape[2])
    value = _numbers(value, mask.get("dtype"))
    value = np.repeat(value, query.shape[1] // max(value.shape[1], 1), axis=1)
    finite = np.isfinite(value)
    masses, partials = [], []
    for label in range(num_segments or int(labels.max(initial=0)) + 1):
        part = np.where(labels[:, :, None, :] == label, matrix, 0)  # [B, H, N, M]
        masses.append(part.sum(-1))
        out = part @ np.where(finite, value, 0)
        if not finite.all():  # a NaN reaches the rows that see its key, and no other
            inside = (seen & (labels[:, :, None, :] == label)).astype(np.float64)
            out = np.where(inside @ (~finite).astype(np.float64) > 0, np.nan, out)
        partials.append(out)
    return SegmentState(np.stack(masses, -1), np.stack(partials, -2), logsumexp)


def combine(partials: Array, factors: Array) -> Array:
    """Give sum_g factor_g partial_g [B, H, N, Dv]."""
    return np.asarray((partials * factors[..., None]).sum(-2))


def merge(states: Sequence[SegmentState]) -> SegmentState:
    """Join states over disjoint sets of keys."""
    logsumexp = np.logaddexp.reduce([s.logsumexp for s in states])
    total = np.where(np.isneginf(logsumexp), 0, logsumexp)
    share = [np.exp(s.logsumexp - total)[..., None] for s in states]  # [B, H, N, 1]
    masses = np.sum([s.masses * w for s, w in zip(states, share, strict=True)], axis=0)
    partials = [s.partials * w[..., None] for s, w in zip(states, share, strict=True)]
    return SegmentState(masses, np.sum(partials, axis=0), logsumexp)


def column_sums(
    query: Array,
    key: Array | Stored,
    logsumexp: Array | None = None,
    *,
    heads: Array | None = None,
    num_threads: int | None = None,
    **mask: Any,
) -> Array:
    """Give what each key received, sum over rows of A [B, H, M]; padding rows do not count."""
    matrix = weights(query, key, **mask)[0]
    if mask.get("causal") and mask.get("key_mask") is not None:
        before = query.shape[2] - key.shape[2]  # rows that stand before the first key see none
        rows = np.pad(mask["key_mask"], ((0, 0), (max(before, 0), 0)))[:, max(-before, 0) :]
        matrix = np.where(rows[:, None, :, None], matrix, 0)
    sums = matrix.sum(-2)
    return sums if heads is None else np.where(np.atleast_2d(heads)[..., None], sums, 0)


def attention(
    query: Array,
    key: Array | Stored,
    value: Array | Stored,
    *,
    segments: Array | None = None,
    policy: Policy | Sequence[Policy] | None = None,
    where: Array | Sequence[Array | None] | None = None,
    heads_from: Array | None = None,
    epilogue: Epilogue | Sequence[Epilogue | None] | None = None,
    returns: str | Sequence[str] = (),
    out: Array | None = None,
    num_threads: int | None = None,
    **mask: Any,
) -> Array | AttentionResult:
    """Do what `reattend.attention` does, and what a `Plan` asks for beside it, in float64.

    ``heads_from`` [B or 1, H] is the head whose weights each head's own values are weighed with;
    ``epilogue`` is what becomes of outputs at last, in the rows of ``where``: like it one, or one
    for each policy.
    """
    policies = [] if policy is None else [policy] if callable(policy) else list(policy)
    wheres = _for_each(where, max(len(policies), 1))
    sizes = [p.num_segments for p in policies if isinstance(p, Reweight)]
    if heads_from is not None:
        numbers = (_numbers(array, mask.get("dtype")) for array in (query, key, value))
        query, key, value = _as_heads(heads_from, *numbers)
    state = segment_pass(
        query, key, value, segments=segments, num_segments=max(sizes, default=None), **mask
    )
    total, sees = np.ones_like(state.masses), ~np.isneginf(state.logsumexp)
    for rule, rows in zip(policies, wheres, strict=bool(policies)):
        factors = rule(state.masses * total)
        changed = sees if rows is None else rows & sees
        if isinstance(rule, Reweight):
            changed = changed & ~(np.abs(total * factors) > LARGEST).any(-1)
        total = total * np.where(changed[..., None], factors, 1)
    result = combine(state.partials, total)
    for end, rows in zip(_for_each(epilogue, len(wheres)), wheres, strict=True):
        result = result if end is None else end(result, rows)
    if out is not None:
        out[...], result = result, out
    if not (returns := names(returns)):
        return result
    extra = state._asdict() | {"factors": total, "changed": (total != 1).any(-1)}
    if "column_sums" in returns:
        extra["column_sums"] = column_sums(query, key, **mask)
    if any(name not in extra for name in returns):
        scores, matrix = _scores(query, key, **mask)[0], weights(query, key, **mask)[0]
        extra |= statistics(scores, matrix, _labels(segments, key.shape[2]), total.shape[-1])
    return AttentionResult(result, **{name: extra[name] for name in returns})


def _for_each(given: Any, count: int) -> list[Any]:
    """Give one for each policy: what is no sequence is for all."""
    return list(given) if isinstance(given, (list, tuple)) else [given] * count


def _as_heads(heads: Array, *arrays: Array) -> list[Array]:
    """Give each head the query and key of another one, and its own value."""
    query, key, value = (np.repeat(x, arrays[0].shape[1] // x.shape[1], axis=1) for x in arrays)
    each = np.broadcast_to(heads, query.shape[:2])[:, :, None, None]
    return [*(np.take_along_axis(x, each, axis=1) for x in (query, key)), value]


def _numbers(array: Array | Stored, dtype: str | None) -> Array:
    """Give float64; uint16 are the bits of a 16-bit type, what is quantized has scales."""
    if isinstance(array, Stored) or array.dtype == np.uint16:
        array = to_float32(array, dtype)
    return np.asarray(array, np.float64)
