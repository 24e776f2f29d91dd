"""The one road into the core: it is asked first, then told what was prepared for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from reattend import _core
from reattend.border import arguments
from reattend.border.dtypes import write
from reattend.border.prefixed import Prefixed
from reattend.border.prepare import Prepared, as_tuple, prepare, segment_count
from reattend.border.request import MaskSpec, Request
from reattend.border.results import AttentionResult, combine
from reattend.policy import Array, Reweight, decided_factors

_FEW_PARTIALS = 64 << 20  # bytes


def attend(
    query: Any, key: Any, value: Any, mask: MaskSpec, request: Request, num_threads: int | None
) -> Any:
    """Run a call: the output, or an AttentionResult if more is asked for.

    The core refuses what it does not read as it is, before it writes anything: arrays of other
    types or strides, lists, policies in Python, and whatever is wrong. Checks in Python take longer
    than a small call.

    Raises
    ------
    TypeError, ValueError
        As `prepare`.

    Examples
    --------
    >>> query = key = value = np.ones((1, 1, 2, 4), np.float32)
    >>> backwards = value[..., ::-1]  # is copied
    >>> attend(query, key, backwards, MaskSpec(scale=1), Request(), None)[0, 0, 0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    threads = num_threads
    if type(threads) is not int or not 1 <= threads <= arguments.MAX_THREADS:
        threads = arguments.threads(num_threads)  # a function less is 1% of a small call
    found = _core.attention(query, key, value, mask, request, threads)
    if found is not None:
        return found
    call = prepare(query, key, value, mask, request)
    room, out = call.request.out, request.out
    policies = as_tuple(call.request.policy)
    if all(isinstance(each, Reweight) for each in policies):
        found = _core.attention(*call, threads)
    else:
        found = _decided_in_python(call, threads)
    if found is None:
        raise RuntimeError("the core refuses what was prepared for it: please report this call")
    if out is None or room is out:
        return found
    out[...] = room  # its last axis has gaps, or an input lies between its numbers
    return found._replace(out=out) if request.returns else out


def _decided_in_python(call: Prepared, threads: int) -> Any:
    """Call policies once, between a pass for the masses and the output."""
    request, rows, value_dim = call.request, call.shape.rows, call.value.shape[3]
    policies = as_tuple(request.policy)
    where: Any = request.where
    where = list(where if isinstance(where, tuple) else (where,) * len(policies))
    count = arguments.count_segments(
        request.segments, segment_count(policies, request.num_segments)
    )
    few = 4 * np.prod(rows) * count * value_dim <= _FEW_PARTIALS
    asked = arguments.names(request.returns)
    of_rows = [name for name in asked if name in ("column_sums", *arguments.STATISTICS)]
    bare = request._replace(policy=None, where=None, num_segments=count)
    found = _core.attention(
        *call[:4],
        bare._replace(
            returns=("masses", "logsumexp", *of_rows), out=None,
            instead="partials" if few else "nothing",
        ),
        threads,
    )  # fmt: skip
    factors = decided_factors(found.masses, found.logsumexp, list(policies), where)
    if few:
        out = request.out
        if out is None:
            out = np.empty((*rows, value_dim), call.query.dtype)
        write(combine(found.out, factors), out, call.mask.dtype)
    else:
        out = _core.attention(*call[:4], bare._replace(returns=(), decided=factors), threads)
    known = found._asdict() | {"factors": factors, "changed": (factors != 1).any(-1)}
    return AttentionResult(out, **{name: known[name] for name in asked}) if asked else out


def sums_of(
    query: Any, key: Any, logsumexp: Any, mask: MaskSpec, heads: Any, num_threads: int | None
) -> Array:
    """Compute column sums [B, H, M] from an earlier pass's logsumexp."""
    threads = arguments.threads(num_threads)
    if isinstance(key, Prefixed):
        key = key.whole()
    sums: Array | None = _core.column_sums(query, key, logsumexp, mask, heads, threads)
    if sums is None:
        call = prepare(query, key, key, mask, Request())
        heads = None if heads is None else arguments.head_set(call.shape, heads)
        logsumexp = arguments.logsumexp(call.shape, logsumexp)
        sums = _core.column_sums(call.query, call.key, logsumexp, call.mask, heads, threads)
    assert sums is not None
    return sums
