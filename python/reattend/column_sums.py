"""What follows a plain pass: column sums from its logsumexp, and a policy decided after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reattend import _core
from reattend.border import arguments
from reattend.border.arguments import Shape
from reattend.border.inputs import checked
from reattend.border.quantized import Quantized
from reattend.border.results import AttentionResult
from reattend.policy import Array, Reweight


def column_sums(
    query: Array,
    key: Array | Quantized,
    logsumexp: Array,
    *,
    scale: float | None = None,
    causal: bool = False,
    key_mask: Array | None = None,
    bias: Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    heads: Array | None = None,
    dtype: str | None = None,
    num_threads: int | None = None,
) -> Array:
    """Compute what each key received, the sum over rows of A_ij, in O(N + M) memory.

    Parameters
    ----------
    query, key, scale, causal, key_mask, bias, window, softcap, dtype, num_threads
        As for `attention`. If causal, rows that stand at a masked key are padding and do not count.
    logsumexp : float32 array [B, H, N]
        Of the same rows over all keys, from `attention` with ``returns="logsumexp"``.
    heads : bool array [H] or [B, H], optional
        The heads to compute; the others are 0. All by default.

    Returns
    -------
    float32 array [B, H, M]

    Raises
    ------
    TypeError, ValueError
        As `attention`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.standard_normal((3, 1, 2, 5, 8), dtype=np.float32)
    >>> from reattend import attention
    >>> result = attention(query, key, value, returns="logsumexp")
    >>> np.allclose(column_sums(query, key, result.logsumexp).sum(-1), 5)
    True
    """
    query = arguments.tensor("query", query, "[B, H, N, D]", dtype)
    key, key_scale = arguments.stored("key", key, "[B, H_kv, M, D]", dtype)
    shape = arguments.sizes(query, key)
    half = arguments.half_type(dtype, query=query, key=key)
    mask = arguments.masks(shape, scale, causal, key_mask, bias, window, softcap, half)
    chosen = None
    if heads is not None:
        chosen = arguments.as_array("heads", heads)
        if chosen.dtype != bool or chosen.shape not in (shape.rows[1:2], shape.rows[:2]):
            raise ValueError(
                f"heads must be bool [H] or [B, H] = {shape.rows[:2]}, got {chosen.dtype} "
                f"{chosen.shape}"
            )
        chosen = np.ascontiguousarray(np.broadcast_to(chosen, shape.rows[:2]))
    sums = arguments.empty(shape.batch, shape.num_heads, shape.key_len)
    _core.column_sums(
        query, key, _logsumexp(logsumexp, shape), sums, mask.scale, mask.causal, mask.window,
        mask.softcap, mask.key_mask, mask.bias, chosen, arguments.threads(num_threads),
        mask.bfloat16, key_scale,
    )  # fmt: skip
    return sums


def apply_policy(
    plain: AttentionResult,
    query: Array,
    key: Array | Quantized,
    value: Array | Quantized,
    *,
    segments: Array | None,
    policy: Reweight | Sequence[Reweight],
    where: Array | Sequence[Array | None] | None = None,
    returns: str | Sequence[str] = (),
    scale: float | None = None,
    causal: bool = False,
    key_mask: Array | None = None,
    bias: Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dtype: str | None = None,
    num_threads: int | None = None,
) -> AttentionResult:
    """Apply a policy to attention that was computed without it, in place.

    Where at most 64 keys of a head have labels, only they are read again: the few sinks that their
    column sums gave away. Else this costs what `attention` costs.

    Parameters
    ----------
    plain : AttentionResult
        Of `attention` on the same arguments without a policy, with ``returns="logsumexp"``. Its
        ``out`` is overwritten.
    query, key, value, segments, where, scale, causal, key_mask, bias, window, softcap
        As for `attention`, and so are dtype and num_threads.
    policy : Reweight or sequence of Reweight
        Callables of another kind have no such short cut.
    returns : name or sequence of names, optional
        ``"masses"``, ``"factors"``, ``"changed"``.

    Returns
    -------
    AttentionResult
        ``plain.out`` as the policy changes it, and what was asked for.

    Raises
    ------
    TypeError, ValueError
        As `attention`.

    Examples
    --------
    >>> from reattend import attention
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.standard_normal((3, 1, 2, 5, 8), dtype=np.float32)
    >>> how = {"segments": np.array([[[0, 1]]], np.uint8), "policy": Reweight((1, 0.4), to=(0,))}
    >>> plain = attention(query, key, value, returns="logsumexp")
    >>> revised = apply_policy(plain, query, key, value, **how)
    >>> np.allclose(revised.out, attention(query, key, value, **how), atol=1e-6)
    True
    """
    asked = arguments.names(returns)
    query, key, value, scales, shape, mask = checked(
        query, key, value, scale, causal, key_mask, bias, window, softcap, dtype
    )
    policies = []
    for each in arguments.policies(policy):
        if not isinstance(each, Reweight):
            raise TypeError(f"policy must be a Reweight or a sequence of them, got {each!r}")
        policies.append(each)
    rows = arguments.wheres(shape, where, len(policies))
    rules = [arguments.rule(shape, each, row) for each, row in zip(policies, rows, strict=True)]
    labels = None if segments is None else arguments.labels(shape, segments)
    count = policies[0].num_segments if policies else 1
    full = (*shape.rows, value.shape[3])
    out = arguments.output(plain.out, full, (query, key, value), query.dtype)
    result = out if arguments.readable(out) is out else out.copy()
    masses = arguments.empty(*shape.rows, count) if "masses" in asked else None
    factors = arguments.empty(*shape.rows, count) if "factors" in asked else None
    changed = np.empty(shape.rows, bool) if "changed" in asked else None
    _core.attention(
        query, key, value, result, mask.scale, mask.causal, mask.window, mask.softcap,
        mask.key_mask, mask.bias, labels, count, rules, masses, None, factors, changed, None,
        arguments.threads(num_threads), _logsumexp(plain.logsumexp, shape), mask.bfloat16,
        scales, None, None, None, None, None,
    )  # fmt: skip
    if result is not out:
        out[...] = result
    return AttentionResult(out, masses=masses, factors=factors, changed=changed)


def _logsumexp(logsumexp: Any, shape: Shape) -> Array:
    logsumexp = arguments.as_array("logsumexp", logsumexp)
    if logsumexp.dtype != arguments.FLOAT32 or logsumexp.shape != shape.rows:
        raise ValueError(
            f"logsumexp must be float32 [B, H, N] = {shape.rows}, got {logsumexp.dtype} "
            f"{logsumexp.shape}"
        )
    return arguments.readable(logsumexp)
