"""reattend as one of transformers' attention implementations: who owns which module, and switching.

The name is registered when a model is first attached, and stays registered; it does nothing to
models that do not use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import local
from typing import Any, Protocol, cast

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
from reattend.adaptors.transformers.tensors import bools
from reattend.optional import demand
from reattend.policy import Array

NAME = "reattend"
_EXACT = ("eager", "sdpa", "flex_attention")  # softmax attention, and nothing else


class Owner(Protocol):
    """Who attends in place of a model's attention."""

    knows_sdpa: bool
    own_cross: bool  # whether the model reads an encoder, whose masks are not the decoder's

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


@dataclass(eq=False)
class _Switched:
    """A config whose implementation is `NAME`: several blocks, and several models, may hold it."""

    before: str  # what it used
    owners: list[Owner] = field(default_factory=list)


class Noted(local):
    """What the mask function saw, for the forward of this thread that it makes a mask for."""

    padding: Array | None = None  # the 2-D attention mask, bool [B, M]


noted = Noted()
_owners: dict[int, list[Owner]] = {}  # by id of a module, for its block; the last attends
_switched: dict[int, _Switched] = {}  # by id of a config


def owns(owner: Owner, structure: Structure) -> bool:
    """Whether it is this owner, of several nested ones, that a model's attention asks now.

    Parameters
    ----------
    owner : Owner
    structure : Structure
        Of the model.

    Raises
    ------
    RuntimeError
        If somebody else has changed the model's implementation, so that it asks nobody.
    """
    owners = _owners.get(id(structure.attention[structure.first]))
    if owners is None or owners[-1] is not owner:
        return False
    if structure.config._attn_implementation != NAME:
        raise RuntimeError(
            f"the attention implementation was changed to {structure.config._attn_implementation} "
            "inside the block, so reattend is asked no more: change it before the model is attached"
        )
    return True


def before(structure: Structure) -> str:
    """Give the implementation that an attached model's attention had before.

    Parameters
    ----------
    structure : Structure
        Of the model.
    """
    return _switched[id(structure.config)].before


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
    held = _switched.setdefault(id(config), _Switched(config._attn_implementation))
    held.owners.append(owner)
    for module in modules:
        _owners.setdefault(id(module), []).append(owner)
    try:
        if held.before not in _EXACT and not str(held.before).startswith("flash_attention"):
            raise NotImplementedError(
                f"{type(model).__name__} has the attention implementation {held.before!r}, and "
                "what that computes is not known: call set_attn_implementation('sdpa') first"
            )
        if config._attn_implementation != NAME:
            _switch(model, structure, NAME)
        if config._attn_implementation != NAME:  # transformers only logs a warning
            raise NotImplementedError(
                f"{type(model).__name__} does not route its attention through transformers' "
                "AttentionInterface, so reattend cannot be its attention"
            )
        yield
    finally:  # blocks may end in any order
        for module in modules:
            _owners[id(module)].remove(owner)
            if not _owners[id(module)]:
                del _owners[id(module)]
        held.owners.remove(owner)
        if not held.owners:
            del _switched[id(config)]
            if config._attn_implementation != held.before:
                _switch(model, structure, held.before)


def _register() -> None:
    transformers, aside = demand("transformers"), demand("torch").compiler.disable
    is_compiling = demand("torch").compiler.is_compiling
    apart = aside(_attention)

    def attention(*args: Any, **options: Any) -> tuple[Tensor, None]:  # what transformers passes
        # A compiler stops at what is disabled, which takes 3 us a call where there is none.
        return apart(*args, **options) if is_compiling() else _attention(*args, **options)

    transformers.AttentionInterface.register(NAME, attention)
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
    owners = _owners.get(id(module))
    if owners is not None:
        given = cast("AttentionOptions", options)
        return owners[-1].attend(module, query, key, value, attention_mask, given), None
    # The model's other attentions, and a second model that was built from the same config object,
    # switch together with the attached one; they go on as they were.
    held = _switched.get(id(getattr(module, "config", None)))
    own = None if held is None else own_attention(module, held.before)
    if own is None:
        raise RuntimeError(
            f"{type(module).__name__} has the config of a model that is or was attached, is not "
            "attached itself, and its own attention cannot be found: give it a config that was "
            "copied outside of the block, or call set_attn_implementation()"
        )
    out, _ = own(module, query, key, value, attention_mask, **options)
    return out, None


def _mask(**options: object) -> Tensor | None:
    """Make the mask of a forward, of the kind that the model's own attention gets.

    For sdpa: None where it is plain causal, else bool [B, 1, N, M]. Models that do not know sdpa
    may work on their masks, as numbers that are added to the scores.
    """
    held = _switched.get(id(options.get("config")))
    masks = demand("transformers.masking_utils")
    owner = None if held is None else held.owners[-1]
    if owner is not None:  # generate() makes masks of static caches itself: nobody else sees these
        both_ways = options.get("mask_function") is masks.bidirectional_mask_function
        mask = cast("Tensor | None", options.get("attention_mask"))
        if not (both_ways and owner.own_cross):  # an encoder's, with padding of its own
            noted.padding = bools(mask) if mask is not None and mask.ndim == 2 else None
    eager = held is not None and held.before == "eager" and not getattr(owner, "knows_sdpa", True)
    made: Tensor | None = (masks.eager_mask if eager else masks.sdpa_mask)(**options)
    return made
