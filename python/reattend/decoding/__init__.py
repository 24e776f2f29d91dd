"""Decoding at the logits: branches combined by one mixer, as processors of a generation."""

from reattend.decoding.confidence import Confidence
from reattend.decoding.context import DAGCD, context_votes
from reattend.decoding.contrastive import Branch, ModelBranch, TwoBranch, contrast
from reattend.decoding.distortion import diffusion_noise, faint_tokens, outlier_patches
from reattend.decoding.layers import DeCo, DoLa, EarlyLayers
from reattend.decoding.mixing import log_softmax, mix, nucleus, plausible, softmax
from reattend.decoding.settings import (
    DAMRO,
    ICD,
    INSTRUCTED,
    M3ID,
    NOISED,
    ONLY,
    TEXT_ONLY,
    VCD,
    AttentionBuckets,
    AvisC,
    CausalMM,
    Guidance,
    Setting,
)

__all__ = [
    "DAGCD",
    "DAMRO",
    "ICD",
    "INSTRUCTED",
    "M3ID",
    "NOISED",
    "ONLY",
    "TEXT_ONLY",
    "VCD",
    "AttentionBuckets",
    "AvisC",
    "Branch",
    "CausalMM",
    "Confidence",
    "DeCo",
    "DoLa",
    "EarlyLayers",
    "Guidance",
    "ModelBranch",
    "Setting",
    "TwoBranch",
    "context_votes",
    "contrast",
    "diffusion_noise",
    "faint_tokens",
    "log_softmax",
    "mix",
    "nucleus",
    "outlier_patches",
    "plausible",
    "softmax",
]
