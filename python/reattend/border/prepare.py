"""What the core does not read as it is: brought to what it reads, or named in an error."""

from __future__ import annotations

from typing import Any, NamedTuple

from reattend.border import arguments, score_edits
from reattend.border.arguments import Shape
from reattend.border.blocks import QuantizedBlocks
from reattend.border.prefixed import Prefixed
from reattend.border.quantized import Quantized, Stored
from reattend.border.request import MaskSpec, Request
from reattend.policy import Array, Policy, Reweight

MOST_ROWS = 8  # of an item, that read keys where they lie (kDecodeRows in cpp/attention.h)


class Prepared(NamedTuple):
    """A call that the core reads, but for policies that are no `Reweight`."""

    query: Array
    key: Array | Stored | Prefixed
    value: Array | Stored | Prefixed
    mask: MaskSpec
    request: Request

    @property
    def shape(self) -> Shape:
        """The sizes of the call."""
        return Shape(*self.query.shape[:3], *self.key.shape[2:])


def prepare(query: Any, key: Any, value: Any, mask: MaskSpec, request: Request) -> Prepared:
    """Check what a call is given; what the core reads as it is stays the very same object.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.

    Examples
    --------
    >>> query = key = value = np.zeros((1, 1, 2, 4), np.float32)
    >>> found = prepare(query, key, value, MaskSpec(scale=1), Request(returns=["masses"]))
    >>> found.query is query, found.mask.scale, found.request.returns
    (True, 1.0, ('masses',))
    """
    query = arguments.tensor("query", query, "[B, H, N, D]", mask.dtype)
    key = _stored("key", key, "[B, H_kv, M, D]", mask.dtype)
    value = _stored("value", value, "[B, H_kv, M, Dv]", mask.dtype)
    shape = arguments.sizes(query, key)
    arguments.check_value(value, key)
    arguments.check_half_types(mask.dtype, query=query, key=key, value=value)
    mask = arguments.masks(shape, mask)
    if not _read_in_parts(query, key, value, request):
        key, value = _whole(key), _whole(value)
    asked = arguments.names(request.returns)
    transform = score_edits.transform(shape, request.transform)
    null_logit = score_edits.null_logit(shape, request.null_logit)
    if null_logit is not None and "column_sums" in asked:
        raise ValueError("returns must not hold 'column_sums' with a null_logit")
    policy = arguments.policies(request.policy)
    each = as_tuple(policy)
    if request.where is not None and not each:
        raise ValueError("where must come with a policy, got policy=None")
    where = arguments.wheres(shape, request.where, len(each))
    labels = None if request.segments is None else arguments.labels(shape, request.segments)
    arguments.count_segments(labels, segment_count(each, request.num_segments))
    out = request.out
    if out is not None:
        read = [
            query, *_arrays(key), *_arrays(value), mask.key_mask, mask.bias, labels, null_logit,
            *(where if isinstance(where, tuple) else (where,)),
        ]  # fmt: skip
        out = arguments.output(out, (*shape.rows, value.shape[3]), read, query.dtype)
        if request.plain is not None and out is not request.out:
            out[...] = request.out
    arguments.check_weights(shape, each)
    plain = None if request.plain is None else arguments.logsumexp(shape, request.plain)
    return Prepared(
        query, key, value, mask,
        request._replace(
            segments=labels, policy=policy, where=where, transform=transform,
            null_logit=null_logit, out=out, plain=plain,
            returns=request.returns if type(request.returns) is str else asked,
        ),
    )  # fmt: skip


def as_tuple(policy: Any) -> tuple[Policy, ...]:
    """Give one policy, several or none as a tuple."""
    return () if policy is None else policy if isinstance(policy, tuple) else (policy,)


def segment_count(policies: tuple[Policy, ...], num_segments: int | None) -> int | None:
    """Give G where a `Reweight` or the caller says it; else labels do."""
    sizes = (each.num_segments for each in policies if isinstance(each, Reweight))
    return next(sizes, num_segments)


def _stored(name: str, given: Any, axes: str, dtype: str | None) -> Any:
    check = arguments.prefixed if isinstance(given, Prefixed) else arguments.stored
    return check(name, given, axes, dtype)


def _read_in_parts(query: Array, key: Any, value: Any, request: Request) -> bool:
    """Whether the pass reads a shared prefix and what follows as two parts."""
    if not (isinstance(key, Prefixed) and isinstance(value, Prefixed)):
        return False
    sums = "column_sums" in arguments.names(request.returns)
    alike = key.prefix.shape[2] == value.prefix.shape[2]
    few = query.shape[2] <= MOST_ROWS and not (sums and query.shape[2] > 1)
    return alike and few and request.plain is None


def _whole(stored: Any) -> Any:
    return stored.whole() if isinstance(stored, Prefixed) else stored


def _arrays(stored: Any) -> tuple[Array, ...]:
    if isinstance(stored, Prefixed):
        return (*_arrays(stored.prefix), *_arrays(stored.own))
    if isinstance(stored, QuantizedBlocks):
        return stored.blocks, stored.rest
    return tuple(stored) if isinstance(stored, Quantized) else (stored,)
