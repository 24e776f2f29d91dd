"""A model of this package as transformers has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from reattend.models.llama import Config, Layer, Llama
from reattend.optional import demand
from reattend.policy import Array


def torch_llama(model: Llama, **settings: Any) -> Any:
    """Give transformers' LlamaForCausalLM with the weights of a model that `read_llama` has read.

    transformers takes half a minute for SmolLM2's GGUF file, `read_llama` three seconds; the
    weights are the same, bit by bit.

    Parameters
    ----------
    model : Llama
        A plain Llama.
    **settings
        What transformers' LlamaConfig is given beside sizes, such as ``eos_token_id``.

    Returns
    -------
    LlamaForCausalLM
        In float32, in evaluation mode, with weights of its own.

    Raises
    ------
    MissingPackageError
        If torch or transformers is not installed.
    ValueError
        If the model has what transformers' Llama has not: biases or norms of queries and keys, or
        divided rotary frequencies.

    Examples
    --------
    >>> from reattend.models import ModelFile, find_smollm2, read_llama
    >>> model = torch_llama(read_llama(ModelFile(find_smollm2())), eos_token_id=2)
    >>> model.config.num_hidden_layers, model.config.max_position_embeddings
    (30, 8192)
    """
    torch, hf = demand("torch"), demand("transformers")
    sizes, plain = model.config, Llama(model.config, [], model.embedding, model.final_norm)
    for layer in model.layers:
        if any(
            part is not None
            for part in (layer.query_key_value_bias, layer.query_norm, layer.key_norm)
        ):
            raise ValueError(
                "model must be a plain Llama; this one has biases or norms of queries and keys"
            )
    if not np.array_equal(model.frequencies, plain.frequencies):
        raise ValueError("model must be a plain Llama; this one divides its rotary frequencies")
    config = hf.LlamaConfig(
        vocab_size=model.embedding.shape[1],
        hidden_size=sizes.hidden_size,
        intermediate_size=len(model.layers[0].down),
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=sizes.context_length,
        rms_norm_eps=sizes.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_base},
        tie_word_embeddings=model.head is model.embedding,
        **settings,
    )
    weights = {f"{name}.weight": torch.tensor(array) for name, array in _weights(model)}
    read = hf.LlamaForCausalLM.from_pretrained(None, config=config, state_dict=weights)
    return read.eval()


def _weights(model: Llama) -> Iterator[tuple[str, Array]]:
    """Give transformers' names of matrices, and these as [out, in]."""
    yield "model.embed_tokens", model.embedding.T
    yield "model.norm", model.final_norm
    if model.head is not model.embedding:
        yield "lm_head", model.head.T
    for index, layer in enumerate(model.layers):
        for name, array in _layer_weights(layer, model.config):
            yield f"model.layers.{index}.{name}", array


def _layer_weights(layer: Layer, sizes: Config) -> Iterator[tuple[str, Array]]:
    widths = np.cumsum([sizes.num_heads, sizes.num_kv_heads]) * sizes.head_dim
    query, key, value = np.split(layer.query_key_value.T, widths)
    yield "self_attn.q_proj", _halves(query, sizes)
    yield "self_attn.k_proj", _halves(key, sizes)
    yield "self_attn.v_proj", value
    yield "self_attn.o_proj", layer.attention_output.T
    gate, up = np.split(layer.gate_up.T, 2)
    yield "mlp.gate_proj", gate
    yield "mlp.up_proj", up
    yield "mlp.down_proj", layer.down.T
    yield "input_layernorm", layer.attention_norm
    yield "post_attention_layernorm", layer.mlp_norm


def _halves(rows: Array, sizes: Config) -> Array:
    """Put rotary pairs, which are neighbours here, half a head apart, as transformers has them."""
    pairs = rows.reshape(-1, sizes.head_dim // 2, 2, sizes.hidden_size)
    return pairs.swapaxes(1, 2).reshape(rows.shape)
