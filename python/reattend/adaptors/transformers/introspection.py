"""Where a transformers model has its decoder, its layers, its heads and its image tokens."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TypeGuard, cast

from reattend.adaptors.transformers.protocols import (
    AttentionModule,
    Config,
    Decoder,
    Model,
    Module,
)


@dataclass(frozen=True)
class Structure:
    """What the adaptor finds in a model by itself."""

    decoder: Decoder
    config: Config  # of the language model
    attention: dict[int, AttentionModule]  # of each layer
    layers: dict[int, Module]  # that the states enter which attention's norm reads
    image_token: int | None  # id of the token that stands for a part of an image
    num_layers: int  # of the language model, those without softmax attention included
    image_tokens: tuple[int, ...] = ()  # that id, and those of parts of videos
    no_methods: str | None = None  # why methods cannot be attached; plain attention can
    cross: dict[int, AttentionModule] = field(default_factory=dict)  # whose keys are a picture's
    seconds: tuple[AttentionModule, ...] = ()  # of layers that have two, without methods
    own_cross: bool = False  # whether it reads an encoder by attention that stays its own

    @property
    def first(self) -> int:
        """The first layer that has softmax attention."""
        return min(self.attention)

    @property
    def without_attention(self) -> tuple[int, ...]:
        """The layers that have no softmax attention."""
        having = {*self.attention, *self.cross}
        return tuple(layer for layer in range(self.num_layers) if layer not in having)

    @property
    def num_heads(self) -> int:
        """Number of query heads."""
        return int(self.config.num_attention_heads)

    @property
    def num_kv_heads(self) -> int:
        """Number of key and value heads."""
        heads = getattr(self.config, "num_key_value_heads", None)
        return self.num_heads if heads is None else int(heads)


def examined(model: Model, processor: object = None) -> Structure:
    """Find the parts of a model, or say why reattend cannot be its attention.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    processor : optional
        The model's processor, asked for the image token where the config does not tell.

    Raises
    ------
    NotImplementedError
        Naming the model and what is in the way.
    """
    name = type(model).__name__
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise NotImplementedError(
            f"{name} is compiled by torch.compile, which cannot see into reattend: attach the "
            "model that is not compiled"
        )
    decoder = _decoder_of(model)
    two = bool(getattr(model.config, "is_encoder_decoder", False))
    config = decoder.config if two else model.config.get_text_config(decoder=True)
    attention: dict[int, AttentionModule] = {}
    layers: dict[int, Module] = {}
    cross: dict[int, AttentionModule] = {}
    seconds: tuple[AttentionModule, ...] = ()
    own_cross = False
    no_methods = None
    if two:
        no_methods = (
            f"{name} is an encoder with a decoder, and methods are for language models in which "
            "image and text are keys of one sequence: attach it without methods"
        )
    passes = getattr(config, "loop_num_passes", 1)
    if passes > 1:
        no_methods = (
            f"{name} passes some of its layers {passes} times in a forward, and methods count each "
            "layer once: attach it without methods"
        )
    for path, module in decoder.named_modules():
        if not _is_attention(module, config):
            continue
        if "Merged" in type(module).__name__:
            own_cross = True
            no_methods = (
                f"{name} attends to its own past and to an encoder in one softmax "
                f"({type(module).__name__}), of which methods know nothing: attach it without "
                "methods"
            )
        if _is_cross(path, module):  # to a text or a sound it stays the model's own
            if _PICTURE_STATES in inspect.signature(module.forward).parameters:
                cross[module.layer_idx] = module
            else:
                own_cross = True
            continue
        if module.layer_idx < 0:
            raise NotImplementedError(
                f"{name} passes one attention ({type(module).__name__}) in several layers, which "
                "reattend does not support"
            )
        if module.layer_idx in attention:
            no_methods = no_methods or (
                f"{name} has two attentions in layer {module.layer_idx} "
                f"({type(attention[module.layer_idx]).__name__} and {type(module).__name__}), and "
                "methods name an attention by its layer: attach it without methods"
            )
            seconds += (module,)
            continue
        if _asks_twice(module):
            no_methods = (
                f"{name} takes the difference of two attentions in a layer "
                f"({type(module).__name__}), of which no method says what it would do with them: "
                "attach it without methods"
            )
        attention[module.layer_idx] = module
        layers[module.layer_idx] = _entrance(decoder, path, config)
    expected = max(attention, default=-1) + 1
    if not two:  # of half an encoder-decoder, num_hidden_layers are the encoder's
        expected = getattr(config, "num_hidden_layers", expected)
        expected = getattr(config, "decoder_layers", expected)
    if not attention or not 0 <= min(attention) <= max(attention) < expected:
        raise NotImplementedError(
            f"{name} has {expected} layers, of which {len(attention)} have an attention of their "
            "own that goes through transformers' AttentionInterface; reattend needs one at least"
        )
    tokens = _image_tokens(model, processor)
    return Structure(
        decoder, config, attention, layers, tokens[0] if tokens else None, expected, tokens,
        no_methods, cross, seconds, own_cross,
    )  # fmt: skip


_PICTURE_STATES = "cross_attention_states"  # what keys are made of, where they are a picture's


def _decoder_of(model: Model) -> Decoder:
    """Give the stack of layers.

    ModernBERT's decoder names its last matrix `decoder`; Florence-2's holds an encoder too.
    """
    found = model.get_decoder()
    if not hasattr(found, "config"):
        return model.base_model
    both = hasattr(found, "encoder") and hasattr(found, "decoder")
    return cast("Decoder", found.get_submodule("decoder")) if both else found


def _entrance(decoder: Decoder, path: str, config: Config) -> Module:
    """Give the module that the states enter which an attention's norm reads.

    It is the decoder layer, but where that carries several streams of states, of which the norm
    reads a mix (HY-V4), or holds two attentions (LongCat).
    """
    above, _, place = path.rpartition(".")
    if place.isdigit():
        return decoder.get_submodule(f"{above.rpartition('.')[0]}.input_layernorm.{place}")
    streams = getattr(config, "hc_mult", 1) > 1
    return decoder.get_submodule(f"{above}.input_layernorm" if streams else above)


def _is_attention(module: Module, config: Config) -> TypeGuard[AttentionModule]:
    return (
        isinstance(getattr(module, "layer_idx", None), int)
        and ("Attention" in type(module).__name__ or type(module).__name__.endswith("MLA"))
        and getattr(module, "config", None) is config
    )


def _is_cross(path: str, module: Module) -> bool:
    """Whether keys come from elsewhere than from the rows' own past."""
    words = f"{type(module).__name__} {' '.join(path.split('.')[-2:])}".lower()
    named = any(word in words for word in ("cross", "encdec", "encoder_attn", "encoder_attention"))
    return named or bool(getattr(module, "is_cross_attention", False))


def _asks_twice(module: Module) -> bool:
    try:
        source = inspect.getsource(type(module).forward)
    except (OSError, TypeError):  # a class that was not read from a file
        return False
    return source.count("= attention_interface(") > 1


def _image_tokens(model: Model, processor: object) -> tuple[int, ...]:
    config, found = model.config, []
    holders = (config, getattr(config, "vision_config", None), processor)
    for kind in ("image", "video"):
        for holder in holders:
            token = getattr(
                holder, f"{kind}_token_id", getattr(holder, f"{kind}_token_index", None)
            )
            if isinstance(token, int):
                found.append(token)
                break
    return tuple(dict.fromkeys(found))
