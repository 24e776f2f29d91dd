"""Where a transformers model has its decoder, its layers, its heads and its image tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Anatomy:
    """What the adaptor finds in a model by itself."""

    decoder: Any  # the language model's stack of layers
    config: Any  # of the language model
    attention: dict[int, Any]  # layer -> attention module
    layers: dict[int, Any]  # layer -> decoder layer
    image_token: int | None  # id of the token that stands for a part of an image

    @property
    def num_layers(self) -> int:
        """Number of layers of the language model."""
        return len(self.attention)

    @property
    def num_heads(self) -> int:
        """Number of query heads."""
        return int(self.config.num_attention_heads)

    @property
    def num_kv_heads(self) -> int:
        """Number of key and value heads."""
        heads = getattr(self.config, "num_key_value_heads", None)
        return self.num_heads if heads is None else int(heads)


def examined(model: Any, processor: Any = None) -> Anatomy:
    """Find the parts of a model, or say why reattend cannot be its attention.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    processor : optional
        The model's processor, asked for the image token where the config does not tell.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        Naming the model and what is in the way.
    """
    name = type(model).__name__
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise NotImplementedError(
            f"{name} is compiled by torch.compile, which cannot see into reattend: attach the "
            "model that is not compiled"
        )
    if not (hasattr(model, "get_decoder") and hasattr(model, "set_attn_implementation")):
        raise TypeError(f"model must be a transformers.PreTrainedModel, got {name}")
    config = model.config.get_text_config(decoder=True)
    decoder = model.get_decoder()
    if getattr(config, "is_encoder_decoder", False):
        raise NotImplementedError(
            f"{name} is an encoder with a decoder: reattend attaches to decoder-only language "
            "models, in which image and text are keys of one sequence"
        )
    attention: dict[int, Any] = {}
    layers: dict[int, Any] = {}
    for path, module in decoder.named_modules():
        if not _is_attention(module, config):
            continue
        if "Cross" in type(module).__name__ or getattr(module, "is_cross_attention", False):
            raise NotImplementedError(
                f"{name} sees images through cross-attention ({type(module).__name__}); reattend "
                "attaches to models in which image and text are keys of one sequence"
            )
        attention[module.layer_idx] = module
        layers[module.layer_idx] = decoder.get_submodule(path.rpartition(".")[0])
    expected = getattr(config, "num_hidden_layers", None)
    if sorted(attention) != list(range(expected or -1)):
        raise NotImplementedError(
            f"{name} has {expected} layers, of which {len(attention)} have an attention that goes "
            "through transformers' AttentionInterface; reattend attaches to models in which all do"
        )
    return Anatomy(decoder, config, attention, layers, _image_token(model, processor))


def _is_attention(module: Any, config: Any) -> bool:
    return (
        isinstance(getattr(module, "layer_idx", None), int)
        and "Attention" in type(module).__name__
        and getattr(module, "config", None) is config
    )


def _image_token(model: Any, processor: Any) -> int | None:
    for holder, name in (
        (model.config, "image_token_id"),
        (model.config, "image_token_index"),
        (processor, "image_token_id"),
    ):
        token = getattr(holder, name, None)
        if isinstance(token, int):
            return token
    return None
