r"""Two-branch decoding: the next token's logits against those of a second prompt.

.. code-block:: text

    z = (1 + alpha) z1 - alpha z2        where p1 >= beta max p1, else -inf

With the same prompt and a distorted or missing image as second branch this is contrastive decoding
(VCD, arXiv 2311.16922; its cut-off is that of arXiv 2210.15097); with beta = 0 it is
classifier-free guidance of scale 1 + alpha (arXiv 2306.17806): whether z are logits or log
probabilities makes no difference to the probabilities of z.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
from typing import Any, Protocol

import numpy as np

from reattend.adaptors.transformers.caches import cache_of
from reattend.adaptors.transformers.tensors import floats
from reattend.decoding.mixing import comparable, floats_of
from reattend.decoding.settings import VCD, Setting
from reattend.optional import demand
from reattend.policy import Array


class Branch(Protocol):
    """The second branch: what gives its logits, step by step. `ModelBranch` is one."""

    def begin(self) -> Array:
        """Read the prompts from their start; give the logits [B, V] of what follows."""

    def step(self, tokens: Array) -> Array:
        """Go on by one token [B] for each item; give the logits [B, V] of what follows."""

    def reorder(self, indices: Array) -> None:
        """Let item b become what item ``indices[b]`` was; the batch may grow or shrink."""


def contrast(logits: Array, other: Array, *, alpha: float = 1.0, beta: float = 0.1) -> Array:
    """Contrast the logits of two branches.

    Parameters
    ----------
    logits : array [..., V]
        Of the branch that speaks.
    other : array [..., V]
        Of the branch it shall differ from.
    alpha : float, optional
        How far; 0 leaves ``logits`` as they are, but for the cut-off.
    beta : float, optional
        Tokens whose probability is below this share of the likeliest one's are left out. 0: none.

    Returns
    -------
    array [..., V]
        With -inf at tokens that are left out.

    Raises
    ------
    ValueError
        If shapes differ or a number is out of its range.

    Examples
    --------
    >>> contrast(np.array([2.0, 1.0, -9.0]), np.array([2.0, 0.0, -9.0]))
    array([  2.,   2., -inf])
    """
    logits, other = floats_of("logits", logits), floats_of("other", other)
    if logits.shape != other.shape:
        raise ValueError(f"other must have the shape of logits, {logits.shape}, got {other.shape}")
    return VCD(alpha, beta)(logits, other)


class TwoBranch:
    """A logits processor that mixes each step with other branches, as a setting says.

    It works with greedy search, sampling and beams, whose rows it finds again by their tokens, and
    with any loop that calls it as `generate` does. Where scores are log probabilities, as those of
    beams are, it gives the mix's.

    Parameters
    ----------
    branch : Branch, or sequence of these
        The second branch, such as a `ModelBranch`; several for a setting that takes several.
    alpha, beta : float, optional
        As for `contrast`, where no setting is given.
    setting : Setting, optional
        What to do with the logits: `VCD`, `ICD`, `M3ID`, `Guidance`, ... or a function of one's
        own, called with the logits, those of each branch, and ``step``.

    Examples
    --------
    >>> second = ModelBranch(model, **text_inputs)  # doctest: +SKIP
    >>> model.generate(**inputs, logits_processor=[TwoBranch(second)])  # doctest: +SKIP
    """

    def __init__(
        self,
        branch: Branch | Sequence[Branch],
        *,
        alpha: float = 1.0,
        beta: float = 0.1,
        setting: Setting | None = None,
    ) -> None:
        self.setting: Setting = VCD(alpha, beta) if setting is None else setting
        self.branches = tuple(branch) if isinstance(branch, Sequence) else (branch,)
        self._seen: Array | None = None  # ids [B, N] of the last call
        self._items: Array = np.zeros(0, np.intp)  # which prompt each of its rows goes on from
        self._step = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Mix scores [B, V], arrays or tensors, of what follows input_ids [B, N]."""
        tensors = hasattr(scores, "detach")
        ids = input_ids.detach().numpy() if tensors else np.asarray(input_ids)
        own = floats(scores) if tensors else np.asarray(scores)
        others = self._others(ids)
        mixed = comparable(own, np.asarray(self.setting(own, *others, step=self._step)))
        if not tensors:
            return mixed
        return demand("torch").from_numpy(mixed).to(scores.dtype)

    def _others(self, ids: Array) -> list[Array]:
        seen, self._seen = self._seen, ids.copy()
        parents = None if seen is None else _parents(seen, ids, self._items)
        if parents is None:
            self._step = 0
            begun = [_begin(branch, len(ids)) for branch in self.branches]
            self._items = begun[0][1] if begun else np.arange(len(ids))
            return [logits for logits, _ in begun]
        self._step += 1
        self._items = self._items[parents]
        moved = not np.array_equal(parents, np.arange(len(ids)))
        others = []
        for branch in self.branches:
            if moved:
                branch.reorder(parents)
            others.append(branch.step(ids[:, -1]))
        return others


