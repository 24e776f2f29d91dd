"""Vision-aware Head Reinforcement: Cracking the Code of Hallucination (ACL 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from reattend.call import Call
from reattend.checks import layer_count
from reattend.deprecated import renamed_method
from reattend.head_set import frozen_heads, heads_of_layer
from reattend.layer_set import check_layers, frozen_layers
from reattend.measures.readings import head_divergence
from reattend.method import Method, check_finite
from reattend.plan import Plan
from reattend.policy import Array, Reweight
from reattend.reading import Reading, ranges


class Heads(NamedTuple):
    """What VHR remembers of a prompt."""

    plan: Plan | None  # the same at every step
    divergence: Array  # VHD [B, H], outliers not zeroed
    chosen: Array  # bool [B, H]


@dataclass(frozen=True)
class VHR(Method):
    r"""The heads that react most to the image are reinforced, at the prompt and at every step.

    .. code-block:: text

        VHD_i = || O_i(with image) - O_i(text only) ||     at the last prompt row; outliers are 0
        O'_i  = alpha O_i                                  where VHD_i > median of the layer

    It needs the same prompt without its image: a run of its own (`Session.text_only`), or rows of
    the batch. Items without an image are left alone. In cross-attention the same holds: without an
    image there is nothing to attend to, so there VHD is the norm of a head's output.

    Paper: Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence (ACL 2025),
    arXiv 2412.13949.

    Examples
    --------
    >>> VHR(alpha=1.5).layers_for(num_layers=8)
    (1, 5, 6, 7)
    """

    edits: ClassVar[str] = "outputs"
    statistic: ClassVar[str] = "divergence from the prompt without its image"
    needs_image: ClassVar[bool] = True
    needs_text_only: ClassVar[bool] = True
    steady: ClassVar[bool] = True
    knows_cross: ClassVar[bool] = True

    alpha: float = 2.0  # what multiplies a chosen head's output
    layers: tuple[int, ...] | None = None  # None: the second and the last 14 of 32, in proportion
    heads: Any = None  # those that may be reinforced, a mapping layer -> heads; None: all of layers

    def __post_init__(self) -> None:
        check_finite(self, "alpha")
        object.__setattr__(self, "layers", frozen_layers(self.layers))
        object.__setattr__(self, "heads", frozen_heads(self.heads))

    reinforced = renamed_method("reinforced", "layers_for")

    def layers_for(self, num_layers: int) -> tuple[int, ...]:
        """Give the layers that are reinforced in a model.

        Parameters
        ----------
        num_layers : int
            How many layers the model has.

        Raises
        ------
        ValueError
            If `layers` has one that the model has not.

        Examples
        --------
        >>> VHR().layers_for(32)
        (1, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31)
        """
        num_layers = layer_count("num_layers", num_layers)
        if self.layers is not None:
            check_layers(self.layers, num_layers)
            return self.layers
        if self.heads is not None:
            return tuple(layer for layer, some in self.heads if some)
        last = max(1, 14 * num_layers // 32)
        return tuple(sorted({min(1, num_layers - 1), *range(num_layers - last, num_layers)}))

    def plan(self, call: Call, state: Heads | None) -> tuple[Plan | None, Heads | None]:
        """Choose the heads at the prompt's last row and keep them."""
        if not call.prefill:
            return (state.plan if state is not None else None), state
        image = call.prompt.image
        with_image: Array | None = None if image is None else np.any(image, axis=-1)  # [B]
        nothing = not (call.cross or call.has_text_branch)
        if nothing and (with_image is None or not with_image.any()):
            return None, None
        if call.first_row > 0 or not call.last_chunk:
            end = call.first_row + call.query.shape[2]
            raise ValueError(
                "VHR chooses heads at the last row of the prompt and reinforces all of it, so the "
                f"prompt must be read in one call, got rows {call.first_row} to "
                f"{end - 1} of {call.num_prompt}"
            )
        if call.computed.alone and call.query.dtype == np.float32:
            call.plain  # noqa: B018  the pass that is corrected afterwards has the last row as well
        found = head_divergence(call.head_outputs, call.text_outputs)
        chosen = found.chosen if with_image is None else found.chosen & with_image[:, None]
        chosen = chosen & heads_of_layer(self.heads, call.layer, call.num_heads)
        plan = None
        if call.layer in self.layers_for(call.num_layers) and chosen.any():
            gate = np.where(chosen, self.alpha, 1).astype(np.float32)  # [B, H]
            plan = Plan(None, Reweight(weight=gate[..., None]))
        return plan, Heads(plan, found.divergence, chosen)

    def readings(self, state: Heads | None) -> dict[str, Any]:
        """Give the reinforced heads, a list for each item; VHD and who passes its test, [B, H]."""
        if state is None:
            return {}
        found = {"divergence": state.divergence, "chosen": state.chosen}
        if state.plan is None:
            return found
        return {"heads": [np.flatnonzero(item).tolist() for item in state.chosen], **found}

    def describe(self, readings: Sequence[Reading], num_layers: int) -> list[str]:
        """Say how many heads are reinforced, and in which layers."""
        heads = {each.layer: each.found["heads"][0] for each in readings if "heads" in each.found}
        total = num_layers * max((each.found["chosen"].shape[1] for each in readings), default=0)
        count = sum(map(len, heads.values()))
        return [f"{count} of {total} heads reinforced, in layers {ranges(heads)}"]
