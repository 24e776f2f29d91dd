"""What evaluations load: a model, the strengths that go with its weights, sink dimensions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from reattend.evaluation.datasets.emoji_world.world import World
from reattend.evaluation.runner.workers import Workers
from reattend.evaluation.settings import (
    Strengths,
    build_methods,
    default_strengths,
    find_sink_dims,
    read_strengths,
)
from reattend.method import Method
from reattend.models import VisionLanguage, read_vision_language
from reattend.models.vision_language import SHIPPED
from reattend.terminal import CommandError, progress


class Loaded(NamedTuple):
    """A model, and how strongly each setting is to work in it."""

    model: VisionLanguage
    strengths: Strengths
    sink_dims: tuple[int, ...]
    tuned: bool  # whether strengths were chosen for these weights
    workers: Workers | None = None  # which answer cases side by side, if any

    def methods(self, setting: str) -> list[Method]:
        """Build what a setting puts to work.

        Parameters
        ----------
        setting : str
            Of `SETTINGS`.
        """
        return build_methods(setting, self.strengths, self.sink_dims)


def strengths_file(weights: Path | None, strengths: Path | None) -> Path:
    """Say where the strengths of weights are, or would be.

    Parameters
    ----------
    weights : Path, optional
        The weights; the package's own by default.
    strengths : Path, optional
        Where they are if not beside the weights.

    Examples
    --------
    >>> strengths_file(Path("seed1.npz"), None).name
    'seed1.json'
    """
    return strengths or (weights or SHIPPED).with_suffix(".json")


def load(
    weights: Path | None = None,
    model: Path | None = None,
    strengths: Path | None = None,
    *,
    tuning: bool = False,
    read: Callable[..., VisionLanguage] = read_vision_language,
) -> Loaded:
    """Load a model, and how strongly methods work in it.

    Parameters
    ----------
    weights : Path, optional
        What the training wrote; the package's own by default.
    model : Path, optional
        The GGUF file of the language model they were learnt for; SmolLM2 by default.
    strengths : Path, optional
        What tuning wrote; by default what is beside the weights, else the papers' values.
    tuning : bool, optional
        Whether strengths are to be found, not read.
    read : callable, optional
        Reads the model, called as `read_vision_language` is.

    Raises
    ------
    CommandError
        If strengths cannot be read.
    FileNotFoundError, ModelFileError, MissingPackageError
        If the model cannot be.
    """
    path = strengths_file(weights, strengths)
    found = path.is_file() and not tuning
    if strengths is not None and not (found or tuning):
        raise CommandError(f"{path} is not a file; reattend evaluate --tune makes one")
    try:
        values = read_strengths(path) if found else default_strengths()
    except ValueError as error:
        raise CommandError(str(error)) from error

    def shown(layers: Any) -> Any:
        return progress(layers, "Reading the language model")

    pixels = World().scene(0).pixels  # before the model, which takes longer: its packages may lack
    loaded = read(weights, model, shown)
    dims = find_sink_dims(loaded, pixels)
    for name in values:  # what does not fit is said before anything is answered
        try:
            build_methods(name, values, dims)
        except ValueError as error:
            raise CommandError(f"{path}: {error}") from error
    return Loaded(loaded, values, dims, found)
