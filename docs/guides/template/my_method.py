"""Give the method its paper's name, and say here what the paper is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import reattend as ra

TEXT, IMAGE = range(2)  # the segments of keys; 0 is what no label names


@dataclass(frozen=True)
class MyMethod(ra.Method):
    """What it does to a row of attention, in one sentence.

    Paper: its title (venue, year), arXiv number.
    """

    needs_image: ClassVar[bool] = True  # a prompt without one is warned about
    edits: ClassVar[str] = "weights"  # for tables
    statistic: ClassVar[str] = "masses"  # for tables: what decides, beside parameters
    segment_names: ClassVar[tuple[str, ...]] = ("text", "image")  # for reports

    keep: float = 0.8  # what text keeps of its attention

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep must be from 0 to 1, got {self.keep!r}")

    def plan(self, call: ra.Call, state: Any) -> tuple[ra.Plan | None, Any]:
        """Let the image receive what text gives away."""
        if call.image is None:
            return None, None
        labels = call.image[:, None, : call.num_prompt].astype(np.uint8)  # [B, 1, P]
        policy = ra.Reweight(weight=(self.keep, 1), to=(IMAGE,))
        return ra.Plan(labels, policy), None
