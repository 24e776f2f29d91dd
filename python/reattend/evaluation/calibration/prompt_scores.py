"""Scores by the token after a prompt, on NumPy models: what candidates share is done once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from reattend.cache import KVCache
from reattend.evaluation.calibration.search import Heads
from reattend.method import Method
from reattend.models import Llama
from reattend.policy import Array
from reattend.session import Session

_APART = 8  # tokens: first ones that are no further apart begin together


class PromptBatch(NamedTuple):
    """Prompts that are read side by side, and how what follows them is scored."""

    inputs: Array  # float32 [B, P, C], embeddings; padded on the left
    key_mask: Array | None  # bool [B, P], False for padding
    image: Array | None  # bool [B, P], True at image tokens
    score: Callable[[Array, Array], Array]  # logits [R, V] of items [R] -> [R], more is better


class PromptScores:
    """Scores of prompts, for `search_heads`, with exact savings over the layers.

    A candidate of layer l leaves everything below l as it is. So the states that enter l are
    computed once for all candidates of l, and once for all layers: the search walks up. Where a
    candidate leaves an item's states behind l as they are, to the bit (a head without a sink, for
    ACT), the rest of the model is not run at all; what is changed, by any candidate of l, goes
    through the layers above in one batch. Where the method is at rest above l, tokens before the
    first changed one are the plain model's in every layer, and only those from it on are run.

    Parameters
    ----------
    model : Llama
        Of `reattend.models`; of a `VisionLanguage` its ``llama``.
    batches : sequence of PromptBatch
        What is asked.
    switch : callable
        From heads to the method that is switched on in them, such as ``lambda heads:
        ACT(heads=heads)``. What it does in a layer must depend on the heads of that layer alone,
        and without any it must do nothing there.
    groups : int array [N], optional
        The sample that each prompt is of, from 0: prompts about one picture are one sample, scored
        by their mean. By default each is its own.
    together : int, optional
        Prompts that are run through the upper layers at once; memory grows with it.
    identity : mapping, optional
        What decides the scores: model, data, method. A journal is of this one only.

    Attributes
    ----------
    layer_tokens : int
        Tokens times layers that were run so far: what the savings are counted by.

    Raises
    ------
    ValueError
        If the method compares with the prompt without its image: score it by answers.

    Examples
    --------
    >>> from reattend import HeadMask
    >>> from reattend.evaluation.calibration import head_candidates, search_heads
    >>> from reattend.models import Config, Layer
    >>> config = Config(num_layers=6, num_heads=2, num_kv_heads=1, head_dim=4, hidden_size=8)
    >>> rng = np.random.default_rng(0)
    >>> def weight(*shape):
    ...     return rng.standard_normal(shape, dtype=np.float32)
    >>> sizes = (8,), (8, 16), (8, 8), (8,), (8, 12), (6, 8)
    >>> layers = [Layer(*(weight(*size) for size in sizes)) for _ in range(6)]
    >>> model = Llama(config, layers, embedding=weight(8, 20), final_norm=weight(8))
    >>> prompts = model.embed(rng.integers(0, 20, (4, 7)))
    >>> batch = PromptBatch(prompts, None, None, lambda logits, items: logits[:, 3])
    >>> scores = PromptScores(model, [batch], lambda heads: HeadMask(heads=heads))
    >>> found = search_heads(scores, head_candidates(6, 2))
    >>> found.gains.shape, scores.layer_tokens < 4 * 7 * 6 * 8
    ((6,), True)
    """

    def __init__(
        self,
        model: Llama,
        batches: Sequence[PromptBatch],
        switch: Callable[[Heads], Method],
        *,
        groups: Array | None = None,
        together: int = 64,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        if switch({}).needs_text_only:
            raise ValueError(
                "switch must give a method that reads each prompt once, got "
                f"{type(switch({})).__name__}, which compares with the prompt without its image"
            )
        count = sum(len(batch.inputs) for batch in batches)
        self._model, self._batches, self._switch = model, tuple(batches), switch
        self._groups = np.arange(count) if groups is None else np.asarray(groups)
        if self._groups.shape != (count,):
            raise ValueError(f"groups must be one for each of {count} prompts, got {groups!r}")
        self._together, self._identity = together, identity
        self._base: Heads | None = None
        self._layer = 0
        self.layer_tokens = 0

    def identity(self) -> dict[str, Any] | None:
        """Give what decides the scores, None if nobody said so."""
        return None if self._identity is None else dict(self._identity)

    def __call__(self, heads: Heads) -> Array:
        """Score with the method in these heads, through all layers.

        Parameters
        ----------
        heads : mapping of int to sequence of int
            Layer -> heads.

        Returns
        -------
        float64 array [n]
        """
        method = self._switch(heads)
        return self._sampled([self._finish(method, batch, batch.inputs, 0)
                              for batch in self._batches])  # fmt: skip

    def layer_scores(self, base: Heads, layer: int, heads: Sequence[int]) -> Array:
        """Score ``base`` with each of some heads of one layer added.

        Parameters
        ----------
        base : mapping of int to sequence of int
            Heads in which the method is switched on anyway.
        layer : int
            The layer. Upwards is cheap: what was computed below the last one is kept.
        heads : sequence of int
            Heads of the layer.

        Returns
        -------
        float64 array [len(heads), n]
        """
        self._climb(base, layer)
        plain = self._switch(base)
        tried = [
            self._switch({**base, layer: tuple(sorted({*base.get(layer, ()), head}))})
            for head in heads
        ]
        alike = not any(some for above, some in base.items() if above > layer)
        parts = []
        for batch, states, scores in zip(self._batches, self._states, self._plain, strict=True):
            after = self._run(plain, batch, states, layer, layer + 1)
            own = np.stack([self._run(each, batch, states, layer, layer + 1) for each in tried])
            changed = (own != after).any(-1)  # [K, B, P]
            new = np.repeat(scores[None], len(tried), 0)
            where = np.nonzero(changed.any(-1))
            firsts = changed[where].argmax(-1)
            if alike and len(after) * after.shape[1] < int(firsts.sum()):
                new[where] = self._behind(batch, after, layer + 1, own[where], where[1], firsts)
            else:
                new[where] = self._finish(plain, batch, own[where], layer + 1, where[1])
            parts.append(new)
        return np.stack([self._sampled(each) for each in zip(*parts, strict=True)])

    def _climb(self, base: Heads, layer: int) -> None:
        """Bring the states that enter a layer up to it."""
        if self._base != base or self._layer > layer:
            method = self._switch(base)
            self._base, self._layer = dict(base), 0
            self._states = [batch.inputs for batch in self._batches]
            self._plain = [self._finish(method, batch, batch.inputs, 0) for batch in self._batches]
        if self._layer < layer:
            method = self._switch(base)
            self._states = [
                self._run(method, batch, states, self._layer, layer)
                for batch, states in zip(self._batches, self._states, strict=True)
            ]
            self._layer = layer

    def _finish(
        self, method: Method, batch: PromptBatch, states: Array, start: int,
        items: Array | None = None,
    ) -> Array:  # fmt: skip
        """Run states [R, P, C] of items through the layers from ``start`` on, and score them."""
        rows = np.arange(len(states)) if items is None else items
        scores = np.empty(len(rows))
        for at in range(0, len(rows), self._together):
            some = rows[at : at + self._together]
            mask, image = (
                None if each is None else each[some] for each in (batch.key_mask, batch.image)
            )
            part = PromptBatch(states[at : at + self._together], mask, image, batch.score)
            out = self._run(method, part, part.inputs, start, self._model.config.num_layers)
            scores[at : at + self._together] = self._score(batch, out, some)
        return scores

    def _behind(
        self, batch: PromptBatch, plain: Array, start: int, states: Array, items: Array,
        firsts: Array,
    ) -> Array:  # fmt: skip
        """Do as `_finish` where the method is at rest, from the first token that is changed on.

        What stands before it is the plain model's, and so are its keys and values in all layers.
        """
        config, length = self._model.config, plain.shape[1]
        cache = KVCache(config.num_layers, capacity=length)
        self._run([], batch, plain, start, config.num_layers, cache)
        scores = np.empty(len(items))
        firsts = firsts // _APART * _APART
        for first in np.unique(firsts).tolist():
            places = np.flatnonzero(firsts == first)
            for at in range(0, len(places), self._together):
                some = places[at : at + self._together]
                known = cache.fork()
                known.crop(first)
                known.reorder(items[some])
                mask = None if batch.key_mask is None else batch.key_mask[items[some]]
                part = PromptBatch(plain, mask, None, batch.score)
                out = self._run([], part, states[some, first:], start, config.num_layers, known)
                scores[some] = self._score(batch, out, items[some])
        return scores

    def _score(self, batch: PromptBatch, out: Array, items: Array) -> Array:
        return batch.score(self._model.logits(out[:, -1]), items)

    def _run(
        self, methods: Method | Sequence[Method], batch: PromptBatch, states: Array, start: int,
        stop: int, cache: KVCache | None = None,
    ) -> Array:  # fmt: skip
        config, length = self._model.config, batch.inputs.shape[1]
        session = Session(methods, num_layers=config.num_layers, num_heads=config.num_heads)
        cache = KVCache(config.num_layers, capacity=length) if cache is None else cache
        with session.generation(batch.image, prompt_len=length):
            out = self._model(states, cache, session, batch.key_mask, layers=range(start, stop))
        self.layer_tokens += states.shape[0] * states.shape[1] * (stop - start)
        return out

    def _sampled(self, scores: Sequence[Array]) -> Array:
        flat = np.concatenate(scores)
        return np.bincount(self._groups, flat) / np.bincount(self._groups)
