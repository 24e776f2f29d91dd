"""What a call is given beside its arrays, made once and passed whole: MaskSpec and Request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from reattend.policy import Array, Policy


class MaskSpec(NamedTuple):
    """Which keys a row sees, and how scores are made: the arguments of `attention` of these names.

    The core reads it by position (cpp/bindings/arguments.h).
    """

    scale: float | None = None
    causal: bool = False
    key_mask: Array | None = None
    bias: Array | None = None
    window: int | None = None
    softcap: float | None = None
    dtype: str | None = None  # of uint16 bits


class FollowedColumns(NamedTuple):
    """What keys received so far, to which a step adds its row: the sinks are then segments.

    To policies and in masses a label g of ``segments`` is two: 2 g, and 2 g + 1 for its sinks. The
    core reads it by position, and writes to the arrays (cpp/bindings/arguments.h).
    """

    theta: float  # a key is a sink above this mean
    heads: Array | None  # bool [H], those that are followed, C of them; None: all
    received: Array  # float32 [2, B, C + 1, room]: before and after a step in turns, C + 1 as rows
    numbers: Array  # int64 [3]: which of both is the latest, and how many keys each has


class PassAhead(NamedTuple):
    """What a pass under the first policies of a call gave, beside its output and logsumexp.

    The core reads it by position (cpp/bindings/arguments.h).
    """

    policies: int  # how many these are
    touched: int  # as bits, the segments that the others weigh apart from the rest: few keys
    of: bytes  # what each segment of the call was to that pass
    masses: Array  # float32 [B, H, N, segments of that pass]
    factors: Array  # the same


class Request(NamedTuple):
    """What is asked of one call: arguments of `attention`, and behind them what only we ask for.

    The core reads it by position (cpp/bindings/arguments.h).
    """

    segments: Array | None = None
    policy: Policy | Sequence[Policy] | None = None
    where: Array | Sequence[Array | None] | None = None
    transform: Any = None  # a Transform
    null_logit: Array | None = None
    returns: str | Sequence[str] = ()
    out: Array | None = None
    num_segments: int | None = None  # where no Reweight says it; else what the labels hold
    heads: Array | None = None  # bool [B, H] whose column sums are wanted; those of others are void
    decided: Array | None = None  # factors [B, H, N, G] in place of policies
    plain: Array | None = None  # logsumexp [B, H, N] of plain attention, which `out` holds
    weights: Array | None = None  # attention [B, H, M] of its only row, if known
    instead: str | None = None  # of the output: "partials" [B, H, N, G, Dv], or "nothing"
    columns: FollowedColumns | None = None  # of a step; then policies see each segment in two
    ahead: PassAhead | None = None  # beside `plain`: `out` holds what its policies made of that
    products: Array | None = None  # float32 [B, H, N, M] of few rows: query . key, if known


NO_MASK, CAUSAL = MaskSpec(), MaskSpec(causal=True)  # most calls have one of both
PLAIN = Request()  # most calls: to make one takes a fifth of the time that Python has
