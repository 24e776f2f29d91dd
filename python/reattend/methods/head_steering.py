"""Steering at heads: Inference-Time Intervention (NeurIPS 2023), arXiv 2306.03341."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.epilogue import Epilogue
from reattend.head_set import frozen_heads, heads_of_layer
from reattend.head_vectors import HeadVectors, checked_vectors
from reattend.method import Method, check_finite
from reattend.plan import Plan
from reattend.policy import KEEP
from reattend.row_scope import check_scope


@dataclass(frozen=True)
class HeadSteering(Method):
    r"""In rows that choose a word, stored directions are added to heads' outputs.

    .. code-block:: text

        o'_h = o_h + alpha amount_h t_h

    For ITI t_h is the direction that a probe found, times the deviation of the head's outputs along
    it; for CAI (arXiv 2506.23590), caption-sensitive attention intervention, it is the mean output
    under a caption query less that under others. `HeadVectors` keeps them in a file, with the model
    that they are of. No `vectors`, nothing happens. It must be the last method: others see
    attention, and what is added is none.

    Paper: Inference-Time Intervention: Eliciting Truthful Answers from a Language Model
    (NeurIPS 2023), arXiv 2306.03341.

    Examples
    --------
    >>> HeadSteering(HeadVectors({3: np.ones((2, 4))}), heads={3: (1,)}).alpha
    1.0
    """

    edits: ClassVar[str] = "outputs"
    statistic: ClassVar[str] = "none; vectors are stored"
    steady: ClassVar[bool] = True

    vectors: HeadVectors | None = None  # t, and of each head how much; None: nothing is done
    alpha: float = 1.0  # what multiplies all of them; 0 changes nothing
    heads: Any = None  # the heads, a mapping layer -> heads; None: all that have vectors
    rows: str = "last"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        check_finite(self, "alpha")
        object.__setattr__(self, "heads", frozen_heads(self.heads))
        object.__setattr__(self, "profile", checked_vectors(self.vectors))

    def check_model(self, num_layers: int, num_heads: int | None, hidden_size: int | None) -> None:
        """Refuse vectors for layers and heads that the model does not have."""
        if self.vectors is not None:
            self.vectors.check_sizes(num_layers, num_heads)

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Give what is added to the layer's outputs."""
        if state is None:
            if self.vectors is None or call.layer not in self.vectors.vectors:
                return None, None
            chosen = heads_of_layer(self.heads, call.layer, call.num_heads)
            own = self.vectors.amounts_of(call.layer)
            amount = np.where(chosen, self.alpha * own, 0)[:, None]  # [H, 1]
            shift = amount * self.vectors.vectors[call.layer]
            if not shift.any():
                return None, None
            edit = Epilogue(shift=shift[None, :, None])
            state = Plan(None, KEEP, epilogue=edit, rows=self.rows, phase=self.phase)
        return state, state
