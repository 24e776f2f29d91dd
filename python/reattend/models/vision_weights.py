"""Reads what a vision-language model learnt: encoder, projector, changes of the language model."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reattend.damaged_arrays import DAMAGED_ARRAYS
from reattend.json_text import from_json
from reattend.models.llama import Llama
from reattend.models.vision import GROUPS, Convolution, Encoder, Linear, Projector, Registers
from reattend.models.weights import ModelFileError
from reattend.policy import Array

_FORMAT = 1
_MOST_GROWN = 64 << 20  # bytes that arrays may have beyond twice the file's
_PLANES = ".planes"  # ends the names of arrays that are kept as two planes of bytes
_POOLS = (2, 2, 1, 3, 1, 1)  # after each convolution


class WeightsFile:
    """An .npz file of learnt arrays and a word on how they were learnt.

    Parameters
    ----------
    path : path
        Where the file is.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ModelFileError
        If it is no such file.

    Examples
    --------
    >>> import tempfile
    >>> metadata = np.array('{"format": 1, "seed": 7}')
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "weights.npz"
    ...     np.savez(path, metadata=metadata, scale=np.ones(3, np.float16))
    ...     file = WeightsFile(path)
    >>> file.metadata["seed"], file.take("scale", 3)
    (7, array([1., 1., 1.], dtype=float32))
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is not a file; weights are a .npz file's path")
        try:
            self._arrays = read_arrays(self.path)
        except DAMAGED_ARRAYS as error:
            raise ModelFileError(f"{self.path} cannot be read as .npz: {error}") from error
        self.metadata = self._read_metadata()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def take(self, name: str, *shape: int | None) -> Array:
        """Give an array in float32; each may be taken once.

        Parameters
        ----------
        name : str
            Its name.
        *shape : int or None
            The shape that it must have; None is any size.

        Raises
        ------
        ModelFileError
            If it is not there, of another shape, or not all of its numbers are finite.

        Examples
        --------
        See the example of the class.
        """
        array = self._arrays.pop(name, None)
        if array is None:
            raise ModelFileError(f"{self.path} has no array {name!r}")
        fits = [n in (None, found) for n, found in zip(shape, array.shape, strict=False)]
        if array.ndim != len(shape) or not all(fits):
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise ModelFileError(
                f"{self.path}: {name} must have the shape ({wanted}), got {array.shape}"
            )
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ModelFileError(f"{self.path}: {name} must hold finite floats, got {array.dtype}")
        return array.astype(np.float32)

    def end(self) -> None:
        """Make sure that every array was taken.

        Raises
        ------
        ModelFileError
            If one was not.

        Examples
        --------
        See the example of the class.
        """
        if self._arrays:
            raise ModelFileError(
                f"{self.path} has arrays that this model has not, such as {min(self._arrays)!r}"
            )

    def _read_metadata(self) -> dict[str, Any]:
        try:
            metadata = from_json(str(self._arrays.pop("metadata")))
            found = metadata["format"]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"{self.path} does not say what it is: its metadata must be JSON with a format"
            ) from error
        if found != _FORMAT:
            raise ModelFileError(f"{self.path} is of format {found!r}; only {_FORMAT} is supported")
        return dict(metadata)


def read_arrays(path: str | Path) -> dict[str, Array]:
    """Give the arrays of a weights file by name, as they were learnt.

    Parameters
    ----------
    path : path
        Where the file is.

    Raises
    ------
    ValueError, OSError, BadZipFile
        If it is no .npz file, or claims what it does not hold.
    """
    path = Path(path)
    with path.open("rb") as opened, zipfile.ZipFile(opened) as file:
        arrays: dict[str, Array] = {}
        for name, array in _members(file, path.stat().st_size):
            if name in arrays:
                raise ValueError(f"{name!r} is there twice")
            arrays[name] = array
        return arrays


def _members(file: zipfile.ZipFile, size: int) -> Iterator[tuple[str, Array]]:
    """Read arrays whose sizes, as the file claims them, are what it holds."""
    claimed = sum(member.file_size for member in file.infolist())
    if claimed > 2 * size + _MOST_GROWN:
        raise ValueError(f"its arrays claim {claimed} bytes, of a file of {size}")
    for member in file.infolist():
        name = member.filename.removesuffix(".npy")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name!r} is compressed by method {member.compress_type}")
        if member.flag_bits & 1:
            raise ValueError(f"{name!r} is encrypted")
        content = io.BytesIO(file.read(member))
        version = np.lib.format.read_magic(content)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name!r} is of npy version {version}")
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(content)
        wanted, left = math.prod(shape) * dtype.itemsize, member.file_size - content.tell()
        if wanted != left or min(shape, default=0) < 0 or dtype.hasobject:
            raise ValueError(f"{name!r} claims {dtype} {shape}, of {left} bytes")
        content.seek(0)
        array = np.lib.format.read_array(content, allow_pickle=False)
        if name.endswith(_PLANES):
            name, array = name.removesuffix(_PLANES), joined(array)
        yield name, array


