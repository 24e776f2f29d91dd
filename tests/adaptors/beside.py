"""The formula beside each call of a model's attention, on what the call was given.

Unlike a run of its own, this needs nothing of a family but its attention: its layers may magnify
rounding as they like, and every call is still held against the full matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import reattend.adaptors.transformers.model_session as model_session
import torch
import transformers as hf
from across import Across
from formulas import WrittenOut


class Beside(WrittenOut):
    """Knows what each call must give; `off` is the largest difference, relative to the output."""

    def __init__(
        self, model: Any, structure: Any, methods: Any, image: Any, holders: Any = None
    ) -> None:
        super().__init__(model, methods, image, holders)
        self.structure, self.num_layers = structure, structure.num_layers
        self.one_image, self.one_text, self.one_valid = image, {}, None
        self.off, self.calls = 0.0, 0
        self.across = Across(methods, self.num_layers, self.changed)

    def expected(self, module: Any, query: Any, key: Any, value: Any, mask: Any, options: Any, *,
                 causal: bool, plain: bool) -> Any:  # fmt: skip
        """Compute a call by the formula; gives [B, H, N, Dv], and which rows see a key."""
        q, k, v = (x.detach().double().numpy() for x in (query, key, value))
        layer, rows = module.layer_idx, q.shape[2]
        past = 0 if plain or rows > 1 else self.kept[layer]["keys"]
        length = min(k.shape[2], past + rows)  # static caches have empty slots behind
        k, v = k[:, :, :length], v[:, :, :length]
        bias: Any = 0.0
        if mask is None:
            seen = np.tri(rows, length, length - rows, dtype=bool) if causal else True
            visible = np.broadcast_to(seen, (1, 1, rows, length))
        elif mask.dtype == torch.bool:
            visible = mask[..., :length].numpy()
        else:
            visible = (mask[..., :length] > -1e30).numpy()
            bias = np.where(visible, mask[..., :length].double().numpy(), 0)
        if options.get("indices") is not None:
            chosen = np.zeros((len(q), 1, rows, length + 1), bool)
            found = np.minimum(options["indices"].numpy(), length)[:, None]
            np.put_along_axis(chosen, found, True, -1)
            visible = visible & chosen[..., :length]
        if options.get("position_bias") is not None:
            bias = bias + options["position_bias"][..., :length].double().numpy()
        sink, scale = options.get("s_aux", options.get("sinks")), options.get("scaling")
        if not plain and rows > 1 and self.one_image is not None:
            times = len(q) // len(self.one_image)
            self.valid = self.one_valid.repeat(times, 0)
            self.image = self.one_image.repeat(times, 0)
            self.text = {at: each.repeat(times, 0) for at, each in self.one_text.items()}
        out = self.computed(
            layer, q, k, v, visible, plain=plain, bias=bias, softcap=options.get("softcap"),
            scale=q.shape[-1] ** -0.5 if scale is None else scale,
            sink=None if sink is None else sink.detach().double().numpy(),
        )  # fmt: skip
        return out, np.broadcast_to(visible, (len(q), visible.shape[1], rows, length)).any((1, 3))

    def expected_across(
        self, module: Any, query: Any, key: Any, value: Any, mask: Any, padding: Any, options: Any
    ) -> Any:
        """Compute a call of cross-attention by the formula; gives what `expected` gives."""
        q, k, v = (x.detach().double().numpy() for x in (query, key, value))
        visible, bias = np.ones((1, 1, 1, 1), bool), 0.0
        if mask is not None:
            visible = (mask > -1e30).numpy() if mask.is_floating_point() else mask.numpy()
            bias = np.where(visible, mask.double().numpy(), 0) if mask.is_floating_point() else 0.0
        valid = np.ones((len(q), q.shape[2]), bool)
        if padding is not None and q.shape[2] > 1:
            valid = padding
        out = self.across.computed(
            module.layer_idx, q, k, v, visible, bias, valid, scale=options["scaling"]
        )
        return out, valid & np.broadcast_to(visible.any(-1)[:, 0], valid.shape)

    def reorder(self, indices: Any) -> None:
        """Follow a beam search."""
        where = np.asarray(indices)
        for kept in (*self.kept.values(), *self.across.kept.values()):
            kept.update({n: x[where] for n, x in kept.items() if isinstance(x, np.ndarray)})
        if self.image is not None:
            self.image = self.image[where]

    def read_text(self, ids: Any, mask: Any) -> None:
        """Run each prompt without its image, alone, and keep each layer's last head outputs."""
        layers = list(self.structure.attention)
        rows: list[list[Any]] = []
        for b in range(len(ids)):
            keep = mask[b].bool() & ~torch.from_numpy(self.holders[b])
            self.unsunk = []
            _read(self.model, ids[b : b + 1, keep])
            rows.append([record[0, :, -1] for record in self.unsunk])
        self.one_text = {
            layer: np.stack([row[at] for row in rows]) for at, layer in enumerate(layers)
        }


