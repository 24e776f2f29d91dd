"""PAI: Paying More Attention to Image (ECCV 2024), arXiv 2407.21771."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from reattend.call import Call
from reattend.layer_set import frozen_layers, scaled_layers
from reattend.method import Method, check_finite
from reattend.plan import Plan
from reattend.policy import KEEP
from reattend.row_scope import check_scope
from reattend.transform import Transform


@dataclass(frozen=True)
class PAI(Method):
    r"""When a word is chosen, image tokens get higher scores.

    .. code-block:: text

        s'_ij = s_ij + alpha |s_ij|        j in I

    The rows are the prompt's last and those of the answer, in all layers but the first two of 32.
    What PAI does at the logits is `reattend.decoding.Guidance`. The published code's default is an
    alpha of 0.2, its scripts have 0.5.

    Paper: Paying More Attention to Image: A Training-Free Method for Alleviating Hallucination in
    LVLMs (ECCV 2024), arXiv 2407.21771.

    Examples
    --------
    >>> PAI(alpha=0.2).boosted(32) == tuple(range(2, 32))
    True
    """

    edits: ClassVar[str] = "scores"
    statistic: ClassVar[str] = "none"
    needs_image: ClassVar[bool] = True
    steady: ClassVar[bool] = True

    alpha: float = 0.5  # how much of a score's size is added to it; 0 changes nothing
    layers: tuple[int, ...] | None = None  # None: from the third of 32 on, in proportion
    rows: str = "last"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        check_finite(self, "alpha")
        object.__setattr__(self, "layers", frozen_layers(self.layers))

    def boosted(self, num_layers: int) -> tuple[int, ...]:
        """Give the layers that are changed in a model.

        Parameters
        ----------
        num_layers : int
            How many layers the model has.

        Raises
        ------
        TypeError, ValueError
            If it is no such number.

        Examples
        --------
        >>> PAI().boosted(16) == tuple(range(1, 16))
        True
        """
        return scaled_layers(self.layers, num_layers, 2, 32)

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Boost the image's scores."""
        if state is not None and not call.prefill:
            return state, state
        if call.image is None or call.layer not in self.boosted(call.num_layers) or not self.alpha:
            return None, None
        if not call.image.any():
            return None, None
        image = call.image[:, None, : call.num_prompt]
        edit = Transform(slope=np.where(image, self.alpha, 0))
        plan = Plan(None, KEEP, transform=edit, rows=self.rows, phase=self.phase)
        return plan, plan
