"""Decoding at the logits: two branches combined, as processors of a generation."""

from reattend.decoding.contrastive import Branch, ModelBranch, TwoBranch, contrast

__all__ = ["Branch", "ModelBranch", "TwoBranch", "contrast"]
