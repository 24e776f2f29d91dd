"""FarSight: Seeing Far and Clearly (CVPR 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.method import Method, check_bools, number
from reattend.plan import Plan
from reattend.policy import KEEP


@dataclass(frozen=True)
class FarSight(Method):
    r"""Rows of the prompt give a part of their attention to registers, the earlier the more.

    .. code-block:: text

        c_i   = sigma / 2 + sigma / 2 (1 - i / (2 (L - 1))) + 2^(-8 (h + 1) / H)
        R_i   = sum of e^(-c_i d) over the L - 1 - i future places d = 1, 2, ...
        A'_ij = e^s_ij / (sum_j e^s_ij + R_i)

    That is a null key of the score log R_i, so rows sum to less than 1. The last row has no future
    places: **it is not changed, and neither is any decoding step** of a model with a cache; the
    published code runs without one. Padding is no place, at either side; a prompt that is padded
    at its right is read in one call.

    Paper: Seeing Far and Clearly: Mitigating Hallucinations in MLLMs with Attention Causal Decoding
    (CVPR 2025).

    Examples
    --------
    >>> FarSight(sigma=0.8)
    FarSight(sigma=0.8, slopes=True)
    """

    edits: ClassVar[str] = "null key"
    statistic: ClassVar[str] = "none"
    steady: ClassVar[bool] = True

    sigma: float = 0.8  # how fast registers lose score with their distance: log 256 / log 1024
    slopes: bool = True  # whether heads differ, as with ALiBi

    def __post_init__(self) -> None:
        if not 0 < number(self, "sigma") < np.inf:
            raise ValueError(f"sigma must be a number above 0, got {self.sigma!r}")
        check_bools(self, "slopes")

    def plan(self, call: Call, state: Any) -> tuple[Plan | None, Any]:
        """Give each row of the prompt its null key."""
        if not call.prefill:
            return None, None
        start = call.first_key[:, None, None]  # [B, 1, 1]
        length = call.last_prompt_row[:, None, None] + 1 - start  # L, without padding
        if call.last_chunk and call.first_row and (length != call.num_prompt - start).any():
            raise ValueError(
                f"layer {call.layer}: a prompt that is padded at its right must be read in one "
                "call: rows of earlier chunks have counted padding as future places"
            )
        place = call.rows - start  # [B, 1, N]
        future = np.clip(length - 1 - place, 0, None)
        if not future.any():
            return None, None
        share = np.clip(place, 0, None) / np.maximum(length - 1, 1)
        cost = self.sigma / 2 + self.sigma / 2 * (1 - share / 2)  # [B, 1, N]
        if self.slopes:
            head = np.arange(1, call.num_heads + 1)[:, None]
            cost = cost + 2.0 ** (-8 * head / call.num_heads)  # [B, H, N]
        with np.errstate(divide="ignore"):  # no future place: -inf, no null key
            total = -np.expm1(-cost * future) / np.expm1(cost)
            logit = np.log(total).astype(np.float32)
        return Plan(None, KEEP, null_logit=logit), None
