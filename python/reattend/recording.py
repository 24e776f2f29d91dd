"""Recording: where the rows of one answer attend, step by step; kept in a versioned file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from reattend.damaged_arrays import DAMAGED_ARRAYS
from reattend.json_text import from_json
from reattend.policy import Array
from reattend.whole_file import whole_file

__all__ = ["Recording"]

VERSION = 1
_ARRAYS = {"attention": np.float16, "entropy": np.float32, "sinks": np.bool_, "image": np.bool_}


@dataclass(frozen=True, eq=False, repr=False)
class Recording:
    """Where the rows of one answer attended, as softmax gave it; made by `Session.recording`.

    Examples
    --------
    >>> Recording(np.zeros((2, 4, 3, 6)), np.zeros((2, 4, 3)), np.zeros((4, 9), bool),
    ...           np.arange(9) < 6)
    Recording(2 rows, 4 layers, 3 heads, 6 image tokens)
    """

    attention: Array  # float16 [T, L, H, K], of each row of the answer on each image token
    entropy: Array  # float32 [T, L, H], of each row over all its keys, in nats
    sinks: Array  # bool [L, P], prompt tokens with a sink's state as they enter the layer
    image: Array  # bool [P], which of the prompt's tokens are the image's
    words: tuple[str, ...] = ()  # [T], what the rows wrote
    picture: Array | None = None  # uint8 [height, width, 3]
    grid: tuple[int, int] | None = None  # rows and columns of the image's tokens
    settings: Mapping[str, Any] = field(default_factory=dict)  # what made it
    methods: Mapping[str, Any] = field(default_factory=dict)  # `Report.to_dict`

    def __post_init__(self) -> None:
        for name, kind in _ARRAYS.items():
            object.__setattr__(self, name, np.asarray(getattr(self, name), kind))
        if self.attention.ndim != 4:
            raise ValueError(f"attention must be [T, L, H, K], got shape {self.attention.shape}")
        rows, layers, heads, tokens = self.attention.shape
        for name, wanted in (
            ("entropy", (rows, layers, heads)),
            ("sinks", (layers, len(self.image))),
        ):
            if getattr(self, name).shape != wanted:
                raise ValueError(
                    f"{name} must have shape {wanted}, got {getattr(self, name).shape}"
                )
        if int(self.image.sum()) != tokens:
            raise ValueError(
                f"image must mark {tokens} tokens, those of attention, got {int(self.image.sum())}"
            )
        if self.words and len(self.words) != rows:
            raise ValueError(f"words must be one for each of {rows} rows, got {len(self.words)}")
        if self.grid is not None and self.grid[0] * self.grid[1] != tokens:
            raise ValueError(f"grid must hold {tokens} image tokens, got {tuple(self.grid)}")
        if self.picture is not None and (
            self.picture.dtype != np.uint8 or self.picture.ndim != 3 or self.picture.shape[2] != 3
        ):
            raise ValueError(
                f"picture must be uint8 [height, width, 3], got {self.picture.dtype} "
                f"{self.picture.shape}"
            )

    def __repr__(self) -> str:
        rows, layers, heads, tokens = self.attention.shape
        return f"Recording({rows} rows, {layers} layers, {heads} heads, {tokens} image tokens)"

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
        >>> made = Recording(np.zeros((0, 1, 1, 0)), np.zeros((0, 1, 1)), np.zeros((1, 0)),
        ...                  np.zeros(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made.save(Path(folder, "run.npz"))
        ...     Recording.load(Path(folder, "run.npz"))
        Recording(0 rows, 1 layers, 1 heads, 0 image tokens)
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"path must end in .npz, got {path.name!r}")
        told = {
            "version": VERSION, "words": self.words, "grid": self.grid,
            "settings": dict(self.settings), "methods": dict(self.methods),
        }  # fmt: skip
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        if self.picture is not None:
            arrays["picture"] = self.picture
        arrays["about"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
        with whole_file(path) as partial:
            np.savez_compressed(partial, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """Read a file that `save` wrote.

        Parameters
        ----------
        path : path
            Of the file.

        Raises
        ------
        ValueError
            If it is no recording, or of a later version.
        FileNotFoundError
            If there is none.

        Examples
        --------
        See the example of `save`.
        """
        try:
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                about = from_json(bytes(file["about"]))
                arrays = {name: file[name] for name in file.files if name != "about"}
            version = about.pop("version")
        except FileNotFoundError:
            raise
        except DAMAGED_ARRAYS as error:
            why = error if is_zipfile(path) else "it is no .npz, as Recording.save writes one"
            raise ValueError(f"{path} is not a recording: {why}") from error
        if version != VERSION:
            raise ValueError(
                f"{path} is a recording of version {version}, this reattend reads {VERSION}"
            )
        known = {each.name for each in fields(cls)}
        if not {*arrays, *about} <= known or not {*_ARRAYS} <= {*arrays}:
            raise ValueError(f"{path} is not a recording: it holds {sorted({*arrays, *about})}")
        try:
            words, grid = tuple(about.pop("words")), about.pop("grid")
            return cls(**arrays, words=words, grid=None if grid is None else tuple(grid), **about)
        except (ValueError, TypeError, LookupError) as error:  # of arrays that do not fit
            raise ValueError(f"{path} is not a recording: {error}") from error

    def with_words(
        self,
        words: Sequence[str] = (),
        *,
        picture: Array | None = None,
        grid: tuple[int, int] | None = None,
        **settings: Any,
    ) -> Recording:
        """Give the same recording with what a session does not know.

        Parameters
        ----------
        words : sequence of str [T]
            What the rows wrote; the row of the prompt's end wrote the first.
        picture : uint8 array [height, width, 3], optional
            What the model saw.
        grid : (rows, columns), optional
            Of the image's tokens; a square by default, if they are one.
        settings
            What made the run, for readers: numbers and text.

        Raises
        ------
        ValueError
            If they do not fit.

        Examples
        --------
        >>> made = Recording(np.zeros((1, 1, 1, 4)), np.zeros((1, 1, 1)), np.zeros((1, 4)),
        ...                  np.ones(4))
        >>> made.with_words(["cat"], model="tiny").words
        ('cat',)
        """
        return replace(
            self, words=tuple(words), picture=None if picture is None else np.asarray(picture),
            grid=grid, settings={**self.settings, **settings},
        )  # fmt: skip
