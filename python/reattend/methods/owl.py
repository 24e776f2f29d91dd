"""OWL: Causally-Grounded Dual-Path Attention Intervention (AAAI 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.checks import finite, listed
from reattend.method import Method, check_finite
from reattend.plan import Plan
from reattend.policy import KEEP, Array
from reattend.row_scope import check_scope
from reattend.transform import Transform

PATHS = ("visual", "textual")


@dataclass(frozen=True)
class OWL(Method):
    r"""One of two paths: the image is seen more and the prompt's text less, or the reverse.

    .. code-block:: text

        visual:   s'_ij = s_ij + a |s_ij|, j in I        s'_ij = s_ij - b |s_ij|, j in the text
        textual:  the same with a and b negative

    The rows are the prompt's last and those of the answer; the text are the prompt's keys before
    and behind the image. A model runs once with each path, and the logits are
    ``(1 + l) visual - l textual``, which `reattend.decoding.VCD` gives with ``beta=0``. a and b
    are ``alpha`` and ``beta``; with a ``baseline``, y for each layer, rows in which the image has
    less are changed more, x the mean over heads of its attention over that of the text:

    .. code-block:: text

        a = min(most, alpha + gain (y - x) / y)        b = min(most, beta + gain (y - x) / y)
                                                       where x < y

    The file of baselines that the published code needs is not published with it, nor does it
    parse; without a baseline the strengths are constant.

    Paper: Causally-Grounded Dual-Path Attention Intervention for Object Hallucination Mitigation in
    LVLMs (AAAI 2026).

    Examples
    --------
    >>> OWL("textual").alpha
    0.4
    """

    edits: ClassVar[str] = "scores"
    statistic: ClassVar[str] = "masses of image and text, if given a baseline"
    needs_image: ClassVar[bool] = True

    path: str = "visual"  # "visual" or "textual"
    alpha: float = 0.4  # how much of its size a score of the image is raised
    beta: float = 0.2  # how much one of the text is lowered
    baseline: tuple[float, ...] | None = None  # y, image over text, for each layer
    gain: float = 0.2  # how much more, at no attention on the image
    most: float = 0.6  # the most that a and b become
    rows: str = "last"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        check_finite(self, "alpha", "beta", "gain", "most")
        if not isinstance(self.path, str) or self.path not in PATHS:
            raise ValueError(f"path must be 'visual' or 'textual', got {self.path!r}")
        if self.baseline is not None:
            ratios = listed("baseline", self.baseline, "a number for each layer")
            ratios = tuple(finite("baseline", each) for each in ratios)
            if not all(each > 0 for each in ratios):
                raise ValueError(f"baseline must hold numbers above 0, got {ratios}")
            object.__setattr__(self, "baseline", ratios)
            if self.rows != "last":
                raise ValueError(
                    f"rows must be 'last' with a baseline, which is read off one row, got "
                    f"{self.rows!r}"
                )

    def check_model(self, num_layers: int, num_heads: int | None, hidden_size: int | None) -> None:
        """Refuse a baseline of another number of layers."""
        if self.baseline is not None and len(self.baseline) != num_layers:
            raise ValueError(
                f"baseline must have a number for each of {num_layers} layers, got "
                f"{len(self.baseline)}"
            )

    def goes_on(self, call: Call, state: Plan | None) -> bool:
        """Say that all steps are alike without a baseline; with one each reads its row."""
        return self.baseline is None

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Raise one kind of scores and lower the other."""
        if state is not None and not call.prefill and self.baseline is None:
            return state, state
        whole = call.prompt.image  # a chunk that has not reached it has text of its prompt
        if whole is None or not whole.any():
            return None, None
        image = whole[:, : call.key_len]
        text = ~image & whole.any(-1, keepdims=True)
        raised, lowered = self._strengths(call, image, text)
        sign = 1 if self.path == "visual" else -1
        slope = sign * (np.where(image, raised, 0) - np.where(text, lowered, 0))
        if not slope.any():
            return None, None
        edit = Transform(slope=slope[:, None])
        plan = Plan(None, KEEP, transform=edit, rows=self.rows, phase=self.phase)
        return plan, plan

    def _strengths(self, call: Call, image: Array, text: Array) -> tuple[Any, Any]:
        """Give a and b, numbers or [B, 1]."""
        if self.baseline is None or call.answer_row is None:
            return self.alpha, self.beta
        weights = call.row_weights[..., : call.num_prompt].astype(np.float64)  # [B, H, P]
        seen = np.where(image[:, None], weights, 0).sum(-1)
        read = np.where(text[:, None], weights, 0).sum(-1)
        ratio = np.where(read > 0, seen / np.where(read > 0, read, 1), 0).mean(1)  # [B]
        wanted = self.baseline[call.layer]
        more = np.maximum(self.gain * (wanted - ratio) / wanted, 0)[:, None]
        below = more > 0
        raised, lowered = (
            np.where(below, np.minimum(self.most, each + more), each)
            for each in (self.alpha, self.beta)
        )
        return raised, lowered
