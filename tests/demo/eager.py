"""Attention on the full matrix with each method's formula written out, to be compared with.

In float32 and in NumPy, in a Session's place. Of the package it reads the methods' parameters only.
"""

from contextlib import contextmanager

import numpy as np
from reattend.methods import ACT, VAR, VHR


class EagerSession:
    """Does what Session does, without the pass: one method, prompts read at once with an image."""

    def __init__(self, method, *, num_layers):
        self.method, self.methods, self.num_layers = method, (method,), num_layers
        self.image, self.reading_text, self.text = None, False, {}
        self.kept = {}  # by layer
        self.changed = 0  # rows (VAR), sinks (ACT) or heads (VHR)

    @contextmanager
    def generation(self, image=None, *, prompt_len=None):
        self.image, self.kept = image, {}
        yield

    @contextmanager
    def text_only(self):
        self.reading_text, self.text = True, {}
        yield
        self.reading_text = False

    def attend(
        self, layer, query, key, value, *, hidden_states=None, key_mask=None, out=None
    ):  # fmt: skip
        batch, heads, rows, size = query.shape
        group, keys = heads // key.shape[1], key.shape[2]
        key, value = key.repeat(group, 1), value.repeat(group, 1)
        row, column = np.arange(keys - rows, keys), np.arange(keys)
        seen = np.broadcast_to(column <= row[:, None], (batch, rows, keys))
        if key_mask is not None:  # a row that stands at padding is none
            seen = seen & key_mask[:, None] & key_mask[:, row, None]
        scores = query @ key.swapaxes(-1, -2) * np.float32(size**-0.5)
        scores = np.where(seen[:, None], scores, np.float32(-np.inf))
        weights = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), np.float32(-1e30)))
        weights /= np.maximum(weights.sum(-1, keepdims=True), np.float32(1e-30))
        scale = np.float32(1)
        if self.reading_text:
            self.text[layer] = (weights @ value)[:, :, -1]
        else:
            kept = self.kept.setdefault(layer, {})
            if isinstance(self.method, VHR):
                scale = self.vhr(self.method, layer, kept, (weights @ value)[:, :, -1])
            elif isinstance(self.method, ACT):
                weights = self.act(self.method, layer, kept, weights, seen)
            elif isinstance(self.method, VAR):
                weights = self.var(self.method, layer, kept, weights, row, hidden_states)
        result = weights @ value * scale
        if out is None:
            return result
        out[...] = result
        return out

    def var(self, method, layer, kept, weights, row, states):
        if not 2 <= layer < self.num_layers - 1:
            return weights
        keys = weights.shape[-1]
        if not kept:
            phi = np.abs(states / np.sqrt((states**2).mean(-1, keepdims=True) + 1e-6))
            tau = method.tau * np.sqrt(states.shape[-1]) if method.tau < 1 else method.tau
            kept["sinks"] = phi[..., list(method.sink_dims)].max(-1) > tau  # [B, P]
            last = self.image.shape[1] - 1 - self.image[:, ::-1].argmax(-1)
            kept["end"] = last + 1
        steps = ((0, 0), (0, keys - self.image.shape[1]))
        sinks, image = np.pad(kept["sinks"], steps), np.pad(self.image, steps)  # [B, M]
        others = image & ~sinks
        some = (sinks & image).any(-1)[:, None, None, None]

        def mass(which):
            return (weights * which[:, None, None]).sum(-1, keepdims=True)  # [B, H, N, 1]

        on_image, on_others = mass(image), mass(others)
        after = (row >= kept["end"][:, None])[:, None, :, None]
        chosen = some & after & (on_image >= method.image_mass) & (on_others > 0)
        chosen &= on_others >= method.rho * on_image
        freed = (1 - method.p) * mass(sinks)
        more = 1 + freed / np.where(on_others > 0, on_others, 1)
        factor = np.where(sinks[:, None, None], np.float32(method.p), 1)
        factor = np.where(others[:, None, None], more, factor)
        self.changed += int(chosen.sum())
        return np.where(chosen, weights * factor, weights).astype(np.float32)

    def act(self, method, layer, kept, weights, seen):
        calibrated = range(weights.shape[1])
        if method.heads is not None:
            calibrated = dict(method.heads).get(layer, ())
        if not 2 <= layer < self.num_layers - 1 or not len(calibrated):
            return weights
        old = weights.shape[-1] - weights.shape[-2]
        sums, counts = weights.sum(2), seen.sum(1)  # [B, H, M], [B, M]
        if old:
            sums[..., :old] += kept["sums"]
            counts[:, :old] += kept["counts"]
        kept["sums"], kept["counts"] = sums, counts
        kept.setdefault("first", seen.any(1).argmax(-1))  # the first key that is no padding
        sink = sums / np.maximum(counts, 1)[:, None].astype(np.float32) > method.theta
        sink[np.arange(len(sink)), :, kept["first"]] = False
        sink[:, [head for head in range(sink.shape[1]) if head not in calibrated]] = False
        self.changed += int(sink.sum())
        on, off = ((weights * keys[:, :, None]).sum(-1, keepdims=True) for keys in (sink, ~sink))
        beta = np.float32(method.beta)
        rest = weights * (1 + (1 - beta) * on / np.where(off > 0, off, 1))
        return np.where(sink[:, :, None], beta * weights, rest)

    def vhr(self, method, layer, kept, last):
        if layer not in method.layers_for(self.num_layers):
            return np.float32(1)
        if not kept:
            text = self.text[layer]
            divergence = np.linalg.norm(last - text, axis=-1)  # [B, H]
            activation = (text**2).sum(-1)
            high = [
                x > x.mean(-1, keepdims=True) + x.std(-1, ddof=1, keepdims=True)
                for x in (divergence, activation)
            ]
            divergence = np.where(high[0] & high[1], 0, divergence)
            kept["heads"] = divergence > np.median(divergence, axis=-1, keepdims=True)
            self.changed += int(kept["heads"].sum())
        return np.where(kept["heads"], np.float32(method.alpha), np.float32(1))[..., None, None]
