"""Vectors for heads' outputs: found once for a model, kept in a file, and refused by others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reattend.checks import integer, numbers
from reattend.damaged_arrays import DAMAGED_ARRAYS
from reattend.fingerprint import fingerprint
from reattend.json_text import from_json
from reattend.policy import Array
from reattend.profile import Profile
from reattend.whole_file import whole_file

VERSION = 1


@dataclass(frozen=True, eq=False, repr=False)
class HeadVectors:
    """A vector for each head of some layers, and how much of it a head shall take.

    Parameters
    ----------
    vectors : mapping of int to array [H, Dv]
        Of each layer, such as the mean of the heads' outputs over some prompts.
    amounts : mapping of int to array [H], optional
        Of each layer, what multiplies a method's strength; 1 by default, 0 leaves a head alone.
    model : mapping, optional
        Fingerprint of the model that they are of, see `HeadVectors.of_model`.

    Examples
    --------
    >>> found = HeadVectors({3: np.ones((2, 4))}, {3: np.array([1.0, 0.0])})
    >>> found
    HeadVectors(1 layers, 2 heads of 4, sha256 70fd0296bc2fad5b)
    """

    vectors: Mapping[int, Array]
    amounts: Mapping[int, Array] | None = None
    model: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        vectors = _layers("vectors", self.vectors, "[H, Dv]")
        amounts = {} if self.amounts is None else _layers("amounts", self.amounts, "[H]")
        shapes = {each.shape for each in vectors.values()}
        if len(shapes) != 1:
            raise ValueError(
                f"vectors must hold arrays [H, Dv] of one shape, got {sorted(shapes) or 'none'}"
            )
        heads = next(iter(shapes))[0]
        wrong = [layer for layer, some in amounts.items() if some.shape != (heads,)]
        if wrong or not amounts.keys() <= vectors.keys():
            raise ValueError(
                f"amounts must be [H] = ({heads},) of layers that vectors has, got layers "
                f"{wrong or sorted(amounts)}"
            )
        if not isinstance(self.model, Mapping):
            raise TypeError(f"model must be a fingerprint, a mapping, got {self.model!r}")
        full = {layer: amounts.get(layer, np.ones(heads, np.float32)) for layer in vectors}
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "amounts", full)
        object.__setattr__(self, "model", dict(self.model))

    def __repr__(self) -> str:
        heads, size = next(iter(self.vectors.values())).shape
        digest = self._digest()[:16]  # other vectors look different: journals know methods by it
        return f"HeadVectors({len(self.vectors)} layers, {heads} heads of {size}, sha256 {digest})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HeadVectors):
            return NotImplemented
        return self._digest() == other._digest()

    def __hash__(self) -> int:
        return hash(self._digest())

    def _digest(self) -> str:
        found = hashlib.sha256(json.dumps(self.model, sort_keys=True, default=str).encode())
        assert self.amounts is not None
        for layer in self.vectors:
            found.update(f"{layer} {self.vectors[layer].shape}".encode())
            found.update(self.vectors[layer].tobytes() + self.amounts[layer].tobytes())
        return found.hexdigest()

    def of_model(self, model: Any) -> HeadVectors:
        """Give the same, tied to a model: others are refused.

        Parameters
        ----------
        model : model, or mapping
            As for `reattend.evaluation.calibration.fingerprint`.

        Examples
        --------
        >>> HeadVectors({0: np.ones((1, 2))}).of_model({"num_layers": 4}).model
        {'num_layers': 4}
        """
        return HeadVectors(self.vectors, self.amounts, fingerprint(model))

    def amounts_of(self, layer: int) -> Array:
        """Give how much of its vector each head of a layer takes, [H].

        Parameters
        ----------
        layer : int
            One that has vectors.

        Examples
        --------
        >>> HeadVectors({3: np.ones((2, 4))}).amounts_of(3)
        array([1., 1.], dtype=float32)
        """
        assert self.amounts is not None
        return self.amounts[layer]

    @property
    def profile(self) -> Profile | None:
        """What a method checks a model by; None where nobody said whose they are."""
        return Profile(dict(self.model), {}) if self.model else None

    def check_sizes(self, num_layers: int, num_heads: int | None) -> None:
        """Refuse a model that has not these layers and heads.

        Parameters
        ----------
        num_layers : int
            Of the model.
        num_heads : int or None
            Of the model; None where that is not known.

        Raises
        ------
        ValueError
            Naming what differs.

        Examples
        --------
        >>> HeadVectors({3: np.ones((2, 4))}).check_sizes(4, 2)
        """
        last = max(self.vectors)
        if last >= num_layers:
            raise ValueError(
                f"vectors must be of layers below {num_layers}, the model's number, got {last}"
            )
        heads = len(next(iter(self.vectors.values())))
        if num_heads is not None and heads != num_heads:
            raise ValueError(
                f"vectors must be of {num_heads} heads, those of the model, got {heads}"
            )

    def save(self, path: str | Path) -> None:
        """Write a file, in full or not at all.

        Parameters
        ----------
        path : path
            Where to, as .npz.

        Raises
        ------
        ValueError
            If the path ends otherwise.

        Examples
        --------
        >>> import tempfile
        >>> made = HeadVectors({3: np.ones((2, 4))})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made.save(Path(folder, "task.npz"))
        ...     HeadVectors.load(Path(folder, "task.npz")) == made
        True
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"path must end in .npz, got {path.name!r}")
        assert self.amounts is not None
        arrays: dict[str, Array] = {}
        for layer, vectors in self.vectors.items():
            arrays[f"vectors_{layer}"], arrays[f"amounts_{layer}"] = vectors, self.amounts[layer]
        about = json.dumps({"head_vectors": VERSION, "model": dict(self.model)})
        arrays["about"] = np.frombuffer(about.encode(), np.uint8)
        with whole_file(path) as partial:
            np.savez_compressed(partial, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> HeadVectors:
        """Read a file that `save` wrote.

        Parameters
        ----------
        path : path
            Of the file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it holds no such vectors, or those of a later version.

        Examples
        --------
        See the example of `save`.
        """
        try:
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                about = from_json(bytes(file["about"]))
                version = about["head_vectors"]
                names = [name for name in file.files if name != "about"]
                arrays = {name: file[name] for name in names}
        except FileNotFoundError:
            raise
        except DAMAGED_ARRAYS as error:
            raise ValueError(f"{path} holds no vectors of heads: {error!r}") from error
        if version != VERSION:
            raise ValueError(
                f"{path} holds vectors of version {version}, and this reattend reads {VERSION}"
            )
        parts: dict[str, dict[int, Array]] = {"vectors": {}, "amounts": {}}
        try:
            for name, array in arrays.items():
                kind, _, layer = name.partition("_")
                parts[kind][int(layer)] = array
            return cls(parts["vectors"], parts["amounts"], about["model"])
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path} holds no vectors of heads: {error!r}") from error


def checked_vectors(given: Any) -> Profile | None:
    """Give what a method's vectors are checked by; TypeError for what is neither these nor None.

    Parameters
    ----------
    given : HeadVectors or None
        A method's parameter ``vectors``.

    Raises
    ------
    TypeError
        If it is something else.

    Examples
    --------
    >>> checked_vectors(None)
    """
    if given is None:
        return None
    if not isinstance(given, HeadVectors):
        raise TypeError(f"vectors must be HeadVectors or None, got {given!r}")
    return given.profile


def _layers(name: str, given: Any, axes: str) -> dict[int, Array]:
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must map layers to {axes}, got {given!r}")
    found: dict[int, Array] = {}
    for layer, some in given.items():
        array = numbers(name, some, axes).astype(np.float32)  # a copy
        if integer(name, layer) < 0 or not np.isfinite(array).all():
            raise ValueError(f"{name} must hold finite numbers for layers from 0, got {layer}")
        array.flags.writeable = False
        found[int(layer)] = array
    return dict(sorted(found.items()))
