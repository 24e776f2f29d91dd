"""Split softmax: Measuring and Controlling Instruction (In)Stability (COLM 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.checks import spans
from reattend.head_set import frozen_heads, heads_of_layer
from reattend.method import Method, number
from reattend.plan import Plan
from reattend.policy import Reweight
from reattend.row_scope import check_scope

REST, SPAN = range(2)


@dataclass(frozen=True)
class SplitSoftmax(Method):
    r"""In chosen heads spans of the prompt get a power of their attention, below 1 so more of it.

    .. code-block:: text

        m     = mass_i(S)
        A'_ij = m^k / m A_ij                    j in S, the spans
        A'_ij = (1 - m^k) / (1 - m) A_ij        j not in S

    Focus Directions Make Your Language Models Pay More Attention to Relevant Contexts (2025) uses
    it on the relevant spans of contextual heads.

    Paper: Measuring and Controlling Instruction (In)Stability in Language Model Dialogs
    (COLM 2024), arXiv 2402.10962.

    Examples
    --------
    >>> SplitSoftmax(spans=((0, 12),)).k
    0.5
    """

    edits: ClassVar[str] = "weights"
    statistic: ClassVar[str] = "masses of the spans"
    steady: ClassVar[bool] = True
    segment_names: ClassVar[tuple[str, ...]] = ("rest", "spans")

    spans: tuple[tuple[int, int], ...] = ()  # (start, end) from the prompt's first real token
    heads: Any = None  # the steered heads, a mapping layer -> heads; None: all heads
    k: float = 0.5  # the power; 1 leaves attention as it is
    rows: str = "all"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        if not (np.isfinite(number(self, "k")) and self.k >= 0):
            raise ValueError(f"k must be a number from 0, got {self.k!r}")
        object.__setattr__(self, "spans", spans("spans", self.spans))
        object.__setattr__(self, "heads", frozen_heads(self.heads))

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Label the spans."""
        if state is not None and not call.prefill:
            return state, state
        chosen = heads_of_layer(self.heads, call.layer, call.num_heads)
        if not self.spans or not chosen.any():
            return None, None
        length = min(call.key_len, call.num_prompt)
        labels = call.in_spans(self.spans)[:, None, :length].astype(np.uint8)
        policy = Reweight(weight=(1, 1), to=(REST,), power=(1, self.k))
        plan = Plan(labels, policy, chosen[None, :, None], rows=self.rows, phase=self.phase)
        return plan, plan
