"""ScalingVis: Why Is Spatial Reasoning Hard for VLMs? (ICML 2025), arXiv 2503.01773."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from reattend.call import Call
from reattend.checks import finite, real
from reattend.method import Method, check_finite
from reattend.plan import Plan
from reattend.policy import KEEP
from reattend.row_scope import check_scope
from reattend.transform import Transform


@dataclass(frozen=True)
class ScalingVis(Method):
    r"""At the prompt's last row the scores of the image are multiplied: above 1 sharper.

    .. code-block:: text

        s'_ij = w s_ij        j in I, i the prompt's last row, nothing while decoding

    AdaptVis runs once with w = 1, and again with `adapted` of the first token's confidence.

    Paper: Why Is Spatial Reasoning Hard for VLMs? An Attention Mechanism Perspective on Focus Areas
    (ICML 2025), arXiv 2503.01773.

    Examples
    --------
    >>> ScalingVis.adapted(0.2).w, ScalingVis.adapted(0.9).w
    (0.5, 1.2)
    """

    edits: ClassVar[str] = "scores"
    statistic: ClassVar[str] = "none"
    needs_image: ClassVar[bool] = True
    steady: ClassVar[bool] = True

    w: float = 0.5  # what multiplies the scores; 1 leaves them
    rows: str = "last"  # which rows: "last", "after_image" or "all"
    phase: str = "prefill"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        check_finite(self, "w")

    @classmethod
    def adapted(
        cls, confidence: float, *, threshold: float = 0.3, low: float = 0.5, high: float = 1.2
    ) -> ScalingVis:
        """Give the setting of AdaptVis for the second run.

        Parameters
        ----------
        confidence : float
            The largest probability of the first new token in a run with w = 1; rounded to two
            digits, as published.
        threshold : float, optional
            Below it the image is seen more evenly.
        low, high : float, optional
            w below the threshold, and from it on.

        Raises
        ------
        TypeError, ValueError
            If one is no number.

        Examples
        --------
        See the example of the class.
        """
        confidence = real("confidence", confidence)
        low, high = finite("low", low), finite("high", high)
        return cls(low if round(float(confidence), 2) < real("threshold", threshold) else high)

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Multiply the image's scores."""
        if state is not None and not call.prefill:
            return state, state
        if call.image is None or self.w == 1 or not call.image.any():
            return None, None
        edit = Transform(scale=np.where(call.image[:, None, : call.num_prompt], self.w, 1))
        plan = Plan(None, KEEP, transform=edit, rows=self.rows, phase=self.phase)
        return plan, plan
