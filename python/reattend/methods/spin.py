"""SPIN: Mitigating Hallucinations via Selective Suppression of Attention Heads (EMNLP 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.following import RowRule
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

    The rows are the prompt's last and those of the answer, each with its own heads. In a step no
    product is computed twice: the pass goes on from those that the sums are of. The published
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
        has_image: Array = np.asarray(call.image.any(-1))
        if len(rows) == 1:  # as the steps behind it do
            of_image = call.row_scores(call.image)[..., call.image_span]
            scores: Array = np.asarray(of_image.sum(-1, keepdims=True))
        else:
            scores = call.score_sums(call.image, rows)  # [B, H, R]
        where = np.zeros(call.query.shape[:3], bool)
        where[:, :, rows] = self._suppressed(scores) & has_image[:, None, None]
        return Plan(None, self._policy, where & scope[:, None]), None

    def goes_on(self, call: Call, state: Any) -> bool | RowRule:
        """Say that steps differ in nothing but their row's scores on the image."""
        if call.image is None or not call.in_scope("last", self.phase).any():
            return True
        image = call.image[:, : call.num_prompt]
        has_image = np.asarray(image.any(-1))[:, None, None]

        def edits(scores: Array, near: slice) -> tuple[Array, None]:
            return self._suppressed(scores.sum(-1, keepdims=True)) & has_image, None

        return RowRule(image, self._policy, edits)

    def _suppressed(self, scores: Array) -> Array:
        """Say which heads look at the image least: sums of scores [B, H, R] -> bool [B, H, R]."""
        rank = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
        return np.asarray(rank >= int(self.r * scores.shape[1]))

    @cached_property
    def _policy(self) -> Reweight:
        return Reweight(weight=(self.gamma,))
