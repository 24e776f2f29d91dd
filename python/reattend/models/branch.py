"""A second prompt of a model, read beside the first: what contrastive decoding compares with."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from reattend.cache.kv_cache import KVCache
from reattend.models.llama import Llama, checked_prompt
from reattend.policy import Array
from reattend.session import Session

__all__ = ["LlamaBranch"]


class LlamaBranch:
    """A model on a prompt of its own, which goes on by tokens that it is told: a `Branch`.

    Parameters
    ----------
    model : Llama
        The model.
    session : Session
        Runs the branch's attention; not the session of the branch that speaks.
    tokens, key_mask, image
        The prompt, as for `generate`.
    max_new_tokens : int
        How many steps at most.

    Raises
    ------
    TypeError, ValueError
        If the prompt is empty, padded at its end, or does not fit its masks.

    Examples
    --------
    >>> from reattend.decoding import VCD, TwoBranch
    >>> from reattend.models import Config, Layer, generate
    >>> rng = np.random.default_rng(0)
    >>> config = Config(num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, hidden_size=8)
    >>> def weight(*shape):
    ...     return rng.standard_normal(shape, dtype=np.float32)
    >>> matrices = weight(8, 16), weight(8, 8), weight(8, 12), weight(6, 8)
    >>> layer = Layer(weight(8), *matrices[:2], weight(8), *matrices[2:])
    >>> model = Llama(config, [layer], embedding=weight(8, 50), final_norm=weight(8))
    >>> clean, noised = weight(1, 6, 8), weight(1, 6, 8)
    >>> branch = LlamaBranch(model, Session([], num_layers=1), noised, max_new_tokens=3)
    >>> steps = generate(
    ...     model, Session([], num_layers=1), clean, max_new_tokens=3,
    ...     logits_processor=TwoBranch(branch, setting=VCD()),
    ... )
    >>> len(list(steps))
    3
    """

    def __init__(
        self,
        model: Llama,
        session: Session,
        tokens: Array,
        key_mask: Array | None = None,
        image: Array | None = None,
        *,
        max_new_tokens: int,
    ) -> None:
        self.model, self.session = model, session
        self._prompt, self._first_mask, self._image = checked_prompt(tokens, key_mask, image)
        self._capacity = self._prompt.shape[1] + max_new_tokens
        self._open = ExitStack()

    def close(self) -> None:
        """End the session's generation, so that another can be opened."""
        self._open.close()

    def begin(self) -> Array:
        """Read the prompts from their start; give the logits [B, V] of what follows."""
        self.close()
        self._cache = KVCache(self.model.config.num_layers, capacity=self._capacity)
        self._mask = self._first_mask
        self._open.enter_context(
            self.session.generation(self._image, prompt_len=self._prompt.shape[1])
        )
        return self._forward(self._prompt)

    def step(self, tokens: Array) -> Array:
        """Go on by one token [B] for each item; give the logits [B, V] of what follows."""
        if self._mask is not None:
            self._mask = np.pad(self._mask, ((0, 0), (0, 1)), constant_values=True)
        return self._forward(np.asarray(tokens)[:, None])

    def reorder(self, indices: Array) -> None:
        """Let item b become what item ``indices[b]`` was."""
        self._cache.reorder(indices)
        self.session.reorder(indices)
        self._mask = None if self._mask is None else self._mask[indices]

    def _forward(self, tokens: Array) -> Array:
        states = self.model(tokens, self._cache, self.session, self._mask)
        return self.model.logits(states[:, -1])
