"""What a call would do, and why, without doing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from reattend import _core
from reattend.border import arguments
from reattend.border.keywords import refuse
from reattend.border.prefixed import Prefixed
from reattend.border.prepare import Prepared, as_tuple, prepare, segment_count
from reattend.border.quantized import Stored
from reattend.border.request import MaskSpec, Request
from reattend.policy import Array, Policy, Reweight
from reattend.transform import Transform


class ThreadShare(NamedTuple):
    """What one thread does of a call, if each unit takes as long as its work says."""

    units: int
    work: int  # pairs of a row and a key that it sees


class Explanation(NamedTuple):
    """How a call is computed; printed, it is a sentence a line."""

    kernel: str  # "decode" (few rows) or "prefill" (many)
    products: str  # what is multiplied: "float32" or "bfloat16"
    instruction_set: str
    threads: int  # that are woken
    units: int  # independent pieces of work, each done by one thread
    shares: tuple[ThreadShare, ...]  # of each thread: units go to the one that is free first
    tile: tuple[int, int]  # rows and keys
    scratch: int  # bytes that each thread keeps
    reasons: tuple[str, ...]

    @property
    def imbalance(self) -> float:
        """The largest thread's work over the mean: how much longer it takes than evenly split."""
        work = [share.work for share in self.shares]
        return max(work) * len(work) / max(sum(work), 1)

    def __str__(self) -> str:
        rows, keys = self.tile
        lines = [
            f"{self.kernel}: tiles of {rows} rows x {keys} keys, {self.products} products, "
            f"{self.instruction_set}",
            f"{self.threads} of the threads work on {self.units} units, "
            f"each with {self.scratch / 2**20:.2f} MiB of scratch memory",
            f"the largest thread's share of the work is {self.imbalance:.2f} of the mean",
        ]
        return "\n".join([*lines, *(f"- {reason}" for reason in self.reasons)])


def explain(
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
) -> Explanation:
    """Say how `attention` would compute a call: which kernel, tiles, threads, and why.

    Parameters
    ----------
    query, key, value, scale, causal, key_mask, bias, window, softcap, segments, policy, where
        As for `attention`, and so are transform, null_logit, returns, out, dtype, num_threads and
        unknown. Nothing is computed.

    Returns
    -------
    Explanation

    Raises
    ------
    TypeError, ValueError
        As `attention`.

    Examples
    --------
    >>> import numpy as np
    >>> query = np.zeros((1, 32, 1, 128), np.float32)
    >>> key = np.zeros((1, 8, 4096, 128), np.float32)
    >>> print(explain(query, key, key, num_threads=2))  # doctest: +ELLIPSIS
    decode: tiles of 4 rows x 512 keys, float32 products, ...
    2 of the threads work on 64 units, each with ... MiB of scratch memory
    the largest thread's share of the work is 1.00 of the mean
    - 1 row: keys and values are read once, where they lie; up to 8 rows go this way
    - 4 query heads share a key head, and one reading of it
    - keys are split into 8 chunks a key head, whose results are merged
    """
    refuse(unknown)
    call = prepare(
        query, key, value,
        MaskSpec(scale, causal, key_mask, bias, window, softcap, dtype),
        Request(segments, policy, where, transform, null_logit, returns, out),
    )  # fmt: skip
    policies, asked = as_tuple(call.request.policy), arguments.names(returns)
    known = segment_count(policies, None)
    count = arguments.count_segments(call.request.segments, known)
    bare = call.request._replace(policy=None, where=None, out=None, num_segments=count)
    threads = arguments.threads(num_threads)
    found = _core.explain(*call[:4], bare, threads)
    reasons = _of_kernel(call, found) + _of_types(call, found)
    if found["threads"] < min(threads, found["units"]):
        kept = f"{found['threads']} thread" + "s" * (found["threads"] > 1)
        reasons.append(f"{kept}: waking another would take longer than what it would do")
    if count > 1:
        reasons.append(f"{count} segments are kept apart, a sum and a partial output for each")
    if bare.transform is not None and bare.transform.acts:
        reasons.append("scores of chosen keys are transformed before the softmax")
    if bare.null_logit is not None:
        reasons.append("a key without a value joins each row's sum")
    if not all(isinstance(each, Reweight) for each in policies):
        reasons.append("a policy is a Python callable: it is called once, between two steps")
    if "column_sums" in asked:
        reasons.append(
            "column sums take a second pass"
            if not found["keeps"]
            else "column sums are the row's weights"
            if found["few_rows"]
            else "column sums: the weights of a tile of rows are kept until their sums are known"
        )
    return Explanation(
        "decode" if found["few_rows"] else "prefill",
        "bfloat16" if found["bfloat16"] else "float32",
        _core.isa(),
        found["threads"],
        found["units"],
        tuple(ThreadShare(*each) for each in found["shares"]),
        (found["rows"], found["keys"]),
        found["scratch"],
        tuple(reasons),
    )


def _of_kernel(call: Prepared, found: dict[str, Any]) -> list[str]:
    shape, num_kv_heads = call.shape, call.key.shape[1]
    rows = f"{shape.query_len} row" + "s" * (shape.query_len != 1)
    if not found["few_rows"]:
        return [f"{rows}: tiles of queries walk over packed tiles of keys; from 9 rows on"]
    reasons = [f"{rows}: keys and values are read once, where they lie; up to 8 rows go this way"]
    group = shape.num_heads // max(num_kv_heads, 1)
    if isinstance(call.key, Prefixed):
        shared = f"the first {call.key.prefix.shape[2]} keys are read for several items together"
        return [*reasons, f"{shared}, and merged with what is each item's own"]
    if group > 1:
        reasons.append(f"{group} query heads share a key head, and one reading of it")
    chunks = found["units"] // max(shape.batch * num_kv_heads, 1)
    if chunks > 1:
        reasons.append(f"keys are split into {chunks} chunks a key head, whose results are merged")
    return reasons


def _of_types(call: Prepared, found: dict[str, Any]) -> list[str]:
    names = {"query": call.query, "key": call.key, "value": call.value}
    narrow = [name for name, array in names.items() if array.dtype != arguments.FLOAT32]
    if not narrow:
        return []
    if found["bfloat16"]:
        return ["all are bfloat16 and the CPU multiplies that: weights are rounded to it as well"]
    where = "in registers" if found["few_rows"] else "tile by tile"
    reasons = [f"{', '.join(narrow)} converted to float32 {where}"]
    bfloat16 = "bfloat16" in (call.mask.dtype, *(array.dtype.name for array in names.values()))
    if bfloat16 and not found["few_rows"]:
        lacking = f"{_core.isa()} of this CPU has none"
        why = "not all arrays are bfloat16" if len(narrow) < 3 else lacking
        reasons.append(f"no bfloat16 products: {why}")
    return reasons
