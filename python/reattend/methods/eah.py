"""EAH: Shallow Focus, Deep Fixes (EMNLP 2025), arXiv 2411.09968."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.layer_set import check_layers, frozen_layers
from reattend.method import Method, check_bools, number
from reattend.plan import Plan
from reattend.policy import KEEP, Array

PUBLISHED_ROWS = 611  # LLaVA-1.5's prompt up to the image's end, in the published code
PUBLISHED_TOKENS = 575


@dataclass(frozen=True)
class EAH(Method):
    r"""In a shallow layer all heads attend as the one does that has most dense image columns.

    .. code-block:: text

        c_hj = mean over the rows i > j of A_hij        j in I
        h*   = the first head with most j of c_hj > threshold
        O'_h = A_h* V_h                                 all heads, all rows of the prompt

    A step of the answer has one row, so nothing is enhanced there. Queries and keys of h* are given
    to all heads of the layer, which gives what its map would.

    Where no head has a dense column nothing is changed. ``as_published`` is what the code does: all
    layers are changed (its test is always true), the batch's first item alone, nothing where the
    chosen head is head 0, and the k-th image token's sum is divided by 611 - k, whatever the
    prompt's length; its threshold is 0.0008.

    Paper: Shallow Focus, Deep Fixes: Enhancing Shallow Layers Vision Attention Sinks to Alleviate
    Hallucination in LVLMs (EMNLP 2025), arXiv 2411.09968.

    Examples
    --------
    >>> EAH().layers, EAH(as_published=True).limit
    ((1,), 0.0008)
    """

    edits: ClassVar[str] = "weights"
    statistic: ClassVar[str] = "mean weight of each image key, of all heads"
    needs_image: ClassVar[bool] = True
    steady: ClassVar[bool] = True

    threshold: float | None = None  # of a dense column; None: 0.002, as published 0.0008
    layers: tuple[int, ...] | None = (1,)  # None: all, as they are where as published
    as_published: bool = False  # whether it does what the code does, not the paper

    def __post_init__(self) -> None:
        if self.threshold is not None and not np.isfinite(number(self, "threshold")):
            raise ValueError(f"threshold must be a finite number, got {self.threshold!r}")
        check_bools(self, "as_published")
        object.__setattr__(self, "layers", frozen_layers(self.layers))

    @property
    def limit(self) -> float:
        """What a column must have to be dense."""
        if self.threshold is not None:
            return self.threshold
        return 0.0008 if self.as_published else 0.002

    def check_model(self, num_layers: int, num_heads: int | None, hidden_size: int | None) -> None:
        """Refuse layers that the model does not have."""
        if not self.as_published:
            check_layers(self.layers, num_layers)

    def plan(self, call: Call, state: Any) -> tuple[Plan | None, Any]:
        """Choose the head at the prompt, and let the others attend as it does."""
        if not call.prefill or call.image is None or not call.image.any():
            return None, None
        if not (self.as_published or self.layers is None or call.layer in self.layers):
            return None, None
        if call.first_row or call.key_len != call.num_prompt:
            raise ValueError(
                "EAH reads columns of the prompt's whole map, so the prompt must be read in one "
                f"call of its own, got rows {call.first_row} to {call.key_len - 1} of "
                f"{call.num_prompt}"
            )
        dense = self._dense(call).sum(-1)  # [B, H]
        best = dense.argmax(-1)  # [B]
        found = dense.max(-1) > 0
        if self.as_published:
            found &= (best > 0) & (np.arange(call.batch) == 0)
        if not found.any():
            return None, None
        heads = np.where(found[:, None], best[:, None], np.arange(call.num_heads))
        return Plan(None, KEEP, heads_from=heads), None

    def _dense(self, call: Call) -> Array:
        """Say which columns are dense image columns, int [B, H, M]."""
        assert call.image is not None
        sums = call.column_sums().astype(np.float64)  # [B, H, M]
        behind = sums - call.own_weights()
        rows = call.row_counts[:, None] - 1.0  # rows behind a key
        if self.as_published:
            place = np.cumsum(call.image, axis=-1) - 1
            if place.max() >= PUBLISHED_TOKENS:
                raise ValueError(
                    f"as_published: the code is for {PUBLISHED_TOKENS} image tokens at most, got "
                    f"{place.max() + 1}"
                )
            rows = np.where(call.image, PUBLISHED_ROWS - place, 1)[:, None]
        mean = np.where(rows > 0, behind / np.where(rows > 0, rows, 1), 0)
        return np.asarray(call.image[:, None] & (mean > self.limit)).astype(np.int64)
