"""What a pass over the keys gives back: two named tuples, of the kernel and of its reference."""

from __future__ import annotations

from typing import NamedTuple

from reattend.policy import Array


class AttentionResult(NamedTuple):
    """What `attention` gives when ``returns`` names anything; what was not asked for is None.

    Masses, column sums and logsumexp are those of plain attention, before any policy.
    """

    out: Array  # [B, H, N, Dv]
    masses: Array | None = None  # [B, H, N, G], the share of each row that each segment got
    logsumexp: Array | None = None  # [B, H, N], natural logarithm; -inf where a row sees no key
    column_sums: Array | None = None  # [B, H, M], the attention each key received
    factors: Array | None = None  # [B, H, N, G], what multiplied each segment; 1 in rows left alone


class SegmentState(NamedTuple):
    """What each segment of keys holds of each row: the open form of one pass.

    States over disjoint sets of keys merge exactly, see `merge`.
    """

    masses: Array  # [B, H, N, G]
    partials: Array  # [B, H, N, G, Dv], each segment's share of the output
    logsumexp: Array  # [B, H, N]
