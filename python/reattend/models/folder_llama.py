"""Reads a language model from a Hugging Face folder, for the NumPy loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reattend.models.llama import Config, Layer, Llama
from reattend.models.tensor_files import TensorFiles
from reattend.models.weights import ModelFileError
from reattend.policy import Array

# What the config classes of transformers are by default: files leave these out.
_LLAMA = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048,
}  # fmt: skip
_QWEN = {
    **_LLAMA, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}  # fmt: skip
_KINDS = {"llama": _LLAMA, "qwen2": _QWEN, "qwen3": {**_QWEN, "head_dim": 128}}


def llama_from(
    path: Path,
    said: Mapping[str, Any],
    tensors: TensorFiles,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Llama:
    """Read a Llama, Qwen 2 or Qwen 3, in float32.

    Parameters
    ----------
    path : path
        Of the folder, for errors.
    said : mapping
        What its config.json says of the language model.
    tensors : TensorFiles
        By the names that such a model alone has.
    progress : callable, optional
        Wraps the sequence of layers that are read.

    Raises
    ------
    ModelFileError
        If the model is of another type, or has what `Llama` does not know.
    """
    kind = said.get("model_type")
    if kind not in tuple(_KINDS):
        raise ModelFileError(
            f"{path} is of type {kind!r}; these are supported: {', '.join(_KINDS)}"
        )
    said = {**_KINDS[kind], **said}
    config, divisors = _config(path, said)
    take = tensors.take
    size, hidden = config.hidden_size, _whole(path, said, "intermediate_size")
    # `Llama` turns neighbours; these files hold the two numbers of a rotary pair half a head apart.
    pairs = np.arange(config.head_dim).reshape(2, -1).T.ravel()

    def turned(name: str, heads: int, *columns: int) -> Array:
        """Read what gives queries or keys, with the numbers of each pair side by side."""
        flat = take(name, heads * config.head_dim, *columns)
        return flat.reshape(heads, config.head_dim, *columns)[:, pairs].reshape(flat.shape)

    def layer(index: int) -> Layer:
        at = f"model.layers.{index}."
        heads = {"q": config.num_heads, "k": config.num_kv_heads}
        parts = [turned(f"{at}self_attn.{part}_proj.weight", n, size) for part, n in heads.items()]
        width, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        parts.append(take(f"{at}self_attn.v_proj.weight", kv, size))
        biases, norms = [], []
        if kind == "qwen2":
            biases = [turned(f"{at}self_attn.{part}_proj.bias", n) for part, n in heads.items()]
            biases.append(take(f"{at}self_attn.v_proj.bias", kv))
        if kind == "qwen3":
            norms = [turned(f"{at}self_attn.{part}_norm.weight", 1) for part in "qk"]
        gate_up = [take(f"{at}mlp.{part}_proj.weight", hidden, size) for part in ("gate", "up")]
        return Layer(
            take(f"{at}input_layernorm.weight", size),
            _columns(parts),
            _columns([take(f"{at}self_attn.o_proj.weight", size, width)]),
            take(f"{at}post_attention_layernorm.weight", size),
            _columns(gate_up),
            _columns([take(f"{at}mlp.down_proj.weight", size, hidden)]),
            np.concatenate(biases) if biases else None,
            *norms,
        )

    layers = [layer(index) for index in progress(range(config.num_layers))]
    norm = take("model.norm.weight", size)
    embedding, head = _embeddings(path, said, tensors, _whole(path, said, "vocab_size"), size)
    return Llama(config, layers, embedding, norm, head, divisors)


def _embeddings(
    path: Path, said: Mapping[str, Any], tensors: TensorFiles, count: int, size: int
) -> tuple[Array, Array]:
    """Read the first matrix and the last, [C, V] both; they may be one.

    Two that differ are not one, though a config says so: transformers does not tie them either.
    """
    names = ("model.embed_tokens.weight", "lm_head.weight")
    absent = [name for name in names if name not in tensors]
    tied = bool(said.get("tie_word_embeddings"))
    if absent and (len(absent) == 2 or not tied):
        raise ModelFileError(f"{path} has no tensor {absent[0]!r}, and does not tie it")
    held = [_columns([tensors.take(name, count, size)]) for name in names if name in tensors]
    first, last = held[0], held[-1]
    return first, first if tied and np.array_equal(first, last) else last


def _columns(matrices: list[Array]) -> Array:
    """Put matrices [out, in] side by side, as one [in, out]."""
    return np.ascontiguousarray(np.concatenate(matrices).T)


def _whole(path: Path, said: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = said.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelFileError(f"{path}: {name} must be a positive whole number, got {value!r}")
    return value


def _config(path: Path, said: Mapping[str, Any]) -> tuple[Config, Array | None]:
    """Read the sizes and the divisors of rotary frequencies; refuse what the loop does not know."""
    sliding = said.get("use_sliding_window") or "sliding_attention" in (
        said.get("layer_types") or ()
    )
    if sliding or said.get("hidden_act", "silu") != "silu":
        raise ModelFileError(f"{path} has a sliding window or another activation: not supported")
    heads, size = _whole(path, said, "num_attention_heads"), _whole(path, said, "hidden_size")
    kv_heads = _whole(path, said, "num_key_value_heads", heads)
    head_dim = _whole(path, said, "head_dim", size // heads)
    if heads % kv_heads or head_dim % 2:
        raise ModelFileError(
            f"{path}: num_key_value_heads must divide {heads} and head_dim be even, "
            f"got {kv_heads} and {head_dim}"
        )
    rope = said.get("rope_scaling") or said.get("rope_parameters") or {}
    if not isinstance(rope, dict) or any(isinstance(each, dict) for each in rope.values()):
        raise ModelFileError(
            f"{path}: rotary positions must be one kind for all layers, got {rope!r}"
        )
    theta = rope.get("rope_theta", said.get("rope_theta", 10000.0))
    if rope.get("partial_rotary_factor", said.get("partial_rotary_factor")) not in (None, 1):
        raise ModelFileError(f"{path} turns a part of each head only: not supported")
    config = Config(
        num_layers=_whole(path, said, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=size,
        norm_eps=_positive(path, "rms_norm_eps", said.get("rms_norm_eps", 1e-6)),
        rope_base=_positive(path, "rope_theta", theta),
        context_length=_whole(path, said, "max_position_embeddings", 2048),
    )
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if scaling == "default":
        return config, None
    if scaling != "llama3":
        raise ModelFileError(f"{path} scales rotary positions ({scaling}): not supported")
    default = said.get("original_max_position_embeddings", config.context_length)
    given = {"original_max_position_embeddings": default, **rope}
    return config, _llama3_divisors(path, config, given)


def _llama3_divisors(path: Path, config: Config, rope: Mapping[str, Any]) -> Array:
    """Give what divides Llama 3.1's frequencies: the slow ones are slowed down, with a ramp."""
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, length = (_positive(path, name, rope.get(name)) for name in names)
    powers = np.arange(0, config.head_dim, 2) / config.head_dim
    turns = length * config.rope_base**-powers / (2 * math.pi)  # over the original length
    ramp = np.clip((turns - low) / (high - low), 0, 1)
    divisors: Array = 1 / (ramp + (1 - ramp) / factor)
    return divisors


def _positive(path: Path, name: str, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 < found < math.inf:
        raise ModelFileError(f"{path}: {name} must be a positive number, got {value!r}")
    return found
