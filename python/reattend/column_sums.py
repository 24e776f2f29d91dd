"""What follows a plain pass: column sums from its logsumexp, and a policy decided after them."""

from __future__ import annotations

from collections.abc import Sequence

from reattend.border import arguments
from reattend.border.core_call import attend, sums_of
from reattend.border.prepare import as_tuple
from reattend.border.quantized import Stored
from reattend.border.request import MaskSpec, Request
from reattend.border.results import AttentionResult
from reattend.policy import Array, Reweight

_OF_POLICIES = ("masses", "factors", "changed")


def column_sums(
    query: Array,
    key: Array | Stored,
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
    mask = MaskSpec(scale, causal, key_mask, bias, window, softcap, dtype)
    return sums_of(query, key, logsumexp, mask, heads, num_threads)


def apply_policy(
    plain: AttentionResult,
    query: Array,
    key: Array | Stored,
    value: Array | Stored,
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
        ``"masses"``, ``"factors"``, ``"changed"``; others are in ``plain`` already.

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
    for name in asked:
        if name not in _OF_POLICIES:
            raise ValueError(f"returns must hold names of {_OF_POLICIES}, got {name!r}")
    if plain.out is None or plain.logsumexp is None:
        raise ValueError(
            'plain must hold an output and a logsumexp (attention(..., returns="logsumexp")), got '
            f"{plain!r}"
        )
    for each in as_tuple(arguments.policies(policy)):
        if not isinstance(each, Reweight):
            raise TypeError(f"policy must be a Reweight or a sequence of them, got {each!r}")
    mask = MaskSpec(scale, causal, key_mask, bias, window, softcap, dtype)
    request = Request(segments, policy, where, returns=asked, out=plain.out, plain=plain.logsumexp)
    found = attend(query, key, value, mask, request, num_threads)
    return found if asked else AttentionResult(found)
