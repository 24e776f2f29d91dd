"""The attention that a module would ask if reattend were not attached."""

from __future__ import annotations

import sys

from reattend.adaptors.transformers.protocols import Module, OwnAttention, Tensor
from reattend.optional import demand


def own_attention(module: Module, implementation: str) -> OwnAttention | None:
    """Give a model's own attention, which takes masks as `reattend` gets them.

    Parameters
    ----------
    module : torch.nn.Module
        The attention module.
    implementation : str
        What the model used before: "sdpa" or "eager".

    Returns
    -------
    callable, or None if nobody knows it
    """
    if implementation == "sdpa":
        functions = demand("transformers.modeling_utils").ALL_ATTENTION_FUNCTIONS
        sdpa: OwnAttention | None = functions.get("sdpa")  # somebody may have put another there
        return sdpa
    eager: OwnAttention | None = getattr(
        sys.modules[type(module).__module__], "eager_attention_forward", None
    )
    if implementation != "eager" or eager is None:
        return None

    def attend(
        module: Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **options: object,
    ) -> tuple[Tensor, object]:
        return eager(module, query, key, value, _added(mask, query), **options)

    return attend


def _added(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """Give a mask that is added to the scores: eager attention knows no other."""
    torch = demand("torch")
    if mask is None or mask.is_floating_point():
        return mask
    nothing: Tensor = torch.zeros(mask.shape, dtype=query.dtype)
    return nothing.masked_fill(~mask, torch.finfo(query.dtype).min)