def _begin(branch: Branch, rows: int) -> tuple[Array, Array]:
    """Read a branch's prompts; give its logits for each row of the first branch, and its prompt."""
    other = branch.begin()
    if len(other) == rows:
        return other, np.arange(rows)
    if rows % len(other):
        raise ValueError(
            f"the second branch must have as many prompts as the first, got {len(other)} for {rows}"
        )
    repeated = np.repeat(np.arange(len(other)), rows // len(other))
    branch.reorder(repeated)  # beams and returned sequences
    return other[repeated], repeated


_beside: ContextVar[bool] = ContextVar("reattend_beside", default=False)


@contextmanager
def beside() -> Iterator[None]:
    """Say that the model runs for a second branch, and not for the one that speaks."""
    token = _beside.set(True)
    try:
        yield
    finally:
        _beside.reset(token)


def is_beside() -> bool:
    """Whether the model runs for a second branch."""
    return _beside.get()


class ModelBranch:
    """A transformers model on a second prompt, with a cache of its own.

    Inside `reattend.adaptors.transformers.attached` it has a generation of its own as well.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    **inputs
        What the model is called with: ``input_ids`` [B, P], left-padded with an
        ``attention_mask``, and what else it takes.
    """

    def __init__(self, model: Any, **inputs: Any) -> None:
        if "input_ids" not in inputs:
            raise ValueError(f"inputs must hold input_ids, got {sorted(inputs)}")
        mask = inputs.get("attention_mask")
        if mask is not None and not (mask.ndim == 2 and bool(mask[:, -1].all())):
            raise ValueError(
                "attention_mask must be [B, P], and not 0 at a prompt's last token, from which "
                "what follows is read: pad prompts on the left"
            )
        transformers = demand("transformers")
        plain = transformers.GenerationMixin.generate
        if isinstance(model, transformers.PreTrainedModel) and type(model).generate is not plain:
            raise NotImplementedError(
                f"{type(model).__name__} has a generate() of its own, and what it gives a forward "
                "is not known"
            )
        self.model, self.inputs = model, inputs
        self._ids: Any = None  # [B, N], all so far
        self._given: dict[str, Any] = {}  # what else the next forward is prepared from
        self._deltas: Any = None  # where a model keeps its place between forwards

    def begin(self) -> Array:
        """Read the prompts; give the logits [B, V] of what follows."""
        given = {"attention_mask": demand("torch").ones_like(self.inputs["input_ids"])}
        given |= {name: each for name, each in self.inputs.items() if each is not None}
        self._ids, self._deltas = given.pop("input_ids"), None
        with self._apart():
            positions = self._positions(given)
        if positions is not None:
            given["position_ids"] = positions.expand(*positions.shape[:-2], *self._ids.shape)
        self._given = {**given, "use_cache": True}
        return self._forward(first=True)

    def step(self, tokens: Array) -> Array:
        """Go on by one token [B] for each item; give the logits [B, V] of what follows."""
        torch = demand("torch")
        new = torch.from_numpy(np.ascontiguousarray(tokens))[:, None]
        self._ids = torch.cat([self._ids, new.to(self._ids.dtype)], dim=1)
        return self._forward(first=False)

    def reorder(self, indices: Array) -> None:
        """Let item b become what item ``indices[b]`` was."""
        chosen, batch = demand("torch").from_numpy(np.asarray(indices)), len(self._ids)
        self._ids = self._ids[chosen]
        for name, each in self._given.items():
            if hasattr(each, "reorder_cache"):
                each.reorder_cache(chosen)
            elif name == "position_ids":
                self._given[name] = each[..., chosen, :]
            elif getattr(each, "ndim", 0) and len(each) == batch:
                self._given[name] = each[chosen]
        if self._deltas is not None and len(self._deltas) > 1:
            self._deltas = self._deltas[chosen]

    def _positions(self, given: dict[str, Any]) -> Any:
        """Give the positions of the prompts, as `generate` counts them; None: the model does."""
        counted = "position_ids" in signature(self.model.forward).parameters
        if not counted or "position_ids" in given:
            return given.get("position_ids")
        prepare = getattr(self.model, "_prepare_position_ids_for_generation", None)
        if prepare is not None:
            return prepare(self._ids, {**given, "input_ids": self._ids})
        return (given["attention_mask"].long().cumsum(1) - 1).clamp(min=0)

    def _forward(self, *, first: bool) -> Array:
        """Go on as `generate` does: what a step needs beside its token is the model's matter."""
        how = {"is_first_iteration": True} if first else {"next_sequence_length": 1}
        with demand("torch").no_grad(), beside(), self._apart():
            inputs = self.model.prepare_inputs_for_generation(self._ids, **how, **self._given)
            out = self.model(**inputs, return_dict=True)
            self._given = self.model._update_model_kwargs_for_generation(
                out, self._given, is_encoder_decoder=False
            )
        if cache_of(self._given) is None and self._given.get("cache_params") is None:
            raise NotImplementedError(
                f"{type(self.model).__name__} gives no cache, so what its second branch has read "
                "cannot be kept apart from the first"
            )
        return floats(out.logits[:, -1])

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Keep apart what Qwen-VL models keep: how far positions run behind keys, of a branch."""
        holder = next((m for m in self.model.modules() if hasattr(m, "rope_deltas")), None)
        if holder is None:
            yield
            return
        kept, holder.rope_deltas = holder.rope_deltas, self._deltas
        try:
            yield
            self._deltas = holder.rope_deltas
        finally:
            holder.rope_deltas = kept


def _parents(seen: Array, ids: Array, items: Array) -> Array | None:
    """Find which row of the last call each row goes on from; None if one is new.

    Items may have the same tokens and other pictures: where the batch keeps its size, as that of
    `generate` does, a row goes on from one of its own item.
    """
    if ids.shape[1] != seen.shape[1] + 1:
        return None
    same = (ids[:, None, :-1] == seen).all(-1)  # [B now, B then]
    if not same.any(1).all():
        return None
    rows = np.arange(len(ids))
    if len(ids) == len(seen):
        own = same & (items[:, None] == items)
        same = np.where(own.any(1, keepdims=True), own, same)
        same[same[rows, rows]] = np.eye(len(ids), dtype=bool)[same[rows, rows]]
    found: Array = same.argmax(1)
    if (same & (items != items[found][:, None])).any():
        raise ValueError(
            "input_ids must tell which row goes on where rows move between items: two items have "
            "the same tokens, and their other branches may differ"
        )
    return found
