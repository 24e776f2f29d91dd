"""PASTA: Tell Your Model Where to Attend (ICLR 2024), arXiv 2311.02262."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.checks import spans
from reattend.head_set import frozen_heads, heads_of_layer
from reattend.method import Method, check_bools, number
from reattend.plan import Plan
from reattend.policy import Reweight
from reattend.row_scope import check_scope

REST, OUTSIDE, INSIDE = range(3)
LEAST = 1e-37  # what receivers must keep to be told from none, in float32


@dataclass(frozen=True)
class PASTA(Method):
    r"""In chosen heads the emphasised spans of the prompt keep their scores, others are lowered.

    .. code-block:: text

        s'_ij = s_ij + log alpha        j in the prompt, outside the spans

    A constant on all scores of a segment is a factor on its mass, with everybody receiving: that is
    how it is computed. Keys behind the prompt are left as they are. With k spans the published code
    adds k log alpha outside and (k-1) log alpha inside, which ``as_published`` does.

    Paper: Tell Your Model Where to Attend: Post-hoc Attention Steering for LLMs (ICLR 2024),
    arXiv 2311.02262.

    Examples
    --------
    >>> PASTA(spans=((4, 9),), heads={5: (0, 3)}).alpha
    0.01
    """

    edits: ClassVar[str] = "weights"
    statistic: ClassVar[str] = "none"
    steady: ClassVar[bool] = True
    segment_names: ClassVar[tuple[str, ...]] = ("rest", "outside", "inside")

    spans: tuple[tuple[int, int], ...] = ()  # (start, end) from the prompt's first real token
    heads: Any = None  # the steered heads, a mapping layer -> heads; None: all heads
    alpha: float = 0.01  # what is left of a weight outside, before rows sum to 1 again
    as_published: bool = False  # whether several spans lower each other, as in the code
    rows: str = "all"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        if not (np.isfinite(number(self, "alpha")) and self.alpha > 0):
            raise ValueError(f"alpha must be a number above 0, got {self.alpha!r}")
        check_bools(self, "as_published")
        object.__setattr__(self, "spans", spans("spans", self.spans))
        object.__setattr__(self, "heads", frozen_heads(self.heads))
        if not LEAST <= self._outside <= 1 / LEAST:  # rows would stay as they are
            raise ValueError(
                f"alpha must leave weights from {LEAST} to {1 / LEAST:.0e}, got {self.alpha!r}"
                + (f" for {len(self.spans)} spans as published" if self.as_published else "")
            )

    @property
    def _outside(self) -> float:
        """What a weight outside the spans is multiplied by; inside one power less."""
        try:
            return float(self.alpha ** (len(self.spans) if self.as_published else 1))
        except OverflowError:
            return np.inf

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Label the prompt, and weigh what lies outside the spans."""
        if state is not None and not call.prefill:
            return state, state
        chosen = heads_of_layer(self.heads, call.layer, call.num_heads)
        if not self.spans or not chosen.any():
            return None, None
        length = min(call.key_len, call.num_prompt)
        inside = call.in_spans(self.spans)[:, None, :length]
        labels = np.where(inside, INSIDE, OUTSIDE).astype(np.uint8)
        weight = (1, self._outside, self._outside / self.alpha)
        policy = Reweight(weight=weight, to=(REST, OUTSIDE, INSIDE))
        plan = Plan(labels, policy, chosen[None, :, None], rows=self.rows, phase=self.phase)
        return plan, plan
