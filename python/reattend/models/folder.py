"""Reads Hugging Face folders: config.json, safetensors and tokenizer.json, for the NumPy loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reattend.border.dtypes import to_float32
from reattend.models.llama import Config, Layer, Llama
from reattend.models.tokenizer import Tokenizer
from reattend.models.weights import ModelFileError
from reattend.optional import demand
from reattend.policy import Array

_KINDS = ("llama", "qwen2", "qwen3")
_DTYPES: dict[str, Any] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read(path: str | Path, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter) -> Llama:
    """Read a Llama, Qwen 2 or Qwen 3 from a Hugging Face folder, in float32.

    Parameters
    ----------
    path : path
        Of a folder with config.json and weights in safetensors, of float32, float16 or bfloat16.
    progress : callable, optional
        Wraps the sequence of layers that are read, as tqdm does.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it lacks a file.
    ModelFileError
        If the model is of another type, or has what `Llama` does not know: a sliding window,
        another scaling of rotary positions, experts, tensors that would be left out.

    Examples
    --------
    >>> read("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: nowhere is no folder with config.json
    """
    path = Path(path)
    said = _json(path, "config.json", f"{path} is no folder with config.json")
    config, divisors = _config(path, said)
    tensors = _tensors(path)
    size, hidden = config.hidden_size, _whole(path, said, "intermediate_size")
    # `Llama` turns neighbours; these files hold the two numbers of a rotary pair half a head apart.
    pairs = np.arange(config.head_dim).reshape(2, -1).T.ravel()

    def take(name: str, *shape: int) -> Array:
        found = tensors.pop(name, None)
        if found is None:
            raise ModelFileError(f"{path} has no tensor {name!r}")
        if found.shape != shape:
            raise ModelFileError(f"{path}: {name} must have the shape {shape}, got {found.shape}")
        array = to_float32(found, "bfloat16")  # uint16 are bits, of no other type
        if not np.isfinite(array).all():
            raise ModelFileError(f"{path}: {name} has numbers that are not finite")
        return array

    def turned(name: str, heads: int, *columns: int) -> Array:
        """Read what gives queries or keys, with the numbers of each pair side by side."""
        flat = take(name, heads * config.head_dim, *columns)
        return flat.reshape(heads, config.head_dim, *columns)[:, pairs].reshape(flat.shape)

    def some(name: str, read: Callable[..., Array], *shape: int) -> Array | None:
        return read(name, *shape) if name in tensors else None

    def layer(index: int) -> Layer:
        at = f"model.layers.{index}."
        heads = {"q": config.num_heads, "k": config.num_kv_heads}
        parts = [turned(f"{at}self_attn.{part}_proj.weight", n, size) for part, n in heads.items()]
        width, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        parts.append(take(f"{at}self_attn.v_proj.weight", kv, size))
        biases = [some(f"{at}self_attn.{part}_proj.bias", turned, n) for part, n in heads.items()]
        biases.append(some(f"{at}self_attn.v_proj.bias", take, kv))
        given = [bias for bias in biases if bias is not None]
        if len(given) not in (0, 3):
            raise ModelFileError(f"{path}: layer {index} has some biases of three")
        norms = [some(f"{at}self_attn.{part}_norm.weight", turned, 1) for part in "qk"]
        gate_up = [take(f"{at}mlp.{part}_proj.weight", hidden, size) for part in ("gate", "up")]
        return Layer(
            take(f"{at}input_layernorm.weight", size),
            _columns(parts),
            _columns([take(f"{at}self_attn.o_proj.weight", size, width)]),
            take(f"{at}post_attention_layernorm.weight", size),
            _columns(gate_up),
            _columns([take(f"{at}mlp.down_proj.weight", size, hidden)]),
            np.concatenate(given) if given else None,
            *norms,
        )

    layers = [layer(index) for index in progress(range(config.num_layers))]
    count = _whole(path, said, "vocab_size")
    tied = bool(said.get("tie_word_embeddings", said["model_type"] == "qwen2"))
    embedding = _columns([take("model.embed_tokens.weight", count, size)])
    norm = take("model.norm.weight", size)
    head = None
    if "lm_head.weight" in tensors:
        head = _columns([take("lm_head.weight", count, size)])
    if head is None and not tied:
        raise ModelFileError(f"{path} has no tensor 'lm_head.weight', and does not tie it")
    if tensors:
        raise ModelFileError(
            f"{path} has tensors that a plain {said['model_type']} has not, such as "
            f"{min(tensors)!r}; this loop would leave them out"
        )
    return Llama(config, layers, embedding, norm, None if tied else head, divisors)


def _columns(matrices: list[Array]) -> Array:
    """Put matrices [out, in] side by side, as one [in, out]."""
    return np.ascontiguousarray(np.concatenate(matrices).T)


def _json(path: Path, name: str, absent: str) -> dict[str, Any]:
    try:
        found = json.loads((path / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(absent) from None
    except ValueError as error:
        raise ModelFileError(f"{path / name} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelFileError(f"{path / name} must hold an object")
    return found


def _whole(path: Path, said: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = said.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelFileError(f"{path}: {name} must be a positive whole number, got {value!r}")
    return value


def _config(path: Path, said: dict[str, Any]) -> tuple[Config, Array | None]:
    """Read the sizes and the divisors of rotary frequencies; refuse what the loop does not know."""
    kind = said.get("model_type")
    if kind not in _KINDS:
        raise ModelFileError(
            f"{path} is of type {kind!r}; these are supported: {', '.join(_KINDS)}"
        )
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
    rope = said.get("rope_parameters") or said.get("rope_scaling") or {}
    base = float(rope.get("rope_theta", said.get("rope_theta", 10000.0)))
    config = Config(
        num_layers=_whole(path, said, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=size,
        norm_eps=float(said.get("rms_norm_eps", 1e-6)),
        rope_base=base,
        context_length=_whole(path, said, "max_position_embeddings", 2048),
    )
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if scaling == "default":
        return config, None
    if scaling != "llama3":
        raise ModelFileError(f"{path} scales rotary positions ({scaling}): not supported")
    return config, _llama3_divisors(config, rope)


def _llama3_divisors(config: Config, rope: Mapping[str, Any]) -> Array:
    """Give what divides Llama 3.1's frequencies: the slow ones are slowed down, with a ramp."""
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, length = (float(rope[name]) for name in names)
    powers = np.arange(0, config.head_dim, 2) / config.head_dim
    turns = length * config.rope_base**-powers / (2 * math.pi)  # over the original length
    ramp = np.clip((turns - low) / (high - low), 0, 1)
    divisors: Array = 1 / (ramp + (1 - ramp) / factor)
    return divisors


def _tensors(path: Path) -> dict[str, Array]:
    """Find the tensors of all safetensors files; they are read when they are looked at."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{path} has no weights in safetensors")
    found: dict[str, Array] = {}
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as opened:
            count = int.from_bytes(opened.read(8), "little")
            if not 0 < count <= size - 8:
                raise ModelFileError(f"{file} is no safetensors file")
            try:
                header = json.loads(opened.read(count))
                header.pop("__metadata__", None)
                for name, said in header.items():
                    start, end = said["data_offsets"]
                    shape = tuple(map(int, said["shape"]))
                    dtype: Any = np.dtype(_DTYPES[said["dtype"]])
                    fits = 0 <= start <= end <= size - 8 - count
                    if not fits or end - start != math.prod(shape) * dtype.itemsize:
                        raise ModelFileError(f"{file}: {name} does not fit the file")
                    found[name] = np.memmap(
                        file, dtype=dtype, mode="r", offset=8 + count + start, shape=shape
                    )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if isinstance(error, ModelFileError):
                    raise
                raise ModelFileError(f"{file} cannot be read as safetensors: {error!r}") from error
    return found


class FolderTokenizer(Tokenizer):
    """Text to tokens and back as a Hugging Face folder describes it, and its chat template.

    Parameters
    ----------
    path : path
        Of a folder with tokenizer.json.

    Raises
    ------
    FileNotFoundError
        If there is no tokenizer.json.
    ModelFileError
        If the files cannot be read.
    MissingPackageError
        If tokenizers is not installed.

    Examples
    --------
    >>> FolderTokenizer("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: nowhere has no tokenizer.json
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        file = self._path / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"{self._path} has no tokenizer.json")
        tokenizers = demand("tokenizers")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises Exception itself
            raise ModelFileError(f"{file} cannot be read: {error}") from error
        said = self._said("tokenizer_config.json")
        count = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self._tokens = [self._tokenizer.id_to_token(token) or "" for token in range(count)]
        self._bos, self._eos = (self._id(said.get(f"{name}_token")) for name in ("bos", "eos"))
        ends = self._said("generation_config.json").get("eos_token_id", self._eos)
        ends = ends if isinstance(ends, list) else [ends]
        self.stop = frozenset(token for token in (*ends, self._eos) if token is not None)
        template = self._path / "chat_template.jinja"
        self.chat_template = said.get("chat_template")
        if template.is_file():
            self.chat_template = template.read_text(encoding="utf-8")
        if not isinstance(self.chat_template, str | None):
            raise ModelFileError(f"{self._path}: chat_template must be a text")
        begins = self._tokenizer.encode("", add_special_tokens=True).ids
        self._prefix = begins if begins == [self._bos] else []

    def _said(self, name: str) -> dict[str, Any]:
        if not (self._path / name).is_file():
            return {}
        return _json(self._path, name, name)

    def _id(self, token: Any) -> int | None:
        text = token.get("content") if isinstance(token, dict) else token
        found: int | None = None if text is None else self._tokenizer.token_to_id(text)
        return found