def _read(model: Any, ids: Any) -> None:
    """Let a model read a prompt without pictures; some cannot, and only their decoder can."""
    try:
        model(input_ids=ids, use_cache=False)
    except (TypeError, ValueError, AttributeError):
        model.get_decoder()(input_ids=ids, use_cache=False)


@contextmanager
def beside(oracle: Beside) -> Iterator[Beside]:
    """Hold every call of an attached model's attention against the formula."""
    attend, reorder = model_session.attend, hf.Cache.reorder_cache
    attend_across = model_session.attend_across

    def watching(forward, module, query, key, value, mask, padding, options):  # type: ignore[no-untyped-def]
        found = attend(forward, module, query, key, value, mask, padding, options)
        causal = options.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        expected, seen = oracle.expected(
            module, query, key, value, mask, options, causal=causal, plain=forward.prompt is None
        )
        note(found, expected, seen)
        return found

    def watching_across(forward, module, query, key, value, mask, padding, options):  # type: ignore[no-untyped-def]
        found = attend_across(forward, module, query, key, value, mask, padding, options)
        asked = (query, key, value, mask, padding, options)
        note(found, *oracle.expected_across(module, *asked))
        return found

    def note(found, expected, seen):  # type: ignore[no-untyped-def]
        off = np.abs(found.double().numpy() - expected.swapaxes(1, 2))[seen]
        oracle.off = max(oracle.off, off.max() / max(1, np.abs(expected).max()))
        oracle.calls += 1

    def keep_keys(module, args, kwargs):  # type: ignore[no-untyped-def]
        states = kwargs.get("cross_attention_states")
        if states is not None:
            batch = len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])
            kept = states.detach().double().reshape(batch, -1, states.shape[-1]).numpy()
            oracle.across.states[module.layer_idx] = kept

    def reordering(cache, indices):  # type: ignore[no-untyped-def]
        oracle.reorder(indices)
        return reorder(cache, indices)

    active = getattr(oracle.config, "altup_active_idx", None)

    def keep(layer):  # type: ignore[no-untyped-def]
        def hook(module, args, kwargs):  # type: ignore[no-untyped-def]
            states = (args[0] if args else kwargs["hidden_states"]).detach().double().numpy()
            oracle.states[layer] = states[active] if states.ndim == 4 else states

        return hook

    hooks = [
        module.register_forward_pre_hook(keep(layer), with_kwargs=True)
        for layer, module in oracle.structure.layers.items()
    ]
    hooks += [
        module.register_forward_pre_hook(keep_keys, with_kwargs=True)
        for module in oracle.structure.cross.values()
    ]
    try:
        with (
            patch.object(model_session, "attend", watching),
            patch.object(model_session, "attend_across", watching_across),
            patch.object(hf.Cache, "reorder_cache", reordering),
        ):
            yield oracle
    finally:
        for hook in hooks:
            hook.remove()
