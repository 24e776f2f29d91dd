"""Ships' ablation: On the Role of Attention Heads in Large Language Model Safety (ICLR 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.head_set import frozen_heads, heads_of_layer
from reattend.method import Method, check_finite
from reattend.plan import Plan
from reattend.policy import KEEP
from reattend.row_scope import check_scope
from reattend.transform import Transform


@dataclass(frozen=True)
class EvenHeads(Method):
    r"""Chosen heads attend to all they see nearly evenly: their scores are made next to nothing.

    .. code-block:: text

        s'_hij = epsilon s_hij

    That is the undifferentiated attention of Ships, W_q or W_k times epsilon. Its other ablation,
    W_v times epsilon, is `HeadMask` with that gate. `reattend.measures.ships` compares the answers
    with and without a head. A layer with a softcap is refused: there scores times epsilon are not
    what queries times epsilon give.

    Paper: On the Role of Attention Heads in Large Language Model Safety (ICLR 2025),
    arXiv 2410.13708.

    Examples
    --------
    >>> EvenHeads(heads={5: (0, 3)})
    EvenHeads(heads=((5, (0, 3)),), epsilon=1e-05, rows='all', phase='both')
    """

    edits: ClassVar[str] = "scores"
    statistic: ClassVar[str] = "none"
    steady: ClassVar[bool] = True

    heads: Any = ()  # the ablated heads, a mapping layer -> heads; None: all heads
    epsilon: float = 1e-5  # what multiplies their scores; 1 leaves them
    rows: str = "all"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        check_finite(self, "epsilon")
        object.__setattr__(self, "heads", frozen_heads(self.heads))

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Shrink the scores of the chosen heads, on all keys."""
        if state is not None:
            return state, state
        chosen = heads_of_layer(self.heads, call.layer, call.num_heads)
        if not chosen.any() or self.epsilon == 1:
            return None, None
        if call.mask.softcap is not None:
            raise ValueError(
                f"layer {call.layer}: EvenHeads scales queries, which under a softcap is not to "
                "scale scores: choose heads of layers without one"
            )
        scale = np.full((1, 1, 1), self.epsilon)
        edit = Transform(scale=scale, beyond=True, heads=chosen[None])
        plan = Plan(None, KEEP, transform=edit, rows=self.rows, phase=self.phase)
        return plan, plan
