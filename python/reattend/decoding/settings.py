"""Settings of the mixer, one a paper: what a published method does with the logits of branches.

A setting is called with the logits [..., V] of the branch that speaks, then those of the others;
``step`` counts the new tokens from 0. All cut on the logits of the branch that speaks, before any
other processor has changed them: put `TwoBranch` first in a list.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import numpy as np

from reattend.checks import numbers, real
from reattend.decoding.mixing import floats_of, log_softmax, mix, plausible, softmax
from reattend.policy import Array

NOISED, INSTRUCTED, TEXT_ONLY = "a noised image", "a disturbing instruction", "no image"


class Setting(Protocol):
    """How the logits of branches become one: what `TwoBranch` calls at each step."""

    def __call__(self, logits: Array, *others: Array, step: int = 0) -> Array:
        """Give the logits [..., V] to choose from."""


def _one(others: tuple[Array, ...], name: str) -> Array:
    if len(others) != 1:
        raise ValueError(f"{name} must be given one other branch, got {len(others)}")
    return others[0]


class _Checked:
    """Checks parameters: numbers from 0, beta to 1."""

    branch: ClassVar[str | None] = None  # what its one other branch sees; None: the caller's matter

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            given = real(field.name, getattr(self, field.name))
            if field.name in {"beta", "epsilon"}:
                if not 0 <= given <= 1:
                    raise ValueError(f"{field.name} must be from 0 to 1, got {given!r}")
            elif not (np.isfinite(given) and given >= 0):
                raise ValueError(f"{field.name} must be a number from 0, got {given!r}")
            object.__setattr__(self, field.name, given)


@dataclass(frozen=True)
class VCD(_Checked):
    r"""Moves away from what the model says of a noised image.

    .. code-block:: text

        z = (1 + alpha) z1 - alpha z2        where p1 >= beta max p1, else -inf

    The other branch has the image of `diffusion_noise`. Paper: Mitigating Object Hallucinations in
    Large Vision-Language Models through Visual Contrastive Decoding (CVPR 2024), arXiv 2311.16922.

    Examples
    --------
    >>> VCD()(np.array([2.0, 1.0, -9.0]), np.array([2.0, 0.0, -9.0]))
    array([  2.,   2., -inf])
    """

    branch: ClassVar[str | None] = NOISED

    alpha: float = 1.0  # how far; 0 changes nothing but for the cut
    beta: float = 0.1  # tokens below this share of the likeliest one's probability are left out

    def __call__(self, logits: Array, *others: Array, step: int = 0) -> Array:
        """Give the logits to choose from."""
        other = _one(others, type(self).__name__)
        keep = plausible(logits, self.beta)
        return mix(logits, [other], own=1 + self.alpha, weights=[-self.alpha], keep=keep)


@dataclass(frozen=True)
class ICD(VCD):
    """Moves away from what the model says after a disturbing instruction.

    The other branch has a sentence before the question that confuses the role, such as 'You are a
    confused object detector.' The formula is that of `VCD`. Paper: Mitigating Hallucinations in
    Large Vision-Language Models with Instruction Contrastive Decoding (ACL Findings 2024),
    arXiv 2403.18715.

    Examples
    --------
    >>> ICD()
    ICD(alpha=1.0, beta=0.1)
    """

    branch: ClassVar[str | None] = INSTRUCTED


@dataclass(frozen=True)
class DAMRO(VCD):
    """Moves away from what the model says of the image's outlier patches alone.

    The other branch sees only the k patches of `outlier_patches`, in that order (10 for
    LLaVA-1.5, 4 for InstructBLIP, with alpha 0.5 for POPE and 1.5 for CHAIR there). The formula is
    that of `VCD`. Paper: DAMRO: Dive into the Attention Mechanism of LVLM to Reduce Object
    Hallucination (EMNLP 2024), arXiv 2410.04514.

    Examples
    --------
    >>> DAMRO().alpha
    2.0
    """

    branch: ClassVar[str | None] = None

    alpha: float = 2.0  # how far, for LLaVA-1.5


@dataclass(frozen=True)
class AvisC(VCD):
    """Moves away from what the model says with its blind tokens alone.

    The other branch has hidden states of 0 at the image keys that `faint_tokens` marks. The formula
    is that of `VCD`. Paper: Don't Miss the Forest for the Trees: Attentional Vision Calibration for
    Large Vision Language Models (2024), arXiv 2405.17820.

    Examples
    --------
    >>> AvisC()
    AvisC(alpha=1.0, beta=0.1)
    """

    branch: ClassVar[str | None] = None


@dataclass(frozen=True)
class CausalMM(_Checked):
    r"""Moves away from branches whose attention was replaced.

    .. code-block:: text

        z = (1 + n gamma) z1 - gamma sum_i z2_i        where p1 >= epsilon max p1, else -inf

    n is 1 (vision or language attention replaced) or 2 (both, a branch each). The replaced weights
    are uniform, random, reversed or shuffled. Paper: Mitigating Modality Prior-Induced
    Hallucinations in Multimodal Large Language Models via Deciphering Attention Causality
    (ICLR 2025), arXiv 2410.04780.

    Examples
    --------
    >>> CausalMM()(np.array([1.0, 0.5]), np.array([1.0, 0.0]), np.array([0.0, 0.5]))
    array([2., 1.])
    """

    gamma: float = 1.0  # how far from each branch
    epsilon: float = 0.1  # the cut

    def __call__(self, logits: Array, *others: Array, step: int = 0) -> Array:
        """Give the logits to choose from."""
        if len(others) not in (1, 2):
            raise ValueError(f"CausalMM must be given one or two other branches, got {len(others)}")
        own, keep = 1 + len(others) * self.gamma, plausible(logits, self.epsilon)
        return mix(logits, others, own=own, weights=[-self.gamma] * len(others), keep=keep)


@dataclass(frozen=True)
class M3ID(_Checked):
    r"""Moves away from the text-only branch, further with every new token.

    .. code-block:: text

        z = z1 + (e^(lamb t) - 1) (z1 - z2)        where p1 >= beta max p1, else -inf

    t counts new tokens from 0, so the first is not moved. The strength grows without bound, 53.6 at
    200 tokens; ``most`` caps it. Paper: Multi-Modal Hallucination Control by Visual Information
    Grounding (CVPR 2024), arXiv 2403.14003.

    Examples
    --------
    >>> M3ID()(np.array([2.0, 1.0]), np.array([9.0, 0.0]), step=0)
    array([2., 1.])
    """

    branch: ClassVar[str | None] = TEXT_ONLY

    lamb: float = 0.02  # how fast the prompt is forgotten
    beta: float = 0.1  # the cut
    most: float = 1e6  # the strength never exceeds it; the paper has no cap

    def __call__(self, logits: Array, *others: Array, step: int = 0) -> Array:
        """Give the logits to choose from."""
        other = _one(others, "M3ID")
        strength = min(float(np.expm1(min(self.lamb * step, 700.0))), self.most)
        keep = plausible(logits, self.beta)
        return mix(logits, [other], own=1 + strength, weights=[-strength], keep=keep)


@dataclass(frozen=True)
class Guidance(_Checked):
    r"""Classifier-free guidance, and what PAI does at the logits: away from the text-only branch.

    .. code-block:: text

        z = gamma (log p1 - log p2) + log p2        where p1 >= beta max p1, else -inf

    At gamma = 1 it gives log p1. Inside the text-only branch `PAI` is off. Papers: Stay on Topic
    with Classifier-Free Guidance (2023), arXiv 2306.17806; Paying More Attention to Image
    (ECCV 2024), arXiv 2407.21771.

    Examples
    --------
    >>> Guidance(gamma=1, beta=0)(np.log([0.75, 0.25]), np.log([0.5, 0.5])).round(3)
    array([-0.288, -1.386])
    """

    branch: ClassVar[str | None] = TEXT_ONLY

    gamma: float = 1.1  # the guidance; PAI's scripts have 1.1
    beta: float = 0.1  # the cut

    def __call__(self, logits: Array, *others: Array, step: int = 0) -> Array:
        """Give the logits to choose from."""
        other = log_softmax(_one(others, "Guidance"))
        keep = plausible(logits, self.beta)
        mixed = mix(
            log_softmax(logits), [other], own=self.gamma, weights=[1 - self.gamma], keep=keep
        )
        return mixed.astype(np.asarray(logits).dtype, copy=False)


@dataclass(frozen=True)
class ONLY(_Checked):
    r"""Adds the side branch where both agree, moves away from it where they do not.

    .. code-block:: text

        d = sum |p1 - p2|
        z = z1 + alpha_pos z2                    d < gamma
        z = (1 + alpha_neg) z1 - alpha_neg z2    else;  where p1 >= beta max p1, else -inf

    The other branch comes from the same forward, by one layer whose heads are weighed, see
    `reattend.measures.side_branch`. Paper: ONLY: One-Layer Intervention Sufficiently Mitigates
    Hallucinations in Large Vision-Language Models (ICCV 2025), arXiv 2507.00898.

    Examples
    --------
    >>> ONLY(beta=0)(np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    array([4., 0.])
    """

    gamma: float = 0.6  # how far apart the branches may be to be added; 0.1 for captions
    alpha_pos: float = 3.0  # what multiplies a branch that agrees
    alpha_neg: float = 1.0  # how far from one that does not
    beta: float = 0.1  # the cut

    def __call__(self, logits: Array, *others: Array, step: int = 0) -> Array:
        """Give the logits to choose from, decided for each row."""
        other = _one(others, "ONLY")
        apart = np.abs(softmax(logits) - softmax(other)).sum(-1, keepdims=True)
        own = np.where(apart < self.gamma, 1, 1 + self.alpha_neg)
        weight = np.where(apart < self.gamma, self.alpha_pos, -self.alpha_neg)
        keep = plausible(logits, self.beta)
        return mix(logits, [other], own=own, weights=[weight], keep=keep)


@dataclass(frozen=True)
class AttentionBuckets:
    r"""Merges branches whose rotary embeddings have different bases, by how sure each is.

    .. code-block:: text

        p = sum_i w_i p_i        w_i = max p_i / sum_k max p_k

    Each branch is the same model with another base, so that no place of the context is where all of
    them look least; any number of branches. What is given back is log p. The paper weighs by
    confidence; that confidences are divided by their sum is this package's reading. Paper: Fortify
    the Shortest Stave in Attention: Enhancing Context Awareness of Large Language Models for
    Effective Tool Use (ACL 2024), arXiv 2312.04455.

    Examples
    --------
    >>> sure, unsure = np.log([0.9, 0.1]), np.log([0.4, 0.6])
    >>> np.exp(AttentionBuckets()(sure, unsure)).round(3)
    array([0.7, 0.3])
    """

    def __call__(self, logits: Array, *others: Array, step: int = 0) -> Array:
        """Give the logits to choose from."""
        if not others:
            raise ValueError("AttentionBuckets must be given other branches, got none")
        logits = floats_of("logits", logits)
        shapes = [numbers("others", other).shape for other in others]
        if any(shape != logits.shape for shape in shapes):
            raise ValueError(f"others must have the shape of logits, {logits.shape}, got {shapes}")
        each = np.stack([softmax(branch) for branch in (logits, *others)])  # [n, ..., V]
        sure = each.max(-1, keepdims=True)
        with np.errstate(divide="ignore"):
            merged = np.log((each * (sure / sure.sum(0))).sum(0))
        return np.asarray(merged.astype(logits.dtype, copy=False))
