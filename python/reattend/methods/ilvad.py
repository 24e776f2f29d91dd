"""ILVAD: Finding the Correct Visual Evidence Without Forgetting (ICML 2026), arXiv 2605.20965."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.checks import finite, listed
from reattend.method import Method, check_finite, check_shares
from reattend.plan import Plan
from reattend.policy import KEEP, Array
from reattend.row_scope import check_scope
from reattend.transform import Transform


@dataclass(frozen=True)
class ILVAD(Method):
    r"""When a word is chosen, heads that look at the image's evidence look at it more.

    .. code-block:: text

        e_h    = sum_{j in I} S_j A_hj / sum_{j in I} A_hj
        A'_hj ~ A_hj exp(alpha S_j)        j in I, of the share of heads with the largest e_h

    S is the saliency of the image tokens, from 0 to 1: `reattend.measures.evidence_saliency` of the
    first rows of an answer. One list for all items, or a list for each. Each row chooses heads of
    its own and needs a call of its own. **This is the visual half.** The other half weighs earlier
    tokens of the answer by how much evidence they saw in all layers, which a layer's plan does not
    know.

    Paper: Finding the Correct Visual Evidence Without Forgetting: Mitigating Hallucination in LVLMs
    via Inter-Layer Visual Attention Discrepancy (ICML 2026), arXiv 2605.20965.

    Examples
    --------
    >>> ILVAD(saliency=(0.0, 1.0)).saliency
    ((0.0, 1.0),)
    """

    edits: ClassVar[str] = "scores"
    statistic: ClassVar[str] = "weights of the row on the image"
    needs_image: ClassVar[bool] = True

    saliency: Any = ()  # S of each image token, or a list for each item; without, nothing changes
    alpha: float = 5.0  # how much; 3 for LLaVA-NeXT, 0 changes nothing
    share: float = 0.5  # of the heads that are changed
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope("last", self.phase)
        check_finite(self, "alpha")
        check_shares(self, "share")
        object.__setattr__(self, "saliency", _saliency(self.saliency))

    def plan(self, call: Call, state: Any) -> tuple[Plan | None, Any]:
        """Raise the evidence in the row's heads that look at it."""
        if call.image is None or not self.saliency or not self.alpha:
            return None, None
        if not call.in_scope("last", self.phase).any() or not call.image.any():
            return None, None
        if call.answer_row is None:
            return None, None
        image = call.image
        evidence = self._on_keys(image[:, : call.num_prompt])  # [B, P]
        if evidence is None:
            return None, None
        scores = np.where(image[:, None], call.row_scores(image), -np.inf)  # [B, H, M]
        largest = scores.max(-1, keepdims=True)
        weights = np.exp(scores - np.where(np.isfinite(largest), largest, 0))
        seen = weights.sum(-1)
        ratio = (weights[..., : evidence.shape[1]] * evidence[:, None]).sum(-1)
        ratio = ratio / np.where(seen > 0, seen, 1)  # [B, H]
        rank = np.argsort(np.argsort(-ratio, axis=1, kind="stable"), axis=1, kind="stable")
        chosen = rank < int(self.share * call.num_heads)
        shift = self.alpha * np.where(chosen[..., None], evidence[:, None], 0)  # [B, H, P]
        if not shift.any():
            return None, None
        edit = Transform(shift=shift)
        return Plan(None, KEEP, transform=edit, rows="last", phase=self.phase), None

    def _on_keys(self, image: Array) -> Array | None:
        """Put each item's saliency on its image keys [B, P]; items of one prompt follow others."""
        batch = len(image)
        if batch % len(self.saliency):
            raise ValueError(
                f"saliency must be one list, or one for each of {batch} items, got "
                f"{len(self.saliency)}"
            )
        found = np.zeros(image.shape)
        for item in range(batch):
            keys = np.flatnonzero(image[item])
            some = self.saliency[item * len(self.saliency) // batch]
            if not len(keys):
                continue
            if len(some) != len(keys):
                raise ValueError(
                    f"saliency must be a number for each of {len(keys)} image tokens of item "
                    f"{item}, got {len(some)}"
                )
            found[item, keys] = some
        return found if found.any() else None


def _saliency(given: Any) -> tuple[tuple[float, ...], ...]:
    found = listed("saliency", given, "numbers, or a list of numbers for each item")
    if not found:
        return ()
    single = not hasattr(type(found[0]), "__iter__")
    lists = tuple(
        tuple(finite("saliency", each) for each in some) for some in ((found,) if single else found)
    )
    if not all(0 <= each <= 1 for some in lists for each in some):
        raise ValueError("saliency must hold numbers from 0 to 1")
    return lists
