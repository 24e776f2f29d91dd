"""Torch's classes are what the adaptor takes them for: mypy reads this in its strict mode."""

from reattend.adaptors.transformers import protocols
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def tensor(found: Tensor) -> protocols.Tensor:
    """Give a tensor as the adaptor sees it."""
    return found


def module(found: nn.Module) -> protocols.Module:
    """Give a module as the adaptor sees it."""
    return found


def handle(found: RemovableHandle) -> protocols.Handle:
    """Give a hook's handle as the adaptor sees it."""
    return found
