"""Soft Injection of Task Embeddings (2025): stored vectors mixed into heads' outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.epilogue import Epilogue
from reattend.head_set import frozen_heads, heads_of_layer
from reattend.head_vectors import HeadVectors, checked_vectors
from reattend.method import Method, check_shares
from reattend.plan import Plan
from reattend.policy import KEEP
from reattend.row_scope import check_scope


@dataclass(frozen=True)
class SoftInjection(Method):
    r"""In rows that choose a word, stored vectors take a share of heads' outputs.

    .. code-block:: text

        c_h  = amount times the vectors' own amount of head h
        o'_h = (1 - c_h) o_h + c_h t_h

    t_h is the mean output of the head over prompts that show a task; `HeadVectors` keeps it in a
    file, with the model that it is of, and `Session.measure` gathers it. No `vectors`, nothing
    happens. It must be the last method: others see attention, and what is added is none.

    Paper: Soft Injection of Task Embeddings Outperforms Prompt-Based In-Context Learning (2025).

    Examples
    --------
    >>> SoftInjection(HeadVectors({3: np.ones((2, 4))}), amount=0.3).vectors
    HeadVectors(1 layers, 2 heads of 4, sha256 082f32cfda44a70a)
    """

    edits: ClassVar[str] = "outputs"
    statistic: ClassVar[str] = "none; vectors are stored"
    steady: ClassVar[bool] = True

    vectors: HeadVectors | None = None  # t, and of each head how much; None: nothing is done
    amount: float = 0.5  # c, from 0, which leaves outputs, to 1
    heads: Any = None  # the heads, a mapping layer -> heads; None: all that have vectors
    rows: str = "last"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        check_shares(self, "amount")
        object.__setattr__(self, "heads", frozen_heads(self.heads))
        object.__setattr__(self, "profile", checked_vectors(self.vectors))

    def check_model(self, num_layers: int, num_heads: int | None, hidden_size: int | None) -> None:
        """Refuse vectors for layers and heads that the model does not have."""
        if self.vectors is not None:
            self.vectors.check_sizes(num_layers, num_heads)

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Give what becomes of the layer's outputs."""
        if state is None:
            if self.vectors is None or call.layer not in self.vectors.vectors:
                return None, None
            chosen = heads_of_layer(self.heads, call.layer, call.num_heads)
            own = self.vectors.amounts_of(call.layer)
            share = np.where(chosen, self.amount * own, 0)[None, :, None, None]  # [1, H, 1, 1]
            if not share.any():
                return None, None
            vectors = self.vectors.vectors[call.layer][None, :, None]
            edit = Epilogue(1 - share, share * vectors)
            state = Plan(None, KEEP, epilogue=edit, rows=self.rows, phase=self.phase)
        return state, state
