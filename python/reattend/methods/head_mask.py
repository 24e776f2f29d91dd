"""Head masks: Are Sixteen Heads Really Better than One? (NeurIPS 2019), arXiv 1905.10650."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.head_set import frozen_heads, heads_of_layer
from reattend.method import Method, check_finite
from reattend.plan import Plan
from reattend.policy import Reweight
from reattend.row_scope import check_scope


@dataclass(frozen=True)
class HeadMask(Method):
    r"""The outputs of chosen heads are multiplied by a gate, 0 by default, in all rows.

    .. code-block:: text

        O'_h = xi_h O_h

    `reattend.measures.pruning_order` gives the order in which to mask heads. The same gate at 0, on
    memory or on context heads that path patching found, is PH3 of Cutting Off the Head Ends the
    Conflict (2024), and one head at a time gives what `reattend.measures.ships` compares.

    Paper: Are Sixteen Heads Really Better than One? (NeurIPS 2019), arXiv 1905.10650.

    Examples
    --------
    >>> HeadMask(heads={5: (0, 3)})
    HeadMask(heads=((5, (0, 3)),), gate=0.0, rows='all', phase='both')
    """

    edits: ClassVar[str] = "outputs"
    statistic: ClassVar[str] = "none"
    steady: ClassVar[bool] = True

    heads: Any = ()  # the chosen heads, a mapping layer -> heads; None: all heads
    gate: float = 0.0  # xi, what multiplies them; 1 leaves them as they are
    rows: str = "all"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        check_finite(self, "gate")
        object.__setattr__(self, "heads", frozen_heads(self.heads))

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Give the layer's gates, the same in every call."""
        if state is None:
            chosen = heads_of_layer(self.heads, call.layer, call.num_heads)
            if not chosen.any():
                return None, None
            gates = np.where(chosen, self.gate, 1).astype(np.float32)
            policy = Reweight(weight=gates[None, :, None])
            state = Plan(None, policy, rows=self.rows, phase=self.phase)
        return state, state
