"""Attention on NumPy arrays, with interventions inside the pass: the front of the compiled core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from reattend import _core
from reattend.border import arguments, score_edits
from reattend.border.at_once import computed, usual
from reattend.border.dtypes import write
from reattend.border.inputs import Inputs, checked
from reattend.border.keywords import refuse
from reattend.border.quantized import Quantized
from reattend.border.results import AttentionResult, SegmentState, combine
from reattend.policy import Array, Policy, Reweight, decided_factors
from reattend.transform import Transform

_FEW_PARTIALS = 64 << 20  # bytes


@overload
def attention(
    query: Array,
    key: Array | Quantized,
    value: Array | Quantized,
    *,
    scale: float | None = None,
    causal: bool = False,
    key_mask: Array | None = None,
    bias: Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    segments: Array | None = None,
    policy: Policy | Sequence[Policy] | None = None,
    where: Array | Sequence[Array | None] | None = None,
    transform: Transform | None = None,
    null_logit: Array | None = None,
    returns: str | Sequence[str],
    out: Array | None = None,
    dtype: str | None = None,
    num_threads: int | None = None,
) -> AttentionResult: ...
@overload
def attention(
    query: Array,
    key: Array | Quantized,
    value: Array | Quantized,
    *,
    scale: float | None = None,
    causal: bool = False,
    key_mask: Array | None = None,
    bias: Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    segments: Array | None = None,
    policy: Policy | Sequence[Policy] | None = None,
    where: Array | Sequence[Array | None] | None = None,
    transform: Transform | None = None,
    null_logit: Array | None = None,
    returns: tuple[()] = (),
    out: Array | None = None,
    dtype: str | None = None,
    num_threads: int | None = None,
) -> Array: ...
def attention(
    query: Array,
    key: Array | Quantized,
    value: Array | Quantized,
    *,
    scale: float | None = None,
    causal: bool = False,
    key_mask: Array | None = None,
    bias: Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    segments: Array | None = None,
    policy: Policy | Sequence[Policy] | None = None,
    where: Array | Sequence[Array | None] | None = None,
    transform: Transform | None = None,
    null_logit: Array | None = None,
    returns: str | Sequence[str] = (),
    out: Array | None = None,
    dtype: str | None = None,
    num_threads: int | None = None,
    **unknown: Any,
) -> Array | AttentionResult:
    r"""Compute softmax(scale query key^T) value, exactly, without the attention matrix.

    With ``segments`` and a ``policy`` the attention that a row spends on each segment of keys is
    multiplied by a factor that depends on how much each segment got:

    .. code-block:: text

        mass_g = sum_{j in g} A_j      partial_g = sum_{j in g} A_j V_j
        out    = sum_g factor_g partial_g,      factors = policy(masses)

    A `Reweight`, or several, run inside the pass. Any other callable is called once, with the
    masses of all rows. While the partial outputs take up to 64 MiB they are kept until then; else a
    first pass over query and key finds the masses (half of the work once more), and the memory is
    that of a `Reweight`.

    Parameters
    ----------
    query : array [B, H, N, D]
        After rotary embedding. float32, float16 or bfloat16 (of `ml_dtypes`). Any strides; a last
        axis that is not contiguous costs a copy. Sums are float32 for all types; so are products,
        but for bfloat16 on a CPU that multiplies these, where rows are many or share a key head:
        there attention weights are rounded to bfloat16 before they meet the values.
    key : array [B, H_kv, M, D], or Quantized
        Grouped heads by shape: query head h reads key head ``h // (H // H_kv)``. Its type may
        differ from query's: narrower keys and values are read faster.
    value : array [B, H_kv, M, Dv], or Quantized
        Dv may differ from D.
    scale : float, optional
        Multiplies the scores; D ** -0.5 by default.
    causal : bool, optional
        Row i sees keys up to M - N + i: aligned at the bottom right.

        .. code-block:: text

            N = M = 3      N = 2, M = 4
            1 . .          1 1 1 .
            1 1 .          1 1 1 1
            1 1 1
    key_mask : bool array [B, M], optional
        False for keys that no row may see (padding, left or right).
    bias : float array, optional
        Added to the scores, after ``softcap``; broadcasts to [B, H, N, M]. -inf gives a key weight
        0; unlike one hidden by ``causal``, ``key_mask`` or ``window`` it is still read, so that a
        NaN in its key or value reaches the row.
    window : int, optional
        A row at position p sees keys j with p - window < j (and j < p + window if not causal).
    softcap : float, optional
        Scores s become softcap * tanh(s / softcap).
    segments : uint8 array [B, 1 or H, M' <= M], optional
        Label of each key, below 16; 0 is the rest, and so are keys beyond M'.
    policy : Reweight, callable, or sequence of these, optional
        Masses [B, H, N, G] -> factors [B, H, N, G]. Of several, each sees the masses that the ones
        before it left. G is the length of a `Reweight`'s weight, else the largest label + 1.
    where : bool array that broadcasts to [B, H, N], or a sequence of these, optional
        The rows that the policy is for; a sequence has one (or None) for each policy.
    transform : Transform, optional
        What scores become, for each key, before the softmax.
    null_logit : float array that broadcasts to [B, H, N], optional
        Score of a key without a value that each row sees beside its keys, so that its masses sum to
        less than 1: a learned sink (``s_aux`` of gpt-oss), or what registers take. -inf: none.
        ``"logsumexp"`` counts it. Column sums cannot be asked for with it.
    returns : name or sequence of names, optional
        What to return beside the output: ``"masses"`` [B, H, N, G], ``"logsumexp"`` [B, H, N] and
        ``"column_sums"`` [B, H, M] of attention before the policy (column sums leave out rows that
        stand at a masked key, if causal); the policy's ``"factors"`` [B, H, N, G], and the rows it
        ``"changed"``, bool [B, H, N].
    out : array [B, H, N, Dv], optional
        Where to write the output; float32, or of query's type as it is by default. A signal whose
        handler raises (Ctrl-C) ends a long call; some rows of ``out`` are written then.
    dtype : "float16" or "bfloat16", optional
        What uint16 arrays hold the bits of, such as ``tensor.view(torch.uint16).numpy()``.
    num_threads : int, optional
        Threads to use; by default REATTEND_NUM_THREADS, else what OpenMP offers.
    **unknown
        Refused, with what to write here for names of PyTorch's SDPA.

    Returns
    -------
    array [B, H, N, Dv], or AttentionResult
        The output; with ``returns``, a named tuple of it and what was asked for. Rows that see no
        key are 0, with logsumexp -inf, masses 0 and factors 1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came. Nothing is written then.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.standard_normal((3, 1, 2, 5, 8), dtype=np.float32)
    >>> attention(query, key, value, causal=True).shape
    (1, 2, 5, 8)

    The first key keeps half of its attention, the others receive what that frees:

    >>> first = np.array([[[1]]], dtype=np.uint8)
    >>> result = attention(query, key, value, causal=True, segments=first,
    ...                    policy=Reweight(weight=(1, 0.5), to=(0,)), returns=("masses", "factors"))
    >>> np.allclose((result.masses * result.factors).sum(-1), 1)
    True
    """
    refuse(unknown)
    threads = arguments.threads(num_threads)
    edited = transform is not None or null_logit is not None
    is_plain = policy is None and where is None and segments is None and returns == ()
    if not edited and out is None and usual(scale, causal, key_mask, bias, window, softcap, dtype):
        if is_plain:
            plain = _core.plain(query, key, value, scale, causal, threads)
            if plain is not None:
                return plain
        elif returns in ((), "masses"):
            found = computed(
                query, key, value, scale, causal, threads, segments=segments, policy=policy,
                where=where, weighed=returns == "masses",
            )  # fmt: skip
            if found is not None:
                return found if returns else found.out
    inputs = checked(query, key, value, scale, causal, key_mask, bias, window, softcap, dtype)
    if is_plain and not edited:
        result = _room(inputs, out)  # a small call spends a tenth of its time on what is left out
        _run(inputs, threads, result, None, 1, [], None, None, None, None, None)
        return _given(result, out)
    asked, shape, mask = arguments.names(returns), inputs.shape, inputs.mask
    edits = (
        score_edits.transform(shape, transform), score_edits.null_logit(shape, null_logit)
    )  # fmt: skip
    if null_logit is not None and "column_sums" in asked:
        raise ValueError("returns must not hold 'column_sums' with a null_logit")
    policies = arguments.policies(policy)
    if where is not None and not policies:
        raise ValueError("where must come with a policy, got policy=None")
    rows = arguments.wheres(shape, where, len(policies))
    labels = None if segments is None else arguments.labels(shape, segments)
    weighing = [each for each in policies if isinstance(each, Reweight)]
    num_segments = arguments.count_segments(labels, weighing[0].num_segments if weighing else None)
    result = _room(inputs, out, labels, *rows)
    per_segment = (*shape.rows, num_segments)
    masses = arguments.empty(*per_segment) if "masses" in asked else None
    logsumexp = sums = None
    if "logsumexp" in asked:
        logsumexp = arguments.empty(*shape.rows)
    if "column_sums" in asked:
        logsumexp, sums = arguments.empty(*shape.rows), arguments.empty(*shape.columns)
    if len(weighing) == len(policies):
        factors = arguments.empty(*per_segment) if "factors" in asked else None
        changed = np.empty(shape.rows, bool) if "changed" in asked else None
        rules = [arguments.rule(shape, *each) for each in zip(weighing, rows, strict=True)]
        _run(inputs, threads, result, labels, num_segments, rules,
             masses, logsumexp, factors, changed, None, sums, edits=edits)  # fmt: skip
    else:
        masses, logsumexp = arguments.empty(*per_segment), arguments.empty(*shape.rows)
        partials = None
        if 4 * masses.size * inputs.value.shape[3] <= _FEW_PARTIALS:
            partials = arguments.empty(*per_segment, inputs.value.shape[3])
        _run(inputs, threads, None, labels, num_segments, [],
             masses, logsumexp, None, None, partials, sums, edits=edits)  # fmt: skip
        factors = decided_factors(masses, logsumexp, policies, rows)
        changed = (factors != 1).any(-1)
        if partials is not None:
            write(combine(partials, factors), result, mask.dtype)
        else:
            _run(inputs, threads, result, labels, num_segments, [],
                 None, None, None, None, None, decided=factors, edits=edits)  # fmt: skip
    result = _given(result, out)
    if not asked:
        return result
    return AttentionResult(
        result,
        masses if "masses" in asked else None,
        logsumexp if "logsumexp" in asked else None,
        sums,
        factors if "factors" in asked else None,
        changed if "changed" in asked else None,
    )


def segment_pass(
    query: Array,
    key: Array | Quantized,
    value: Array | Quantized,
    *,
    segments: Array | None,
    num_segments: int | None = None,
    scale: float | None = None,
    causal: bool = False,
    key_mask: Array | None = None,
    bias: Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    dtype: str | None = None,
    num_threads: int | None = None,
) -> SegmentState:
    """Compute each segment's share of attention and of the output: the first of three open steps.

    ``combine(state.partials, policy(state.masses))`` is `attention` with that policy.

    Parameters
    ----------
    query, key, value, segments, scale, causal, key_mask, bias, window, softcap, dtype, num_threads
        As for `attention`.
    num_segments : int, optional
        G; the largest label + 1 by default.

    Returns
    -------
    SegmentState
        masses [B, H, N, G], partials [B, H, N, G, Dv] and logsumexp [B, H, N], float32.

    Raises
    ------
    TypeError, ValueError
        As `attention`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.standard_normal((3, 1, 2, 5, 8), dtype=np.float32)
    >>> state = segment_pass(query, key, value, segments=np.array([[[0, 1, 1]]], dtype=np.uint8))
    >>> np.allclose(state.partials.sum(-2), attention(query, key, value), atol=1e-6)
    True
    """
    inputs = checked(query, key, value, scale, causal, key_mask, bias, window, softcap, dtype)
    threads = arguments.threads(num_threads)
    labels = None if segments is None else arguments.labels(inputs.shape, segments)
    if num_segments is not None:
        num_segments = arguments.integer("num_segments", num_segments)
    count = arguments.count_segments(labels, num_segments)
    if not 1 <= count <= _core.MAX_SEGMENTS:
        raise ValueError(f"num_segments must be 1 to {_core.MAX_SEGMENTS}, got {num_segments}")
    return _segment_pass(inputs, threads, labels, count)


def plain_pass(
    query: Array,
    key: Array | Quantized,
    value: Array | Quantized,
    summed: bool,
    heads: Array | None = None,
    *,
    scale: float | None = None,
    causal: bool = False,
    key_mask: Array | None = None,
    bias: Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    out: Array | None = None,
    dtype: str | None = None,
    num_threads: int | None = None,
) -> AttentionResult:
    """Compute attention without a policy: output, logsumexp and the column sums of some heads.

    Parameters
    ----------
    query, key, value, scale, causal, key_mask, bias, window, softcap, out, dtype, num_threads
        As for `attention`.
    summed : bool
        Whether column sums are wanted.
    heads : bool array [H], optional
        Whose; all heads' by default. What they hold of other heads means nothing.

    Examples
    --------
    >>> query = key = value = np.zeros((1, 2, 3, 4), np.float32)
    >>> sums = plain_pass(query, key, value, True, np.array([True, False])).column_sums
    >>> sums[0, 0].round(3).tolist()
    [1.0, 1.0, 1.0]
    """
    threads = arguments.threads(num_threads)
    if (
        summed
        and out is heads is None
        and usual(scale, causal, key_mask, bias, window, softcap, dtype)
    ):
        found = computed(query, key, value, scale, causal, threads, summed=True)
        if found is not None:
            return found
    inputs = checked(query, key, value, scale, causal, key_mask, bias, window, softcap, dtype)
    shape, result = inputs.shape, _room(inputs, out)
    logsumexp, sums = (
        arguments.empty(*shape.rows),
        arguments.empty(*shape.columns) if summed else None,
    )
    whose = None if heads is None else heads[None].repeat(shape.batch, axis=0)
    _run(inputs, threads, result, None, 1, [],
         None, logsumexp, None, None, None, sums, whose)  # fmt: skip
    return AttentionResult(_given(result, out), logsumexp=logsumexp, column_sums=sums)


def _room(inputs: Inputs, out: Array | None, *also_read: Array | None) -> Array:
    """Give the array that the core writes to; one in place of ``out`` if its last axis has gaps."""
    query, _, value, _, shape, mask = inputs
    full = (*shape.rows, value.shape[3])
    if out is None:
        return np.empty(full, query.dtype)
    read = (query, inputs.key, value, *inputs.scales, mask.key_mask, mask.bias, *also_read)
    arguments.output(out, full, read, query.dtype)
    return out if arguments.readable(out) is out else np.empty(full, out.dtype)


def _given(result: Array, out: Array | None) -> Array:
    """Give ``out``, if there is one, with what `_room` had the core write elsewhere."""
    if out is None or out is result:
        return result
    out[...] = result
    return out


def _run(
    inputs: Inputs, threads: int, out: Array | None, labels: Array | None, num_segments: int,
    rules: list[Any], masses: Array | None, logsumexp: Array | None, factors: Array | None,
    changed: Array | None, partials: Array | None, sums: Array | None = None,
    summed: Array | None = None, decided: Array | None = None,
    edits: tuple[score_edits.Packed | None, Array | None] = (None, None),
) -> None:  # fmt: skip
    query, key, value, scales, _, mask = inputs
    _core.attention(
        query, key, value, out, mask.scale, mask.causal, mask.window, mask.softcap, mask.key_mask,
        mask.bias, labels, num_segments, rules, masses, logsumexp, factors, changed, partials,
        threads, None, mask.bfloat16, scales, sums, summed, decided, *edits,
    )  # fmt: skip


def _segment_pass(
    inputs: Inputs, threads: int, labels: Array | None, num_segments: int
) -> SegmentState:
    rows, value_dim = inputs.shape.rows, inputs.value.shape[3]
    masses, logsumexp = arguments.empty(*rows, num_segments), arguments.empty(*rows)
    partials = arguments.empty(*rows, num_segments, value_dim)
    _run(inputs, threads, None, labels, num_segments, [],
         masses, logsumexp, None, None, partials)  # fmt: skip
    return SegmentState(masses, partials, logsumexp)
