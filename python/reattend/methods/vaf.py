"""VAF: ClearSight: Visual Signal Enhancement for Object Hallucination Mitigation (CVPR 2025)."""

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
class VAF(Method):
    r"""In middle layers, rows behind the image see it more and the system prompt less.

    .. code-block:: text

        s'_ij = enhance s_ij         j in I
        s'_ij = suppress s_ij        j before the image

    A score keeps its sign: a negative one of the image gets more negative. Layers are 9 to 14 of
    32.

    Paper: ClearSight: Visual Signal Enhancement for Object Hallucination Mitigation in Multimodal
    Large Language Models (CVPR 2025).

    Examples
    --------
    >>> VAF().changed(32)
    (9, 10, 11, 12, 13, 14)
    """

    edits: ClassVar[str] = "scores"
    statistic: ClassVar[str] = "none"
    needs_image: ClassVar[bool] = True
    steady: ClassVar[bool] = True

    enhance: float = 1.15  # what multiplies the scores of the image; 1 leaves them
    suppress: float = 0.95  # what multiplies those of the keys before it
    layers: tuple[int, ...] | None = None  # None: 9 to 14 of 32, in proportion
    rows: str = "after_image"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        check_finite(self, "enhance", "suppress")
        object.__setattr__(self, "layers", frozen_layers(self.layers))

    def changed(self, num_layers: int) -> tuple[int, ...]:
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
        >>> VAF().changed(16)
        (4, 5, 6)
        """
        return scaled_layers(self.layers, num_layers, 9, 15)

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Multiply the scores of the image and of what lies before it."""
        if state is not None and not call.prefill:
            return state, state
        whole = call.prompt.image  # a chunk that has not reached it lies before it
        if whole is None or call.layer not in self.changed(call.num_layers):
            return None, None
        if not whole.any() or (self.enhance, self.suppress) == (1, 1):
            return None, None
        image = whole[:, : call.key_len]
        first = np.where(whole.any(-1), whole.argmax(-1), 0)  # without an image nothing is before
        before = np.arange(image.shape[1]) < first[:, None]
        scale = np.where(image, self.enhance, np.where(before, self.suppress, 1))
        edit = Transform(scale=scale[:, None])
        plan = Plan(None, KEEP, transform=edit, rows=self.rows, phase=self.phase)
        return plan, plan
