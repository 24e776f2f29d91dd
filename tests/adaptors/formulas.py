"""What the adaptor must equal: attention on the full matrix, each method's formula written out.

In float64, as an attention implementation of transformers. It knows nothing of reattend.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

NAME = "written_out"


class WrittenOut:
    """Takes the place of a model's attention; `records` are its outputs [B, N, H, Dv], in order."""

    def __init__(
        self, model: Any, methods: dict[str, dict[str, Any]], image: Any, holders: Any = None
    ) -> None:
        self.model, self.methods, self.image = model, methods, image  # image bool [B, P]
        self.holders = image if holders is None else holders  # image, and what separates its rows
        self.config = model.config.get_text_config(decoder=True)
        self.num_layers = self.config.num_hidden_layers
        self.states: dict[int, Any] = {}
        self.kept: dict[int, dict[str, Any]] = {}
        self.records: list[np.ndarray] = []
        self.unsunk: list[np.ndarray] = []  # [B, H, N, Dv], before a learned sink takes its share
        self.changed: dict[str, int] = dict.fromkeys(methods, 0)
        self.text: dict[int, Any] = {}
        self.valid: Any = None  # bool [B, P], the prompt's rows that are no padding; None: all

    def __call__(self, module, query, key, value, attention_mask, **options):  # type: ignore[no-untyped-def]
        q, k, v = (x.detach().double().numpy() for x in (query, key, value))
        visible = (attention_mask[..., : k.shape[2]] > -1e30).numpy()
        sink = options.get("s_aux")
        out = self.computed(
            module.layer_idx, q, k, v, visible, scale=options["scaling"],
            softcap=options.get("softcap"),
            sink=None if sink is None else sink.detach().double().numpy(),
        )  # fmt: skip
        self.records.append(out.swapaxes(1, 2))
        return torch.from_numpy(out.swapaxes(1, 2).copy()).to(query.dtype), None

    def computed(  # type: ignore[no-untyped-def]
        self, layer, q, k, v, visible, *, scale, softcap=None, sink=None, bias=0.0, plain=False
    ):
        """Compute a layer's output [B, H, N, Dv]; `plain` leaves the methods out."""
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat(group, 1), v.repeat(group, 1)
        scores = q @ k.swapaxes(-1, -2) * scale
        if softcap:
            scores = np.tanh(scores / softcap) * softcap
        scores = scores + bias
        visible = np.broadcast_to(visible, scores.shape)
        most = np.where(visible, scores, -np.inf).max(-1, keepdims=True)
        most = np.where(np.isfinite(most), most, 0)
        weights = np.exp(np.where(visible, scores, -np.inf) - most)
        total = weights.sum(-1, keepdims=True)
        left = np.ones_like(total)
        if sink is not None:  # in the denominator only
            sink = sink[:, None, None] if sink.ndim == 1 else sink  # of each head, or of each row
            left = total / (total + np.exp(sink - most))
        weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        if plain:
            self.unsunk.append(weights @ v)
            return weights @ v * left
        if q.shape[2] > 1:
            self.kept[layer] = {"keys": 0}
        kept = self.kept[layer]
        kept["keys"] += q.shape[2]
        kept["first_row"] = kept["keys"] - q.shape[2]
        kept["dropped"] = kept["keys"] - k.shape[2]  # by a sliding cache
        factor = np.ones((*q.shape[:2], 1, 1))
        for name, how in self.methods.items():
            if name == "VHR":
                factor = self.vhr(layer, kept, weights @ v, **how)
            else:
                weights = getattr(self, name.lower())(layer, kept, weights, visible[:, 0], **how)
        self.unsunk.append(weights @ v)
        return weights @ v * left * factor

    def var(self, layer, kept, weights, visible, *, sink_dims, tau, p, rho, image_mass):  # type: ignore[no-untyped-def]
        if not 2 <= layer < self.num_layers - 1 or self.image is None:
            return weights
        batch, heads, rows, _ = weights.shape
        prompt = self.image.shape[1]
        if rows > 1:
            x = self.states[layer]
            phi = np.abs(x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6))[..., sink_dims].max(-1)
            kept["sinks"] = phi > tau * np.sqrt(x.shape[-1])
        weights = weights.copy()
        for b in range(batch):
            image = np.flatnonzero(self.image[b])
            if not len(image):
                continue
            end = next(
                j for j in range(image[0], prompt + 1) if j == prompt or not self.image[b, j]
            )
            for i in range(rows):
                if kept["first_row"] + i < end:
                    continue
                seen = np.flatnonzero(visible[b, i]) + kept["dropped"]
                sinks = [j for j in seen if j < prompt and kept["sinks"][b, j]]
                # Visual sinks so far, in a sliding window or not.
                some = (kept["sinks"] & self.image)[b, : kept["first_row"] + i + 1].any()
                image = [j for j in seen if j < prompt and self.image[b, j]]
                others = [j for j in image if j not in sinks]
                if not some:
                    continue
                sinks, image, others = (
                    np.array(s, int) - kept["dropped"] for s in (sinks, image, others)
                )
                for h in range(heads):
                    row = weights[b, h, i].copy()
                    mass = row[image].sum()
                    if mass >= image_mass and row[others].sum() / mass >= rho and len(others):
                        weights[b, h, i, sinks] = p * row[sinks]
                        omega = (1 - p) * row[sinks].sum()
                        weights[b, h, i, others] += omega * row[others] / row[others].sum()
                        self.changed["VAR"] += 1
        return weights

    def act(self, layer, kept, weights, visible, *, theta, beta):  # type: ignore[no-untyped-def]
        if not 2 <= layer < self.num_layers - 1:
            return weights
        batch, heads = weights.shape[:2]
        total, dropped = kept["keys"], kept["dropped"]
        sums, counts = np.zeros((batch, heads, total)), np.zeros((batch, total))
        sums[..., : total - weights.shape[2]] = kept.get("sums", 0)
        counts[:, : total - weights.shape[2]] = kept.get("counts", 0)
        valid = np.ones((batch, weights.shape[2]), bool)
        if weights.shape[2] > 1 and self.valid is not None:  # a row of padding is none
            valid = self.valid
        sums[..., dropped:] += (weights * valid[:, None, :, None]).sum(2)
        counts[:, dropped:] += (visible & valid[:, :, None]).sum(1)
        kept["sums"], kept["counts"] = sums, counts
        kept.setdefault("first", visible.any(1).argmax(-1))  # the first key that is no padding
        sink = (sums / np.maximum(counts, 1)[:, None] > theta)[..., dropped:]  # [B, H, M]
        for b, first in enumerate(kept["first"]):
            if first >= dropped:
                sink[b, :, first - dropped] = False
        on, rest = (
            (weights * part[:, :, None]).sum(-1, keepdims=True) for part in (sink, ~sink)
        )  # one by one: 1 - on has no digits left where sinks have all
        self.changed["ACT"] += int(sink.sum())
        other = weights * (1 + (1 - beta) * on / np.maximum(rest, 1e-30))
        changed = np.where(sink[:, :, None], beta * weights, other)
        return np.where(rest > 1e-30, changed, weights)

    def vhr(self, layer, kept, out, *, alpha, layers):  # type: ignore[no-untyped-def]
        if self.image is None or layer not in layers:
            return np.ones((1, 1, 1, 1))
        if out.shape[2] > 1:
            text = self.text[layer]  # [B, H, Dv]
            vhd = np.linalg.norm(out[:, :, -1] - text, axis=-1)
            ta = (text**2).sum(-1)
            high = [
                x > x.mean(-1, keepdims=True) + x.std(-1, ddof=1, keepdims=True) for x in (vhd, ta)
            ]
            vhd = np.where(high[0] & high[1], 0, vhd)
            kept["vhd"] = vhd
            kept["heads"] = vhd > np.median(vhd, -1, keepdims=True)
            kept["heads"] &= self.image.any(-1)[:, None]
            self.changed["VHR"] += int(kept["heads"].sum())
        return np.where(kept["heads"], alpha, 1.0)[..., None, None]

    def read_text(self, ids: Any, mask: Any) -> None:
        """Run each prompt without its image, alone, and keep each layer's last head outputs."""
        decoder, methods, self.methods = self.model.get_decoder(), self.methods, {}
        rows: list[list[Any]] = []
        for b in range(len(ids)):
            keep = mask[b].bool() & ~torch.from_numpy(self.holders[b])
            self.unsunk = []
            decoder(input_ids=ids[b : b + 1, keep], use_cache=False)
            rows.append([record[0, :, -1] for record in self.unsunk])
        self.text = {
            layer: np.stack([row[layer] for row in rows]) for layer in range(self.num_layers)
        }
        self.records, self.methods = [], methods


@contextmanager
def written_out(model: Any, attention: WrittenOut, inputs: dict[str, Any]):  # type: ignore[no-untyped-def]
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    config, hooks = attention.config, []
    before = config._attn_implementation
    for module in model.get_decoder().modules():
        layer = getattr(getattr(module, "self_attn", None), "layer_idx", None)
        if layer is not None:

            def keep(module, args, kwargs, layer=layer):  # type: ignore[no-untyped-def]
                attention.states[layer] = (
                    (args[0] if args else kwargs["hidden_states"]).detach().double().numpy()
                )

            hooks.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    config._attn_implementation_internal = NAME
    try:
        with torch.no_grad():
            if "VHR" in attention.methods and attention.image is not None:
                attention.read_text(inputs["input_ids"], inputs["attention_mask"])
            yield
    finally:
        config._attn_implementation_internal = before
        for hook in hooks:
            hook.remove()
