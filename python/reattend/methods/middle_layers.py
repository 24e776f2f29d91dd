"""Devils in Middle Layers of Large Vision-Language Models (CVPR 2025), arXiv 2411.16724."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.following import RowRule
from reattend.layer_set import frozen_layers, scaled_layers
from reattend.method import Method, check_finite
from reattend.plan import Plan
from reattend.policy import KEEP, Array
from reattend.row_scope import check_scope
from reattend.transform import Transform, shifted


@dataclass(frozen=True)
class MiddleLayers(Method):
    r"""In middle layers, heads see the image tokens more that all heads together score high.

    .. code-block:: text

        s'_hij = s_hij + alpha mean over h' of |s_h'ij|        j in I

    The rows are the prompt's last and those of the answer, each in a call of its own: the mean is
    that row's. Layers are 5 to 17 of 32. In a step the pass goes on from the products that the mean
    is of; at the prompt those of one row with the image are computed a second time.

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
        if not self._acts(call) or call.answer_row is None:
            return None, None
        assert call.image is not None
        near = call.image_span
        shift = np.zeros((call.batch, 1, call.num_prompt), np.float32)
        shift[..., near] = self._raised(call.row_scores(call.image)[..., near])
        edit = Transform(shift=shift)
        return Plan(None, KEEP, transform=edit, rows="last", phase=self.phase), None

    def goes_on(self, call: Call, state: Any) -> bool | RowRule:
        """Say that steps differ in nothing but their row's scores on the image."""
        if not self._acts(call):
            return True
        assert call.image is not None
        bare = Transform(shift=np.zeros((call.batch, 1, call.num_prompt)))

        def edits(scores: Array, near: slice) -> tuple[None, Transform]:
            return None, shifted(bare, near, self._raised(scores))

        return RowRule(call.image[:, : call.num_prompt], KEEP, edits)

    def _acts(self, call: Call) -> bool:
        """Whether a row that chooses a word is changed."""
        return bool(
            call.image is not None
            and self.alpha
            and call.layer in self.layers_for(call.num_layers)
            and call.in_scope("last", self.phase).any()
            and call.image.any()
        )

    def _raised(self, scores: Array) -> Array:
        """Give what is added to a row's scores [B, H, K] in all heads, [B, 1, K]."""
        return np.asarray(self.alpha * np.abs(scores).mean(1, keepdims=True))
