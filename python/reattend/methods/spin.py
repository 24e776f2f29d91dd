"""SPIN: Mitigating Hallucinations via Selective Suppression of Attention Heads (EMNLP 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.method import Method, check_finite, check_shares
from reattend.plan import Plan
from reattend.policy import Array, Reweight
from reattend.row_scope import check_scope


@dataclass(frozen=True)
class SPIN(Method):
    r"""When a word is chosen, the heads that look at the image least are suppressed.

    .. code-block:: text

        x_h  = sum_{j in I} s_hj                          scores before the softmax
        O'_h = O_h of the int(r H) heads of the largest x_h, gamma O_h of the others

    The rows are the prompt's last and those of the answer, each with its own heads. In a step the
    sum is read off the pass whose output is scaled, so no score is computed twice. The published
    code takes all keys where there is no image; here such items are left alone.

    Paper: Mitigating Hallucinations in Vision-Language Models through Image-Guided Head Suppression
    (EMNLP 2025), arXiv 2505.16411.

    Examples
    --------
    >>> SPIN(r=0.8, gamma=0.1)
    SPIN(r=0.8, gamma=0.1, phase='both')
    """

    edits: ClassVar[str] = "outputs"
    statistic: ClassVar[str] = "sum of scores on the image, of all heads"
    needs_image: ClassVar[bool] = True

    r: float = 0.95  # the share of heads that is kept; for POPE 0.8
    gamma: float = 0.08  # what multiplies the others; for POPE 0.1
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope("last", self.phase)
        check_shares(self, "r")
        check_finite(self, "gamma")

    def plan(self, call: Call, state: Any) -> tuple[Plan | None, Any]:
        """Choose the heads of each row."""
        if call.image is None:
            return None, None
        scope = call.in_scope("last", self.phase)  # [B or 1, N]
        rows: Array = np.asarray(scope.any(0))
        if not rows.any():
            return None, None
        scores = call.score_sums(call.image, rows)  # [B, H, R]
        rank = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
        has_image: Array = np.asarray(call.image.any(-1))
        where = np.zeros(call.query.shape[:3], bool)
        where[:, :, rows] = has_image[:, None, None] & (rank >= int(self.r * call.num_heads))
        return Plan(None, Reweight(weight=(self.gamma,)), where & scope[:, None]), None
