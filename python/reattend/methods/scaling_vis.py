"""ScalingVis: Why Is Spatial Reasoning Hard for VLMs? (ICML 2025), arXiv 2503.01773."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.checks import finite, real
from reattend.method import Method, check_finite
from reattend.plan import Plan
from reattend.policy import KEEP
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
    >>> ScalingVis.adapted(0.2), ScalingVis.adapted(0.9)
    (ScalingVis(w=0.5), ScalingVis(w=1.2))
    """

    needs_image: ClassVar[bool] = True
    steady: ClassVar[bool] = True

    w: float = 0.5  # what multiplies the scores; 1 leaves them

    def __post_init__(self) -> None:
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

    def plan(self, call: Call, state: Any) -> tuple[Plan | None, Any]:
        """Multiply the image's scores in the prompt's last row."""
        if call.image is None or not call.last_chunk or self.w == 1 or not call.image.any():
            return None, None
        if call.key_len > call.num_prompt:
            raise ValueError(
                "ScalingVis changes the prompt's last row alone, so prompt and answer must come in "
                f"calls of their own, got rows to {call.key_len - 1} of a prompt of "
                f"{call.num_prompt}"
            )
        scale = np.where(call.image[:, None], self.w, 1)
        edit = Transform(scale=scale, first_row=call.num_prompt - 1)
        return Plan(None, KEEP, transform=edit), None
