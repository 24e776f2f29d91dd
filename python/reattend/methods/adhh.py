"""AD-HH: Understanding and Mitigating Hallucination via Modular Attribution (ICLR 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import NEVER, Call
from reattend.head_set import frozen_heads, heads_of_layer
from reattend.method import Method, check_finite
from reattend.plan import Plan
from reattend.policy import Array, Reweight, Share
from reattend.row_scope import check_scope

TEXT, OTHERS = range(2)  # text after the image is 0: new keys are in it


@dataclass(frozen=True)
class ADHH(Method):
    r"""Hallucination heads that lean on the text after the image lose it, when a word is chosen.

    .. code-block:: text

        A'_ij = 0        j in T, where mass_i(T) >= threshold; the row is not made to sum to 1 again

    T are the text keys behind the image, new ones included; as published the rows are the prompt's
    last and those of the answer. Which heads (20 of the 7B model, 35 of 13B) is the model's fact.
    The published code sums the mass over the whole batch, which differs only for batches of
    several.

    Paper: Understanding and Mitigating Hallucination in Large Vision-Language Models via Modular
    Attribution and Intervention (ICLR 2025).

    Examples
    --------
    >>> ADHH(heads={5: (0, 3)})
    ADHH(heads=((5, (0, 3)),), threshold=0.4, rows='last', phase='both')
    """

    edits: ClassVar[str] = "weights"
    statistic: ClassVar[str] = "mass of the text behind the image"
    needs_image: ClassVar[bool] = True
    steady: ClassVar[bool] = True
    segment_names: ClassVar[tuple[str, ...]] = ("text after the image", "others")

    heads: Any = ()  # the hallucination heads, a mapping layer -> heads; None: all heads
    threshold: float = 0.4  # the attention on text from which a row is changed
    rows: str = "last"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        check_finite(self, "threshold")
        object.__setattr__(self, "heads", frozen_heads(self.heads))

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Label the text after the image, for the rows that choose a word."""
        if state is not None and not call.prefill:
            return state, state
        chosen = heads_of_layer(self.heads, call.layer, call.num_heads)
        if call.image is None or not chosen.any():
            return None, None
        length = min(call.key_len, call.num_prompt)
        labels = np.where(call.after_image[:, :length], TEXT, OTHERS).astype(np.uint8)
        policy = Reweight(weight=(0, 1), when=(Share((TEXT,), self.threshold),))
        has_image: Array = np.asarray(call.image_end < NEVER)
        where = has_image[:, None, None] & chosen[:, None]
        plan = Plan(labels[:, None], policy, where, rows=self.rows, phase=self.phase)
        return plan, plan
