"""CAAC: Adaptive Attention Calibration (2025), arXiv 2505.21472."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.checks import numbers
from reattend.method import Method, check_finite, check_shares, number
from reattend.plan import Plan
from reattend.policy import KEEP, Array
from reattend.row_scope import check_scope
from reattend.transform import Transform


@dataclass(frozen=True)
class CAAC(Method):
    r"""The less sure the model was of its last token, the more the image's scores are multiplied.

    .. code-block:: text

        lambda = 1 where p > threshold, else max(1, p + most (1 - p))
        s'_ij  = lambda s_ij        j in I, all layers

    p is the largest probability of the token before, which the loop tells the session
    (`Session.note_confidence`, `reattend.decoding.Confidence`); before it does, nothing changes.
    The published code runs each step twice, first to find p of the very token, and reads the whole
    prompt again each time; with ``strength`` given such a loop can be written with a cache. Its
    calibration of heads, off by default there, is not here.

    Paper: Mitigating Hallucination in Large Vision-Language Models via Adaptive Attention
    Calibration (2025), arXiv 2505.21472.

    Examples
    --------
    >>> CAAC().strengths(np.array([0.9, 0.2]))
    array([1. , 1.4])
    """

    edits: ClassVar[str] = "scores"
    statistic: ClassVar[str] = "probability of the last token"
    needs_image: ClassVar[bool] = True

    threshold: float = 0.25  # from which confidence on nothing is changed
    most: float = 1.5  # the factor at confidence 0
    strength: float | None = None  # a factor for all rows, in place of the confidence's
    rows: str = "all"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        check_shares(self, "threshold")
        check_finite(self, "most")
        if self.strength is not None and not np.isfinite(number(self, "strength")):
            raise ValueError(f"strength must be a finite number, got {self.strength!r}")

    def strengths(self, confidence: Array) -> Array:
        """Give what multiplies the image's scores.

        Parameters
        ----------
        confidence : array [B]
            The largest probability of each item's last token.

        Raises
        ------
        TypeError, ValueError
            If they are no such numbers.

        Examples
        --------
        See the example of the class.
        """
        sure = numbers("confidence", confidence, "[B]").astype(np.float64)
        found = np.maximum(1, sure + self.most * (1 - sure))
        return np.asarray(np.where(sure > self.threshold, 1, found))

    def goes_on(self, call: Call, state: Any) -> bool:
        """Say that all steps are alike under a strength; else each has the confidence's."""
        return self.strength is not None

    def plan(self, call: Call, state: Any) -> tuple[Plan | None, Any]:
        """Multiply the image's scores."""
        if self.strength is not None and isinstance(state, Plan) and not call.prefill:
            return state, state
        if call.image is None or not call.image.any():
            return None, None
        if self.strength is not None:
            factor: Any = self.strength
        elif call.confidence is None:
            return None, None
        else:
            factor = self.strengths(call.confidence)[:, None]
        if np.all(factor == 1):
            return None, None
        scale = np.where(call.image[:, : call.num_prompt], factor, 1)
        edit = Transform(scale=scale[:, None])
        plan = Plan(None, KEEP, transform=edit, rows=self.rows, phase=self.phase)
        return plan, plan
