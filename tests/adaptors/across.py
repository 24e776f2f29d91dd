"""Cross-attention to a picture on the full matrix, each method's formula written out, in float64.

It knows nothing of reattend.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Across:
    """What each call of cross-attention must give; all keys are the picture's."""

    def __init__(self, methods: dict[str, dict[str, Any]], num_layers: int, changed: Any) -> None:
        self.methods, self.num_layers, self.changed = methods, num_layers, changed
        self.states: dict[int, Any] = {}  # that the keys are made of [B, M, C]
        self.kept: dict[int, dict[str, Any]] = {}

    def computed(self, layer: int, q: Any, k: Any, v: Any, visible: Any, bias: Any, valid: Any, *,
                 scale: float) -> Any:  # fmt: skip
        """Compute a call's output [B, H, N, Dv]; `valid` [B, N]: rows that are no padding."""
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat(group, 1), v.repeat(group, 1)
        scores = np.where(visible, q @ k.swapaxes(-1, -2) * scale + bias, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        if q.shape[2] > 1:
            self.kept[layer] = {}
        kept, factor = self.kept[layer], np.ones((*q.shape[:2], 1, 1))
        for name, how in self.methods.items():
            if name == "VHR":
                factor = self.vhr(layer, kept, weights @ v, **how)
            elif 2 <= layer < self.num_layers - 1:
                seen = np.broadcast_to(visible, (len(q), 1, *weights.shape[2:]))[:, 0]
                weights = getattr(self, name.lower())(
                    layer, kept, weights, seen & valid[..., None], **how
                )
        return weights @ v * factor

    def var(self, layer, kept, weights, seen, *, sink_dims, tau, p, rho, image_mass):  # type: ignore[no-untyped-def]
        if weights.shape[2] > 1:
            x = self.states[layer]
            phi = np.abs(x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6))[..., sink_dims].max(-1)
            kept["sinks"] = phi > tau * np.sqrt(x.shape[-1])  # [B, M]
        sink = kept["sinks"][:, None, None]
        on, off = (weights * sink).sum(-1, keepdims=True), (weights * ~sink).sum(-1, keepdims=True)
        moved = (off >= rho) & (off > 0) & kept["sinks"].any(-1)[:, None, None, None]
        changed = np.where(sink, p * weights, weights * (1 + (1 - p) * on / np.maximum(off, 1e-30)))
        self.changed["VAR"] += int((moved[..., 0] & seen.any(-1)[:, None]).sum())
        return np.where(moved, changed, weights)

    def act(self, layer, kept, weights, seen, *, theta, beta):  # type: ignore[no-untyped-def]
        rows = seen.any(-1)[:, None, :, None]
        kept["sums"] = kept.get("sums", 0) + (weights * rows).sum(2)
        kept["counts"] = kept.get("counts", 0) + seen.sum(1)
        sink = (kept["sums"] / np.maximum(kept["counts"], 1)[:, None] > theta)[:, :, None]
        on, off = (weights * sink).sum(-1, keepdims=True), (weights * ~sink).sum(-1, keepdims=True)
        self.changed["ACT"] += int(sink.sum())
        other = weights * (1 + (1 - beta) * on / np.maximum(off, 1e-30))
        return np.where(off > 1e-30, np.where(sink, beta * weights, other), weights)

    def vhr(self, layer, kept, out, *, alpha, layers):  # type: ignore[no-untyped-def]
        if layer not in layers:
            return np.ones((1, 1, 1, 1))
        if out.shape[2] > 1:  # without the picture there is nothing to attend to
            norm = np.linalg.norm(out[:, :, -1], axis=-1)
            kept["heads"] = norm > np.median(norm, -1, keepdims=True)
            self.changed["VHR"] += int(kept["heads"].sum())
        return np.where(kept["heads"], alpha, 1.0)[..., None, None]
