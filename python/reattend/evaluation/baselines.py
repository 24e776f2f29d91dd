"""Two methods to compare with: VHR without its text-only run, and a push that chooses nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from reattend.attention import attention
from reattend.call import Call
from reattend.method import Method
from reattend.methods import VHR
from reattend.plan import Plan
from reattend.policy import Array, Reweight

REST, IMAGE = range(2)
_WITHOUT_IMAGE = Reweight(weight=(1, 0), to=(REST,))


@dataclass(frozen=True)
class OnePassVHR(VHR):
    r"""VHR that compares with the same row without its image segment, not with a text-only run.

    .. code-block:: text

        O_i(text only) is taken for sum_{j not in V} A_ij V_j / (1 - mass_i(V))

    It costs one row of attention more in each layer of the prompt, and no second run. The keys it
    compares with have seen the image in earlier layers; those of a text-only run have not.

    Paper: none, a shortcut.

    Examples
    --------
    >>> OnePassVHR(alpha=1.5)
    OnePassVHR(alpha=1.5, layers=None, heads=None)
    """

    needs_text_only: ClassVar[bool] = False

    def plan(self, call: Call, state: Any) -> tuple[Plan | None, Any]:
        """Choose the heads at the prompt's last row and keep them."""
        if not call.prefill or not call.last_chunk or call.image is None:
            return super().plan(call, state)
        outputs = {call.layer: _without_image(call)}
        prompt = replace(call.prompt, text_only=None, text_outputs=outputs)
        return super().plan(replace(call, prompt=prompt), state)


@dataclass(frozen=True)
class Brighten(Method):
    r"""Every key that is no image hands a part of its attention to the image, in every head.

    .. code-block:: text

        A'_ij = keep A_ij                                                   j not in V
        A'_ij = A_ij (1 + (1-keep) (1 - mass_i(V)) / mass_i(V))             j in V

    In rows after the image, in all layers but 0, 1 and the last: where VAR works, but nothing is
    chosen: no sinks, no heads, no tokens. What a method does better is due to its choice.

    Paper: none, a baseline.

    Examples
    --------
    >>> Brighten()
    Brighten(keep=0.9)
    """

    segment_names: ClassVar[tuple[str, ...]] = ("rest", "image")

    keep: float = 0.9  # what keys outside the image keep

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep must be from 0 to 1, got {self.keep!r}")

    def plan(self, call: Call, state: Any) -> tuple[Plan | None, Any]:
        """Brighten the rows after the image."""
        if call.image is None or not 2 <= call.layer < call.num_layers - 1:
            return None, None
        if call.prefill or state is None:
            state = Plan(_labels(call), Reweight(weight=(self.keep, 1), to=(IMAGE,)))
        if call.first_row >= call.image_end.max():
            return state, state
        after = call.image_end[:, None] <= call.rows  # [B, N]; no row is after an image that is not
        return replace(state, where=after[:, None]), state


def _labels(call: Call) -> Array:
    assert call.image is not None
    return np.where(call.image, np.uint8(IMAGE), np.uint8(REST))[:, None]  # [B, 1, M]


def _without_image(call: Call) -> Array:
    """Head outputs at each item's last row, as if the image were not there, [B, H, Dv]."""
    out = np.empty((call.batch, call.num_heads, 1, call.value.shape[3]), np.float32)
    attention(
        call.query[:, :, -1:], call.key, call.value, segments=_labels(call),
        policy=_WITHOUT_IMAGE, out=out, num_threads=call.num_threads, **call.mask._asdict(),
    )  # fmt: skip
    return out[:, :, 0]
