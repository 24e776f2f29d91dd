"""The second branch of contrastive decoding: what it reads of cases, for each kind of model."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from reattend.decoding import (
    INSTRUCTED,
    NOISED,
    TEXT_ONLY,
    ModelBranch,
    Setting,
    TwoBranch,
    diffusion_noise,
)
from reattend.evaluation.datasets.dataset import Case
from reattend.method import Method
from reattend.models import VisionLanguage
from reattend.optional import demand
from reattend.policy import Array
from reattend.session import Session

__all__ = ["CaseSetting", "Change", "model_processor", "split", "vision_language_processor"]

Change = Method | Setting  # what is at work: attention edited, or logits of branches mixed


class CaseSetting(Setting, Protocol):
    """A setting whose other branch can be made from a case, as `split` gives it."""

    branch: ClassVar[str | None]  # what that branch sees


_INSTRUCTION = "You are a confused object detector."  # before a question, for ICD
_NOISE_STEP = 500  # of a thousand, for VCD


def split(changes: Sequence[Change]) -> tuple[list[Method], CaseSetting | None]:
    """Tell methods from the setting at the logits, of which there is one at most.

    Parameters
    ----------
    changes : sequence of Method or Setting
        What is at work.

    Raises
    ------
    ValueError
        If there are several settings, or one whose other branch cannot be made from a case.

    Examples
    --------
    >>> from reattend.decoding import VCD
    >>> from reattend.methods import PAI
    >>> split([PAI(), VCD()])
    ([PAI(alpha=0.5, layers=None, rows='last', phase='both')], VCD(alpha=1.0, beta=0.1))
    """
    methods = [each for each in changes if isinstance(each, Method)]
    settings: list[Any] = [each for each in changes if not isinstance(each, Method)]
    if len(settings) > 1:
        raise ValueError(f"at most one setting may mix logits, got {settings}")
    for setting in settings:
        if getattr(setting, "branch", None) not in (NOISED, INSTRUCTED, TEXT_ONLY):
            raise ValueError(
                f"a setting must say what its other branch sees, as VCD, ICD, M3ID and Guidance "
                f"do, got {setting!r}: its branch is for a loop of one's own"
            )
    return methods, settings[0] if settings else None


def vision_language_processor(
    model: VisionLanguage,
    setting: CaseSetting,
    methods: Sequence[Method],
    cases: Sequence[Case],
    pixels: Array,
    max_new_tokens: int,
) -> TwoBranch:
    """Make what mixes the logits of the package's own model.

    Parameters
    ----------
    model : VisionLanguage
        The model.
    setting : Setting
        Of `split`.
    methods : sequence of Method
        At work in the second branch as well.
    cases : sequence of Case
        What is asked.
    pixels : uint8 array [B, 120, 120, 3]
        Their pictures; noise is cut to what a picture holds.
    max_new_tokens : int
        How many steps at most.
    """
    config, sees = model.llama.config, setting.branch
    if sees == TEXT_ONLY:  # where there is no image, methods that need one would warn
        methods = [method for method in methods if not method.needs_image]
    session = Session(methods, num_layers=config.num_layers, num_heads=config.num_heads)
    before = _INSTRUCTION if sees == INSTRUCTED else None
    prompts = [model.prompt(case.prompt, before=before) for case in cases]
    shown: Array | None = pixels
    if sees == NOISED:
        noised = diffusion_noise(pixels / 127.5 - 1, step=_NOISE_STEP, rng=_rng(cases))
        shown = np.clip(np.rint((noised + 1) * 127.5), 0, 255).astype(np.uint8)
    elif sees == TEXT_ONLY:
        shown = None
    return TwoBranch(
        model.branch(session, prompts, shown, max_new_tokens=max_new_tokens), setting=setting
    )


def model_processor(
    model: Any,
    setting: CaseSetting,
    cases: Sequence[Case],
    inputs: Mapping[str, Any],
    read: Callable[[Sequence[str], bool], Mapping[str, Any]],
) -> TwoBranch:
    """Make what mixes the logits of a transformers model, whose methods are attached.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model.
    setting : Setting
        Of `split`.
    cases : sequence of Case
        What is asked.
    inputs : mapping
        What the model reads for them.
    read : callable
        Gives what it reads for other questions, with their pictures or without.

    Raises
    ------
    ValueError
        If pictures do not come as floats that could be noised.
    """
    sees = setting.branch
    if sees == NOISED:
        pixels = inputs.get("pixel_values")
        if pixels is None or not hasattr(pixels, "is_floating_point"):
            raise ValueError(f"{setting!r} noises pixel_values, one tensor, which are not there")
        noised = diffusion_noise(pixels.float().numpy(), step=_NOISE_STEP, rng=_rng(cases))
        tensor = demand("torch").from_numpy(noised).to(pixels.dtype)
        return TwoBranch(ModelBranch(model, **{**inputs, "pixel_values": tensor}), setting=setting)
    before = f"{_INSTRUCTION} " if sees == INSTRUCTED else ""
    other = read([f"{before}{case.prompt}" for case in cases], sees != TEXT_ONLY)
    return TwoBranch(ModelBranch(model, **other), setting=setting)


def _rng(cases: Sequence[Case]) -> np.random.Generator:
    """Noise that hangs on what is asked alone, so that a run can be repeated."""
    return np.random.default_rng([zlib.crc32(case.key.encode()) for case in cases])
