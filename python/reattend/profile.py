"""Profile: what calibration found for one model, as JSON with arrays in an .npz beside it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from reattend.border.config import __version__
from reattend.damaged_arrays import DAMAGED_ARRAYS
from reattend.fingerprint import fingerprint
from reattend.json_text import from_json
from reattend.policy import Array
from reattend.whole_file import whole_file

__all__ = ["Profile", "ProfileError"]

FORMAT = 1
_SIZES = ("num_layers", "num_heads", "hidden_size")


class ProfileError(ValueError):
    """A file is no profile, or that of another model."""


@dataclass(frozen=True, eq=False)
class Profile:
    """What calibration found for one model: heads and strengths of methods, and sink dimensions.

    Parameters
    ----------
    model : mapping
        Of `reattend.evaluation.calibration.fingerprint`.
    methods : mapping
        By the method's name, such as ``"ACT"``: the parameters that were found, ``heads`` among
        them, a mapping layer -> heads.
    sink_dims : sequence of int, optional
        D_sink of the model; None where nobody has looked.
    data : mapping, optional
        What it was found on.
    scores : mapping, optional
        By the method's name: what it scored, each number as [value, low, high].
    arrays : mapping of str to array, optional
        What else there is to keep, such as the gain of each head.
    created : str, optional
        When, as ISO 8601 writes it.
    version : str, optional
        Of reattend.

    Examples
    --------
    >>> import tempfile
    >>> from reattend import ACT
    >>> model = {"architecture": "Llama", "num_layers": 8, "num_heads": 4, "weights": "1f"}
    >>> found = Profile(model, {"ACT": {"heads": {3: (0, 2)}, "beta": 0.4}}, sink_dims=(7,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = found.save(Path(folder, "llama.json"))
    ...     act = ACT.from_profile(path, model)
    >>> act.heads, act.beta
    (((3, (0, 2)),), 0.4)
    """

    model: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    sink_dims: tuple[int, ...] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    created: str = ""
    version: str = __version__
    path: Path | None = None  # where it was read

    def __post_init__(self) -> None:
        if self.sink_dims is not None:
            object.__setattr__(self, "sink_dims", tuple(map(int, self.sink_dims)))

    def save(self, path: str | Path) -> Path:
        """Write it, so that whoever reads sees the whole of it or what was there before.

        The arrays' file has their checksum in its name, and the JSON is replaced last: it always
        names a file that is there, also if the process is killed.

        Parameters
        ----------
        path : path
            Must end in .json.

        Raises
        ------
        ValueError
            If it ends otherwise.

        Examples
        --------
        See the example of the class.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise ValueError(f"path must end in .json, got {path}")
        values: dict[str, Any] = {
            "profile": FORMAT, "reattend": self.version, "created": self.created,
            "model": dict(self.model), "sink_dims": self.sink_dims,
            "methods": self.methods, "data": self.data, "scores": self.scores,
        }  # fmt: skip
        if self.arrays:
            content = io.BytesIO()
            np.savez_compressed(content, allow_pickle=False, **dict(self.arrays))
            checksum = hashlib.sha256(content.getvalue()).hexdigest()
            beside = path.with_name(f"{path.stem}.{checksum[:12]}.npz")
            with whole_file(beside) as partial:
                partial.write_bytes(content.getvalue())
            values["arrays"] = {"file": beside.name, "sha256": checksum}
        before, kept = _arrays_file(path), values.get("arrays", {}).get("file")
        try:
            with whole_file(path) as partial:
                partial.write_text(json.dumps(values, indent=1) + "\n", "utf-8")
        except BaseException:
            before, kept = kept, before  # what was there before goes on
            raise
        finally:
            if before is not None and before != kept:
                path.with_name(before).unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read what `save` wrote, in this version of the package or an earlier one.

        Parameters
        ----------
        path : path
            The JSON file; the arrays lie beside it.

        Raises
        ------
        FileNotFoundError
            If it is not there.
        ProfileError
            If it is no profile, or that of a later version, or its arrays are others.

        Examples
        --------
        See the example of the class.
        """
        path = Path(path)
        try:
            values = dict(from_json(path.read_text("utf-8")))
            version = values["profile"]
        except (ValueError, KeyError, TypeError) as error:
            raise ProfileError(f"{path} is no profile of a model: {error!r}") from error
        if version != FORMAT:
            raise ProfileError(
                f"{path} is a profile of format {version}, and this reattend reads {FORMAT}"
            )
        try:
            return cls(
                dict(values["model"]),
                {name: _with_heads(dict(some)) for name, some in values["methods"].items()},
                values["sink_dims"], dict(values["data"]), dict(values["scores"]),
                _read_arrays(path, values.get("arrays")),
                values["created"], values["reattend"], path,
            )  # fmt: skip
        except ProfileError:
            raise
        except DAMAGED_ARRAYS as error:
            raise ProfileError(f"{path} is no profile of a model: {error!r}") from error

    def check(self, model: Any) -> None:
        """Refuse another model than the one that this was found for.

        Parameters
        ----------
        model : model, or mapping
            As for `reattend.evaluation.calibration.fingerprint`.

        Raises
        ------
        ProfileError
            Naming what differs.

        Examples
        --------
        >>> found = Profile({"architecture": "Llama", "num_layers": 8}, {})
        >>> found.check({"architecture": "Llama", "num_layers": 32})
        Traceback (most recent call last):
            ...
        reattend.profile.ProfileError: profile is of another model: num_layers 8, not 32
        """
        self._compare(fingerprint(model), self.model.keys())

    def check_sizes(self, num_layers: int, num_heads: int | None, hidden_size: int | None) -> None:
        """Refuse a model of other sizes; what is not known of it is not compared.

        Parameters
        ----------
        num_layers, num_heads, hidden_size : int or None
            Of the model.

        Raises
        ------
        ProfileError
            Naming what differs.

        Examples
        --------
        >>> Profile({"num_layers": 8, "num_heads": 4}, {}).check_sizes(8, None, None)
        """
        sizes = dict(zip(_SIZES, (num_layers, num_heads, hidden_size), strict=True))
        known = {name for name in _SIZES if self.model.get(name) is not None}
        self._compare(sizes, {name for name in known if sizes[name] is not None})

    def parameters(self, method: str, *, takes: Any = ()) -> dict[str, Any]:
        """Give what was found for a method.

        Parameters
        ----------
        method : str
            Its name, such as ``"ACT"``.
        takes : collection of str, optional
            Names of the parameters that it takes: the model's sink dimensions are given to a
            method that takes ``sink_dims``.

        Raises
        ------
        ProfileError
            If the profile holds nothing for it.

        Examples
        --------
        >>> Profile({}, {}, sink_dims=(7,)).parameters("VAR", takes=("sink_dims", "p"))
        {'sink_dims': (7,)}
        """
        found = dict(self.methods.get(method, {}))
        if "sink_dims" in takes and self.sink_dims:
            found = {"sink_dims": self.sink_dims, **found}
        if not found:
            held = ", ".join(self.methods) or "no method"
            raise ProfileError(f"{self._named()} holds nothing for {method}, only for {held}")
        return found

    def joined(self, other: Profile) -> Profile:
        """Give this profile with what another one of the same model adds to it or has anew.

        Parameters
        ----------
        other : Profile
            Whose methods, scores and arrays come in the place of those of the same name.

        Raises
        ------
        ProfileError
            If it is of another model.

        Examples
        --------
        >>> both = Profile({}, {"ACT": {"beta": 0.4}}).joined(Profile({}, {"VHR": {"alpha": 1.1}}))
        >>> [*both.methods]
        ['ACT', 'VHR']
        """
        self.check(other.model)
        return replace(
            other,
            methods={**self.methods, **other.methods},
            sink_dims=self.sink_dims if other.sink_dims is None else other.sink_dims,
            data={**self.data, **other.data},
            scores={**self.scores, **other.scores},
            arrays={**self.arrays, **other.arrays},
        )

    def _compare(self, found: Mapping[str, Any], names: Any) -> None:
        differs = "; ".join(
            f"{name} {_short(self.model[name])}, not {_short(found.get(name))}"
            for name in self.model
            if name in names and self.model[name] != found.get(name)
        )
        if differs:
            raise ProfileError(f"{self._named()} is of another model: {differs}")

    def _named(self) -> str:
        return "profile" if self.path is None else f"profile {self.path}"


def _with_heads(parameters: dict[str, Any]) -> dict[str, Any]:
    """JSON has texts for keys and lists for tuples; layers are numbers."""
    for name, value in parameters.items():
        if name == "heads" and value is not None:
            parameters[name] = {int(layer): tuple(some) for layer, some in value.items()}
        elif isinstance(value, list):
            parameters[name] = tuple(value)
    return parameters


def _read_arrays(path: Path, beside: Any) -> dict[str, Array]:
    if beside is None:
        return {}
    file = path.with_name(Path(beside["file"]).name)
    if not file.is_file():
        raise ProfileError(f"{path} needs its arrays beside it, {file.name}, which is not there")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != beside["sha256"]:
        raise ProfileError(f"{file} holds other arrays than those of {path.name}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _arrays_file(path: Path) -> str | None:
    """Give the arrays' file of a profile that is there already."""
    try:
        name: str | None = Path(from_json(path.read_text("utf-8"))["arrays"]["file"]).name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name


def _short(value: Any) -> str:
    return f"{str(value)[:12]}..." if len(str(value)) > 40 else str(value)
