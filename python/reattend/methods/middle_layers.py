"""Devils in Middle Layers of Large Vision-Language Models (CVPR 2025), arXiv 2411.16724."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.layer_set import frozen_layers, scaled_layers
from reattend.method import Method, check_finite
from reattend.plan import Plan
from reattend.policy import KEEP
from reattend.row_scope import check_scope
from reattend.transform import Transform


@dataclass(frozen=True)
class MiddleLayers(Method):
    r"""In middle layers, heads see the image tokens more that all heads together score high.

    .. code-block:: text

        s'_hij = s_hij + alpha mean over h' of |s_h'ij|        j in I

    The rows are the prompt's last and those of the answer, each in a call of its own: the mean is
    that row's. Layers are 5 to 17 of 32. The scores of one row on the image are computed a second
    time for the mean.

    Paper: Devils in Middle Layers of Large Vision-Language Models: Interpreting, Detecting and
    Mitigating Object Hallucinations via Attention Lens (CVPR 2025), arXiv 2411.16724.

    Examples
    --------
    >>> MiddleLayers().layers_for(32) == tuple(range(5, 18))
    True
    """

    edits: ClassVar[str] = "scores"
    statistic: ClassVar[str] = "scores of the row on the image, of all heads"
    needs_image: ClassVar[bool] = True

    alpha: float = 0.5  # how much of the heads' mean size is added; 0 changes nothing
    layers: tuple[int, ...] | None = None  # None: 5 to 17 of 32, in proportion
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope("last", self.phase)
        check_finite(self, "alpha")
        object.__setattr__(self, "layers", frozen_layers(self.layers))

    def layers_for(self, num_layers: int) -> tuple[int, ...]:
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
        >>> MiddleLayers().layers_for(8)
        (1, 2, 3)
        """
        return scaled_layers(self.layers, num_layers, 5, 18)

    def plan(self, call: Call, state: Any) -> tuple[Plan | None, Any]:
        """Add the heads' mean size to the image's scores of the row that chooses a word."""
        if (
            call.image is None
            or not self.alpha
            or call.layer not in self.layers_for(call.num_layers)
        ):
            return None, None
        if not call.in_scope("last", self.phase).any() or not call.image.any():
            return None, None
        if call.answer_row is None:
            return None, None
        size = np.abs(call.row_scores(call.image)).mean(1, keepdims=True)  # [B, 1, M]
        edit = Transform(shift=self.alpha * size[..., : call.num_prompt])
        return Plan(None, KEEP, transform=edit, rows="last", phase=self.phase), None
