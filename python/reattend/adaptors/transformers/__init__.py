"""Hugging Face models: methods inside `model.generate`, with nothing of the model changed."""

from reattend.adaptors.transformers.attach import Attached, attached
from reattend.adaptors.transformers.model_session import ModelSession

__all__ = ["Attached", "ModelSession", "attached"]
