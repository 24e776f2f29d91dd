"""Circuit Component Reuse Across Tasks in Transformer Language Models (ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.checks import finite, listed, spans
from reattend.head_set import frozen_heads, heads_of_layer
from reattend.method import Method
from reattend.plan import Plan
from reattend.policy import MAX_SEGMENTS, Reweight
from reattend.row_scope import check_scope


@dataclass(frozen=True)
class RowEdit(Method):
    r"""In chosen heads the prompt's last row is written: each span gets a given share of it.

    .. code-block:: text

        A'_ij = share_k A_ij / mass_i(span_k)                           j in span k
        A'_ij = (1 - sum of the shares) A_ij / mass_i(the rest)         others

    Within a span keys keep their proportion; one of a single key is written outright. The paper
    makes four inhibition heads attend to the wrong options at the last position; which heads is
    the model's fact, found by path patching. Rows that have next to nothing where something shall
    be are left alone.

    Paper: Circuit Component Reuse Across Tasks in Transformer Language Models (ICLR 2024),
    arXiv 2310.08744.

    Examples
    --------
    >>> RowEdit(spans=((4, 5), (9, 10)), shares=(0.5, 0.5), heads={8: (1,)}).phase
    'prefill'
    """

    edits: ClassVar[str] = "weights"
    statistic: ClassVar[str] = "masses of the spans"
    steady: ClassVar[bool] = True
    segment_names: ClassVar[tuple[str, ...]] = ("rest",)

    spans: tuple[tuple[int, int], ...] = ()  # (start, end) from the prompt's first real token
    shares: tuple[float, ...] = ()  # of the row, one for each span; together at most 1
    heads: Any = ()  # the edited heads, a mapping layer -> heads; None: all heads
    rows: str = "last"  # which rows: "last", "after_image" or "all"
    phase: str = "prefill"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        found = spans("spans", self.spans)
        if len(found) >= MAX_SEGMENTS:
            raise ValueError(f"spans must be at most {MAX_SEGMENTS - 1}, got {len(found)}")
        ordered = sorted(found)
        if any(a[1] > b[0] for a, b in pairwise(ordered)):
            raise ValueError(f"spans must not overlap, got {found}")
        shares = listed("shares", self.shares, "a number for each span")
        shares = tuple(finite("shares", each) for each in shares)
        if len(shares) != len(found) or any(each < 0 for each in shares) or sum(shares) > 1 + 1e-12:
            raise ValueError(
                f"shares must be numbers from 0, one for each of {len(found)} spans, and together "
                f"at most 1, got {shares}"
            )
        object.__setattr__(self, "spans", found)
        object.__setattr__(self, "shares", shares)
        object.__setattr__(self, "heads", frozen_heads(self.heads))

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Label the spans; what is missing of them is known when the prompt ends."""
        if state is not None and not call.prefill:
            return state, state
        chosen = heads_of_layer(self.heads, call.layer, call.num_heads)
        if not self.spans or not chosen.any():
            return None, None
        labels = np.zeros((call.batch, min(call.key_len, call.num_prompt)), np.uint8)
        for number, span in enumerate(self.spans, 1):
            inside = call.in_spans((span,))[:, : call.num_prompt]
            if call.last_chunk and not inside.any(-1).all():
                raise ValueError(
                    f"spans must lie in the prompt of each item, got {span} for prompts of "
                    f"{(call.num_prompt - call.first_key).tolist()} tokens"
                )
            labels[inside] = number
        heads = chosen[None, :, None]
        rest = 1 - sum(self.shares)
        weight = (rest if rest > 1e-12 else 0, *self.shares)  # shares may sum to 1 but for rounding
        policy = Reweight(weight, power=(0,) * len(weight))
        plan = Plan(labels[:, None], policy, heads, rows=self.rows, phase=self.phase)
        return plan, plan
