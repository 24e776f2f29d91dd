"""Settings that contrast a model's last layer with earlier ones, and where these come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reattend.adaptors.transformers.tensors import floats
from reattend.checks import finite, real
from reattend.decoding.contrastive import is_beside
from reattend.decoding.mixing import comparable, log_softmax, mix, nucleus, plausible, softmax
from reattend.optional import demand
from reattend.policy import Array


@dataclass(frozen=True)
class DoLa:
    r"""Contrasts the last layer with the earlier one that differs most from it.

    .. code-block:: text

        l* = argmax_l JS(p, q_l)
        z  = log softmax(log p - log q_l*)        where p >= beta max p, else -inf

    The candidates q_l are every second layer of the lower half (for long texts) or of the upper
    one. The published code puts -1000 where this puts -inf. Paper: DoLa: Decoding by Contrasting
    Layers Improves Factuality in Large Language Models (ICLR 2024), arXiv 2309.03883.

    Examples
    --------
    >>> DoLa(beta=0)(np.log([0.5, 0.5]), np.log([0.5, 0.5]), np.log([0.9, 0.1])).round(2)
    array([-2.3 , -0.11])
    """

    beta: float = 0.1  # tokens below this share of the likeliest one's probability are left out

    def __post_init__(self) -> None:
        if not 0 <= real("beta", self.beta) <= 1:
            raise ValueError(f"beta must be from 0 to 1, got {self.beta!r}")

    def __call__(self, logits: Array, *others: Array, step: int = 0) -> Array:
        """Give the logits to choose from; the layer is chosen for each row."""
        early = _stacked(logits, others)
        own, early = log_softmax(logits), log_softmax(early)  # [..., V], [L, ..., V]
        middle = np.logaddexp(own, early) - np.log(2)
        with np.errstate(invalid="ignore"):  # 0 log 0 is 0
            divergence = np.exp(middle) * (2 * middle - own - early)
            # Both directions are from the middle: KL(M, p) and KL(M, q), as published.
            divergence = np.where(np.isneginf(middle), 0, divergence).mean(-1)  # [L, ...]
        chosen = divergence.argmax(0)
        q = np.take_along_axis(early, chosen[None, ..., None], 0)[0]
        keep = plausible(logits, self.beta)
        mixed = log_softmax(mix(own, [q], own=1, weights=[-1]))
        kept = keep & (np.asarray(logits) != -np.inf)
        return np.where(kept, mixed, -np.inf).astype(np.asarray(logits).dtype)


@dataclass(frozen=True)
class DeCo:
    r"""Adds the earlier layer that is surest of one of the likely tokens.

    .. code-block:: text

        candidates: the top_k likeliest tokens that hold top_p
        l*, m = the layer and the largest probability that an earlier layer gives a candidate
        z     = z1 + alpha m z_l*        at candidates, else -inf

    The earlier layers are 20 to 28 of 32. Paper: MLLM Can See? Dynamic Correction Decoding for
    Hallucination Mitigation (ICLR 2025), arXiv 2410.11779.

    Examples
    --------
    >>> DeCo(alpha=1)(np.array([2.0, 0.0, -9.0]), np.array([0.0, 0.0, -np.inf]))
    array([  2.,   0., -inf])
    """

    alpha: float = 0.6  # how much of the earlier layer is added
    top_k: int = 20  # how many candidates at most
    top_p: float = 0.9  # what they hold together

    def __post_init__(self) -> None:
        finite("alpha", self.alpha)
        nucleus(np.zeros(1), top_k=self.top_k, top_p=self.top_p)

    def __call__(self, logits: Array, *others: Array, step: int = 0) -> Array:
        """Give the logits to choose from; the layer is chosen for each row."""
        early = _stacked(logits, others)  # [L, ..., V]
        keep = nucleus(logits, top_k=self.top_k, top_p=self.top_p)
        sure = np.where(keep, softmax(early), 0).max(-1)  # [L, ...]
        chosen, most = sure.argmax(0), sure.max(0)
        best = np.take_along_axis(early, chosen[None, ..., None], 0)[0]
        return mix(logits, [best], own=1, weights=[self.alpha * most[..., None]], keep=keep)


class EarlyLayers:
    """A logits processor that mixes in what earlier layers of the model would have said.

    Enter it around `generate`: within, it keeps the states of the last row that leave the layers,
    and at each step puts them through the model's final norm and head.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With ``get_output_embeddings``, and a decoder with ``layers`` and ``norm``.
    setting : Setting
        `DoLa` or `DeCo`.
    layers : sequence of int
        Which layers, from 0.

    Raises
    ------
    TypeError, ValueError
        If there is no layer, or the model has fewer, or none of that name.

    Examples
    --------
    >>> with EarlyLayers(model, DoLa(), range(0, 16, 2)) as early:  # doctest: +SKIP
    ...     model.generate(**inputs, logits_processor=[early])
    """

    def __init__(self, model: Any, setting: Any, layers: Sequence[int]) -> None:
        self.model, self.setting, self.layers = model, setting, tuple(layers)
        decoder = model.get_decoder()
        stack: Any = getattr(decoder, "layers", None)
        self._norm: Any = getattr(decoder, "norm", None)
        if stack is None or self._norm is None:
            raise TypeError(
                f"model must have a decoder with layers and norm, got {type(model).__name__} with "
                f"{type(decoder).__name__}"
            )
        if not self.layers or not all(0 <= layer < len(stack) - 1 for layer in self.layers):
            raise ValueError(
                f"layers must be some of 0 to {len(stack) - 2}, those before the last, "
                f"got {self.layers}"
            )
        self._stack = [*(stack[layer] for layer in self.layers), stack[-1]]
        self._states: list[Any] = [None] * len(self._stack)  # of the forward just done
        self._hooks: list[Any] = []
        self._forwards = 0  # since the last call
        self._length: int | None = None  # of the tokens at the last call
        self._checked = False

    def __enter__(self) -> EarlyLayers:
        if self._hooks:
            raise RuntimeError("EarlyLayers is entered already")
        for place, layer in enumerate(self._stack):
            self._hooks.append(layer.register_forward_hook(self._keep(place)))
        self._hooks.append(self.model.register_forward_hook(self._end))
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._states = [], [None] * len(self._stack)
        self._forwards, self._length = 0, None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Mix scores [B, V] with those of the earlier layers in the forward just done."""
        torch = demand("torch")
        if any(state is None for state in self._states):
            raise RuntimeError("EarlyLayers must be entered with 'with' before generate is called")
        going_on = input_ids.shape[1] - 1 == self._length  # a prompt may come in chunks
        if going_on and self._forwards > 1:
            raise RuntimeError(
                f"EarlyLayers must mix what the last forward says, and the model ran "
                f"{self._forwards} times for one token: another processor runs it too, as "
                "guidance_scale does"
            )
        self._forwards, self._length = 0, input_ids.shape[1]
        early = [self._said(state) for state in self._states[:-1]]
        if len(early[0]) != len(scores):
            raise ValueError(
                f"scores must have the rows of the last forward, {len(early[0])}, got {len(scores)}"
            )
        own = floats(scores)
        mixed = comparable(own, self.setting(own, *early))
        return torch.from_numpy(mixed).to(scores.dtype)

    def _said(self, state: Any) -> Array:
        """Give what a layer's states [B, C] would have said [B, V]."""
        with demand("torch").no_grad():
            return floats(self.model.get_output_embeddings()(self._norm(state)))

    def _keep(self, place: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if not is_beside():
                states = output[0] if isinstance(output, tuple) else output
                self._states[place] = states[:, -1]

        return hook

    def _end(self, module: Any, inputs: Any, output: Any) -> None:
        """Count a forward, and hold what its last layer says against the model's own logits."""
        if is_beside():
            return
        self._forwards += 1
        logits = getattr(output, "logits", None)
        if self._checked or logits is None:
            return
        said, own = self._said(self._states[-1]), floats(logits[:, -1])
        most = np.abs(own).max() * (1e-4 if logits.element_size() == 4 else 5e-2)
        if said.shape != own.shape or not np.abs(said - own).max() <= most:
            raise NotImplementedError(
                f"{type(self.model).__name__} makes its logits by more than its norm and its head, "
                "such as a softcap or a scale, so what earlier layers say cannot be held against "
                "them"
            )
        self._checked = True


def _stacked(logits: Array, others: Sequence[Array]) -> Array:
    if not others:
        raise ValueError("others must hold the logits of at least one earlier layer, got none")
    for other in others:
        if np.shape(other) != np.shape(logits):
            raise ValueError(
                f"others must have the shape of logits, {np.shape(logits)}, got {np.shape(other)}"
            )
    return np.stack([np.asarray(other) for other in others])