def planes(array: Array) -> Array:
    """Give the low bytes of float16 numbers, then the high ones: they compress by 5% more so.

    Parameters
    ----------
    array : float16 array
        Of any shape.

    Examples
    --------
    >>> planes(np.ones(2, np.float16)).tolist()
    [[0, 0], [60, 60]]
    """
    bytes_ = np.ascontiguousarray(array, "<f2")[..., None].view(np.uint8)  # [..., 2]
    return np.ascontiguousarray(np.moveaxis(bytes_, -1, 0))


def joined(array: Array) -> Array:
    """Give the numbers whose bytes `planes` set apart.

    Parameters
    ----------
    array : uint8 array [2, ...]
        The low bytes, and the high ones.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> joined(planes(np.ones((2, 3), np.float16))).shape
    (2, 3)
    """
    if array.dtype != np.uint8 or array.ndim < 1 or len(array) != 2:
        raise ValueError(f"planes must be uint8 [2, ...], got {array.dtype} {array.shape}")
    return np.ascontiguousarray(np.moveaxis(array, 0, -1)).view("<f2")[..., 0]


def read_encoder(file: WeightsFile) -> Encoder:
    """Read the convolutions, which the file has as [out, in, k, k].

    Parameters
    ----------
    file : WeightsFile
        The file.

    Raises
    ------
    ModelFileError
        If arrays are missing or do not fit one another.
    """
    convolutions, width = [], 3
    for index, pool in enumerate(_POOLS):
        at = f"encoder.{index}"
        weight = file.take(f"{at}.weight", None, width, None, None)
        width = len(weight)
        if width % GROUPS or weight.shape[2] != weight.shape[3] or not weight.shape[2] % 2:
            raise ModelFileError(
                f"{file.path}: {at}.weight must be [out, in, k, k], out a multiple of {GROUPS} and "
                f"k odd, got shape {weight.shape}"
            )
        bias, norm_weight, norm_bias = (
            file.take(f"{at}.{name}", width) for name in ("bias", "norm_weight", "norm_bias")
        )
        columns = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
        convolutions.append(Convolution(columns, bias, norm_weight, norm_bias, pool))
    return Encoder(convolutions)


def read_projector(file: WeightsFile, features: int, size: int) -> Projector:
    """Read the projector, whose matrices the file has as [out, in].

    Parameters
    ----------
    file : WeightsFile
        The file.
    features, size : int
        Widths of what the encoder gives and of what the language model takes.

    Raises
    ------
    ModelFileError
        If arrays are missing or do not fit.
    """
    inner = file.take("projector.0.weight", None, features)
    outer = file.take("projector.1.weight", size, len(inner))
    biases = (file.take(f"projector.{i}.bias", len(w)) for i, w in enumerate((inner, outer)))
    matrices = (np.ascontiguousarray(weight.T) for weight in (inner, outer))
    return Projector(*map(Linear, matrices, biases))


def read_registers(file: WeightsFile, size: int) -> Registers | None:
    """Read registers, if there are any.

    Parameters
    ----------
    file : WeightsFile
        The file.
    size : int
        Width of what the language model takes.

    Raises
    ------
    ModelFileError
        If they do not fit.
    """
    return Registers(file.take("registers", None, size)) if "registers" in file else None


def merge_changes(file: WeightsFile, llama: Llama) -> None:
    """Add what was learnt beside the language model's matrices to them, in place.

    The file has a change of [out, in] as up [out, rank] down [rank, in], the numbers of a rotary
    pair half a head apart; `Llama` has matrices as [in, out], and the pair side by side.

    Parameters
    ----------
    file : WeightsFile
        The file.
    llama : Llama
        The language model.

    Raises
    ------
    ModelFileError
        If arrays are missing or do not fit.
    """
    sizes = llama.config
    size, width = sizes.hidden_size, sizes.num_heads * sizes.head_dim
    kv_width = sizes.num_kv_heads * sizes.head_dim
    for index, layer in enumerate(llama.layers):

        def change(name: str, inner: int, outer: int, index: int = index) -> tuple[Array, Array]:
            down = file.take(f"lora.{index}.{name}.down", None, inner)
            up = file.take(f"lora.{index}.{name}.up", outer, len(down))
            return down.T, up.T

        down, up = change("query", size, width)
        halves = up.reshape(-1, sizes.num_heads, 2, sizes.head_dim // 2)
        layer.query_key_value[:, :width] += down @ halves.swapaxes(2, 3).reshape(-1, width)
        down, up = change("value", size, kv_width)
        layer.query_key_value[:, -kv_width:] += down @ up
        down, up = change("output", width, size)
        layer.attention_output[...] += down @ up
