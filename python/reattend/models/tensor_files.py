"""The tensors of a Hugging Face folder's safetensors files, each taken once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reattend.models.json_files import read_json
from reattend.models.weights import ModelFileError
from reattend.optional import demand
from reattend.policy import Array

_DTYPES = ("F32", "F16", "BF16")
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class TensorFiles:
    """What a folder's files hold, by name; a tensor is read when it is taken.

    Where a folder has model.safetensors.index.json, and no model.safetensors, a tensor is that of
    the file which the index names.

    Parameters
    ----------
    path : path
        Of a folder.
    renamed : callable, optional
        From a name in the files to the one it is taken by; None: the tensor is left out.

    Raises
    ------
    FileNotFoundError
        If there are no such files.
    ModelFileError
        If one cannot be read, or holds a tensor that another one holds too, or lacks one that the
        index says it holds.
    MissingPackageError
        If the package safetensors is not installed.

    Examples
    --------
    >>> TensorFiles("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: nowhere has no weights in safetensors
    """

    def __init__(
        self, path: str | Path, renamed: Callable[[str], str | None] = lambda name: name
    ) -> None:
        self.path = Path(path)
        files = sorted(self.path.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"{path} has no weights in safetensors")
        self._places: dict[str, tuple[Any, str]] = {}  # name -> opened file, name in it
        where, found = _index(self.path), dict[str, str]()  # found: name -> where it is
        safetensors = demand("safetensors")
        for file in files:
            try:
                opened = safetensors.safe_open(file, framework="numpy")
            except (safetensors.SafetensorError, OSError) as error:
                raise ModelFileError(f"{file} cannot be read as safetensors: {error}") from error
            for name in opened.keys():  # noqa: SIM118, it is no mapping
                taken_by, place = renamed(name), f"{name!r} of {file.name}"
                if taken_by is None or where.get(name, file.name) != file.name:
                    continue
                if taken_by in found:
                    raise ModelFileError(
                        f"{path} has the tensor {taken_by!r} twice, as {found[taken_by]} and as "
                        f"{place}: one of the two must go"
                    )
                found[taken_by], self._places[taken_by] = place, (opened, name)
        for name, of in where.items():
            taken_by = renamed(name)
            if taken_by is not None and taken_by not in found:
                raise ModelFileError(f"{self.path / _INDEX} says that {of} has {name!r}: not so")

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def take(self, name: str, *shape: int) -> Array:
        """Give a tensor in float32.

        Parameters
        ----------
        name : str
            Its name.
        *shape : int
            The shape that it must have.

        Raises
        ------
        ModelFileError
            If it is not there, of another shape or type, or not all of its numbers are finite.
        MissingPackageError
            If it is of bfloat16, which NumPy has by the package ml_dtypes, and that is not there.

        Examples
        --------
        See the example of the class.
        """
        if name not in self._places:
            raise ModelFileError(f"{self.path} has no tensor {name!r}")
        opened, stored = self._places.pop(name)
        piece = opened.get_slice(stored)
        found, dtype = tuple(piece.get_shape()), piece.get_dtype()
        if found != shape:
            raise ModelFileError(f"{self.path}: {name} must have the shape {shape}, got {found}")
        if dtype not in _DTYPES:
            raise ModelFileError(
                f"{self.path}: {name} must be of {', '.join(_DTYPES)}, got {dtype}"
            )
        if dtype == "BF16":
            demand("ml_dtypes")  # which tells NumPy what bfloat16 is
        array = np.asarray(opened.get_tensor(stored), np.float32)
        if not np.isfinite(array).all():
            raise ModelFileError(f"{self.path}: {name} has numbers that are not finite")
        return array

    def end(self, what: str) -> None:
        """Make sure that every tensor was taken.

        Parameters
        ----------
        what : str
            What has no others.

        Raises
        ------
        ModelFileError
            If one was not.

        Examples
        --------
        See the example of the class.
        """
        if self._places:
            raise ModelFileError(
                f"{self.path} has tensors that {what} has not, such as {min(self._places)!r}; this "
                "loop would leave them out"
            )


def _index(path: Path) -> Mapping[str, str]:
    """Give the file of each tensor, by the folder's index; nothing where it has none."""
    if (path / _WHOLE).is_file() or not (path / _INDEX).is_file():
        return {}
    where = read_json(path, _INDEX, "").get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise ModelFileError(f"{path / _INDEX} must hold weight_map, a file's name for each tensor")
    return where
