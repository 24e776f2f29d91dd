"""Emphasis on the user's tokens: On the Loss of Context-awareness (2024), arXiv 2411.02688."""

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
class ContextEmphasis(Method):
    r"""In chosen heads the weights on spans of the prompt are multiplied, and rows sum to 1 again.

    .. code-block:: text

        A'_ij = factor A_ij / Z        j in the spans, Z what makes the row sum to 1
        A'_ij = A_ij / Z               others

    The spans are those of the user's message. The method of a paper on instruction tuning, which
    finds that tuned models attend less to what the user gave.

    Paper: On the Loss of Context-awareness in General Instruction Fine-tuning (2024),
    arXiv 2411.02688.

    Examples
    --------
    >>> ContextEmphasis(spans=((4, 9),)).factor
    2.0
    """

    edits: ClassVar[str] = "weights"
    statistic: ClassVar[str] = "none"
    steady: ClassVar[bool] = True
    segment_names: ClassVar[tuple[str, ...]] = ("rest", "spans")

    spans: tuple[tuple[int, int], ...] = ()  # (start, end) from the prompt's first real token
    heads: Any = None  # the steered heads, a mapping layer -> heads; None: all heads
    factor: float = 2.0  # what multiplies the weights; 1 leaves them
    rows: str = "all"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        if not (np.isfinite(number(self, "factor")) and self.factor > 0):
            raise ValueError(f"factor must be a number above 0, got {self.factor!r}")
        object.__setattr__(self, "spans", spans("spans", self.spans))
        object.__setattr__(self, "heads", frozen_heads(self.heads))

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Label the spans, and weigh them."""
        if state is not None and not call.prefill:
            return state, state
        chosen = heads_of_layer(self.heads, call.layer, call.num_heads)
        if not self.spans or not chosen.any():
            return None, None
        length = min(call.key_len, call.num_prompt)
        labels = call.in_spans(self.spans)[:, None, :length].astype(np.uint8)
        policy = Reweight(weight=(1, self.factor), to=(REST, SPAN))
        plan = Plan(labels, policy, chosen[None, :, None], rows=self.rows, phase=self.phase)
        return plan, plan
