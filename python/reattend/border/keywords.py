"""Keywords that other libraries have and this one calls otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ELSEWHERE = {  # of PyTorch's scaled_dot_product_attention, and of flash-attn, xFormers and JAX
    "attn_mask": "pass a bool [B, M] padding mask as key_mask=, numbers added to the scores as "
    "bias=, and other bool masks as bias=np.where(mask, 0, -np.inf)",
    "is_causal": "pass causal=; it is aligned at the bottom right",
    "enable_gqa": "leave it out, grouped heads follow from the shapes",
    "dropout_p": "leave it out, reattend is for inference",
    "need_weights": "rows of weights are measures.attention_rows'",
    "softmax_scale": "pass scale=",
    "attn_bias": "pass numbers added to the scores as bias=, and causal=True for a causal mask",
    "mask": "pass a bool [B, M] padding mask as key_mask=, and other bool masks as "
    "bias=np.where(mask, 0, -np.inf)",
}


def refuse(unknown: Mapping[str, Any]) -> None:
    """Refuse keywords, and say what those of other libraries are called here."""
    if not unknown:
        return
    name = next((name for name in unknown if name in _ELSEWHERE), next(iter(unknown)))
    hint = f": {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
    raise TypeError(f"attention() has no argument {name!r}{hint}")
