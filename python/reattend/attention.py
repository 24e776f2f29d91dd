"""Attention on NumPy arrays, with interventions inside the pass: the front of the compiled core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from reattend.border.core_call import attend
from reattend.border.keywords import refuse
from reattend.border.prefixed import Prefixed
from reattend.border.quantized import Stored
from reattend.border.request import CAUSAL, PLAIN, MaskSpec, Request
from reattend.border.results import AttentionResult, SegmentState
from reattend.checks import integer
from reattend.policy import MAX_SEGMENTS, Array, Policy
from reattend.transform import Transform

__all__ = ["attention", "segment_pass"]


@overload
def attention(
    query: Array,
    key: Array | Stored | Prefixed,
    value: Array | Stored | Prefixed,
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
    key: Array | Stored | Prefixed,
    value: Array | Stored | Prefixed,
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
    key: Array | Stored | Prefixed,
    value: Array | Stored | Prefixed,
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
    key : array [B, H_kv, M, D], Quantized, QuantizedBlocks or Prefixed
        Grouped heads by shape: query head h reads key head ``h // (H // H_kv)``. Its type may
        differ from query's: narrower keys and values are read faster.
    value : array [B, H_kv, M, Dv], Quantized, QuantizedBlocks or Prefixed
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
        ``"changed"``, bool [B, H, N]. Of each segment too, [B, H, N, G], over the keys whose score
        is not -inf: ``"score_sums"`` and ``"abs_score_sums"`` of scores as the softmax takes them,
        ``"entropies"`` -sum A log A (over segments they sum to the row's), and the ``"largest"``
        weight with its key, ``"largest_keys"`` int64; 0 and -1 without a key. ``"scores"``
        [B, H, N, M] are meant for few rows: as large as the matrix.
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

    >>> from reattend import Reweight
    >>> first = np.array([[[1]]], dtype=np.uint8)
    >>> result = attention(query, key, value, causal=True, segments=first,
    ...                    policy=Reweight(weight=(1, 0.5), to=(0,)), returns=("masses", "factors"))
    >>> np.allclose((result.masses * result.factors).sum(-1), 1)
    True
    """
    if unknown:
        refuse(unknown)
    edits_nothing = (
        scale is None and key_mask is None and bias is None and window is None and softcap is None
        and dtype is None
    )  # fmt: skip
    mask = (
        CAUSAL if edits_nothing and causal is True
        else MaskSpec(scale, causal, key_mask, bias, window, softcap, dtype)
    )  # fmt: skip
    asks_nothing = (
        segments is None and policy is None and where is None and transform is None
        and null_logit is None and returns == () and out is None
    )  # fmt: skip
    request = (
        PLAIN if asks_nothing
        else Request(segments, policy, where, transform, null_logit, returns, out)
    )  # fmt: skip
    found: Array | AttentionResult = attend(query, key, value, mask, request, num_threads)
    return found


def segment_pass(
    query: Array,
    key: Array | Stored | Prefixed,
    value: Array | Stored | Prefixed,
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
    if num_segments is not None:
        num_segments = integer("num_segments", num_segments)
        if not 1 <= num_segments <= MAX_SEGMENTS:
            raise ValueError(f"num_segments must be 1 to {MAX_SEGMENTS}, got {num_segments}")
    mask = MaskSpec(scale, causal, key_mask, bias, window, softcap, dtype)
    request = Request(
        segments, returns=("masses", "logsumexp"), num_segments=num_segments, instead="partials"
    )
    found = attend(query, key, value, mask, request, num_threads)
    return SegmentState(found.masses, found.out, found.logsumexp)
