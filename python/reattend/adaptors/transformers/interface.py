"""reattend as one of transformers' attention implementations: who owns which module, and switching.

The name is registered when a model is first attached, and stays registered; it does nothing to
models that do not use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast
from weakref import WeakKeyDictionary

from reattend.adaptors.transformers.introspection import Structure
from reattend.adaptors.transformers.own import own_attention
from reattend.adaptors.transformers.protocols import (
    AttentionModule,
    AttentionOptions,
    Config,
    Implementations,
    Model,
    Tensor,
)
from reattend.optional import demand

NAME = "reattend"


class Owner(Protocol):
    """Who attends in place of a model's attention."""

    knows_sdpa: bool

    def attend(
        self,
        module: AttentionModule,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        options: AttentionOptions,
    ) -> Tensor:
        """Compute a layer's attention [B, N, H, Dv]."""

    def note_padding(self, mask: Tensor | None, *, both_ways: bool) -> None:
        """See a forward's 2-D attention mask, and whether rows see keys before and behind them."""


_owners: WeakKeyDictionary[AttentionModule, Owner] = WeakKeyDictionary()
_configs: dict[int, tuple[Owner, str]] = {}  # id of a config -> owner, what it used before


def owns(owner: Owner, structure: Structure) -> bool:
    """Whether it is this owner, of several nested ones, that a model's attention asks now.

    Parameters
    ----------
    owner : Owner
    structure : Structure
        Of the model.
    """
    return _owners.get(structure.attention[structure.first]) is owner


def before(structure: Structure) -> str:
    """Give the implementation that an attached model's attention had before.

    Parameters
    ----------
    structure : Structure
        Of the model.
    """
    return _configs[id(structure.config)][1]


@contextmanager
def switched(model: Model, structure: Structure, owner: Owner) -> Iterator[None]:
    """Let an owner compute a language model's attention; all is as it was when the block ends.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    structure : Structure
        Of the model.
    owner : Owner
        Who attends from now on, to pictures by cross-attention too.

    Raises
    ------
    NotImplementedError
        If the model's attention does not go through transformers' AttentionInterface.
    """
    _register()
    config = structure.config
    modules = [*structure.attention.values(), *structure.cross.values(), *structure.seconds]
    before = config._attn_implementation
    owners = [_owners.get(module) for module in modules]
    known = _configs.get(id(config))
    try:
        _switch(model, structure, NAME)
        if config._attn_implementation != NAME:  # transformers only logs a warning
            raise NotImplementedError(
                f"{type(model).__name__} does not route its attention through transformers' "
                "AttentionInterface, so reattend cannot be its attention"
            )
        for module in modules:
            _owners[module] = owner
        _configs[id(config)] = (owner, before if known is None else known[1])
        yield
    finally:
        for module, previous in zip(modules, owners, strict=True):
            if previous is None:
                _owners.pop(module, None)
            else:
                _owners[module] = previous
        if known is None:
            _configs.pop(id(config), None)
        else:
            _configs[id(config)] = known
        if config._attn_implementation != before:
            _switch(model, structure, before)


def _register() -> None:
    transformers, aside = demand("transformers"), demand("torch").compiler.disable
    transformers.AttentionInterface.register(NAME, aside(_attention))
    transformers.AttentionMaskInterface.register(NAME, aside(_mask))


def _switch(model: Model, structure: Structure, name: str) -> None:
    """Change the implementation of the language model and of no other part, if that is possible."""
    nested = _path(model.config, structure.config, name)
    if nested is not None:
        model.set_attn_implementation(nested)
    elif hasattr(structure.decoder, "set_attn_implementation"):  # its config is a copy of a part
        cast("Model", structure.decoder).set_attn_implementation(name)
    else:
        raise NotImplementedError(
            f"the config of the language model is not part of the {type(model.config).__name__} of "
            "the model, so its attention cannot be switched"
        )


def _path(config: Config, target: Config, name: str) -> Implementations | None:
    if config is target:
        return {"": name}
    for key in config.sub_configs:
        inner = getattr(config, key, None)
        if inner is not None and (found := _path(inner, target, name)) is not None:
            return {key: found}
    return None


def _attention(
    module: AttentionModule,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: object,
) -> tuple[Tensor, None]:
    """Take the place of a model's attention: what transformers calls."""
    owner = _owners.get(module)
    if owner is not None:
        given = cast("AttentionOptions", options)
        return owner.attend(module, query, key, value, attention_mask, given), None
    # The model's other attentions, and a second model that was built from the same config object,
    # switch together with the attached one; they go on as they were.
    _, before = _configs.get(id(getattr(module, "config", None)), (None, "sdpa"))
    own = own_attention(module, before)
    if own is None:
        raise RuntimeError(
            f"{type(module).__name__} shares its config object with an attached model, is not "
            f"attached itself, and its own attention ({before}) cannot be found; give it a config "
            "of its own (copy.deepcopy)"
        )
    out, _ = own(module, query, key, value, attention_mask, **options)
    return out, None


def _mask(**options: object) -> Tensor | None:
    """Make the mask of a forward, of the kind that the model's own attention gets.

    For sdpa: None where it is plain causal, else bool [B, 1, N, M]. Models that do not know sdpa
    may work on their masks, as numbers that are added to the scores.
    """
    owner, before = _configs.get(id(options.get("config")), (None, ""))
    masks = demand("transformers.masking_utils")
    if owner is not None:  # generate() makes masks of static caches itself: nobody else sees these
        both_ways = options.get("mask_function") is masks.bidirectional_mask_function
        mask = cast("Tensor | None", options.get("attention_mask"))
        owner.note_padding(mask, both_ways=both_ways)
    eager = before == "eager" and not getattr(owner, "knows_sdpa", True)
    made: Tensor | None = (masks.eager_mask if eager else masks.sdpa_mask)(**options)
    return made
