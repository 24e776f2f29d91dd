"""The attention that a module would ask if reattend were not attached."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from reattend.optional import demand


def own_attention(module: Any, implementation: str) -> Callable[..., Any] | None:
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
        where = demand("transformers.integrations.sdpa_attention")
        return getattr(where, "sdpa_attention_forward", None)
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if implementation != "eager" or eager is None:
        return None

    def attend(
        module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any
    ) -> tuple[Any, Any]:
        result: tuple[Any, Any] = eager(module, query, key, value, _added(mask, query), **options)
        return result

    return attend


def _added(mask: Any, query: Any) -> Any:
    """Give a mask that is added to the scores: eager attention knows no other."""
    torch = demand("torch")
    if mask is None or mask.is_floating_point():
        return mask
    nothing = torch.zeros(mask.shape, dtype=query.dtype)
    return nothing.masked_fill(~mask, torch.finfo(query.dtype).min)
