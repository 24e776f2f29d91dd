"""ILVAD: Finding the Correct Visual Evidence Without Forgetting (ICML 2026), arXiv 2605.20965."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from reattend.call import Call
from reattend.checks import finite, listed
from reattend.following import RowRule
from reattend.method import Method, check_finite, check_shares
from reattend.plan import Plan
from reattend.policy import KEEP, LARGEST, Array
from reattend.row_scope import check_scope
from reattend.transform import Transform, in_heads


class _Evidence(NamedTuple):
    """What ILVAD remembers of a prompt."""

    saliency: Array  # S of each key of the prompt, [B, P]
    plan: Plan  # of all heads


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

    def plan(self, call: Call, state: _Evidence | None) -> tuple[Plan | None, _Evidence | None]:
        """Raise the evidence in the row's heads that look at it."""
        if call.image is None or not self.saliency or not self.alpha:
            return None, None
        if not call.image.any():
            return None, state
        if call.last_chunk:  # whatever the phase: items may change places before the first step
            state = self._find(call)
        if state is None or not call.in_scope("last", self.phase).any():
            return None, state
        if call.answer_row is None:
            return None, state
        near = call.image_span
        scores = call.row_scores(call.image)[..., near]
        chosen = self._chosen(scores, call.image[:, near], state.saliency[:, near])
        if not chosen.any():
            return None, state
        assert state.plan.transform is not None
        return replace(state.plan, transform=in_heads(state.plan.transform, chosen)), state

    def goes_on(self, call: Call, state: _Evidence | None) -> bool | RowRule:
        """Say that steps differ in nothing but their row's scores on the image."""
        if state is None or call.image is None or not int(self.share * call.num_heads):
            return True
        if not call.in_scope("last", self.phase).any():
            return True
        image, raised = call.image[:, : call.num_prompt], state.plan.transform
        assert raised is not None

        def edits(scores: Array, near: slice) -> tuple[None, Transform]:
            chosen = self._chosen(scores, image[:, near], state.saliency[:, near])
            return None, in_heads(raised, chosen)

        return RowRule(image, KEEP, edits)

    def _chosen(self, scores: Array, image: Array, saliency: Array) -> Array:
        """Say which heads look at the evidence: scores [B, H, K] of a row -> bool [B, H]."""
        if not image.all():
            scores = np.where(image[:, None], scores, -np.inf)
        largest = np.maximum(scores.max(-1, keepdims=True), -LARGEST)  # no image: all are -inf
        weights = np.exp(scores - largest)
        seen = weights.sum(-1)
        ratio = np.einsum("bhk,bk->bh", weights, saliency) / np.where(seen > 0, seen, 1)
        rank = np.argsort(np.argsort(-ratio, axis=1, kind="stable"), axis=1, kind="stable")
        return np.asarray(rank < int(self.share * ratio.shape[1]))

    def _find(self, call: Call) -> _Evidence | None:
        """Put the saliency on the prompt's keys, and say what is done in all heads."""
        assert call.image is not None
        evidence = self._on_keys(call.image[:, : call.num_prompt])  # [B, P]
        if evidence is None:
            return None
        edit = Transform(shift=self.alpha * evidence[:, None])
        return _Evidence(evidence, Plan(None, KEEP, transform=edit, rows="last", phase=self.phase))

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
        return found.astype(np.float32) if found.any() else None


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
