"""Options that say which data a command reads, and which model of transformers answers."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import click

from reattend.cli.command import Options, Several
from reattend.evaluation.datasets import Dataset, load_dataset, registered_datasets
from reattend.evaluation.datasets.pope import SAMPLING
from reattend.evaluation.metrics.pope import RULES
from reattend.evaluation.runner.answerers import TransformersAnswerer
from reattend.optional import demand
from reattend.terminal import CommandError

Callback = TypeVar("Callback", bound=Callable[..., Any])


def data_options(callback: Callback) -> Callback:
    """Add the options that say which data is read.

    Parameters
    ----------
    callback : callable
        What runs the command.
    """
    add = click.option
    for each in reversed((
        add("--data", cls=Several, type=Path, metavar="FILE",
            help="a data set of your own, instead of drawn scenes: a POPE file, or what else "
            "--kind says, such as COCO's instances_*.json"),
        add("--kind", type=click.Choice([*registered_datasets()]),
            help="what --data is (default: pope); emoji-world, emoji-world-questions and easy-vqa "
            "need no file"),
        add("--images", type=Path, metavar="DIR", help="the folder of its pictures"),
        add("--captions", cls=Several, type=Path, metavar="FILE",
            help="for chair: COCO's captions_*.json"),
        add("--rule", type=click.Choice([*RULES]), default="official",
            help="how yes and no are read"),
        add("--sampling", type=click.Choice([*SAMPLING]),
            help="for questions that are drawn: which absent things are asked for"),
        add("--drop-unfinished", is_flag=True,
            help="leave out a description's last sentence if it has no end"),
        add("--skip-problems", is_flag=True,
            help="leave out entries with a problem, and count them, instead of stopping"),
    )):  # fmt: skip
        callback = each(callback)
    return callback


def chosen_dataset(options: Options) -> Dataset:
    """Load the data, with those options that its loader takes; others must not have been given.

    Parameters
    ----------
    options : namespace
        What the options of `data_options` say, and ``scenes``.

    Raises
    ------
    CommandError
        If data is missing, or an option is nothing that it takes.
    """
    kind = options.kind or "pope"
    takes = signature(registered_datasets()[kind]).parameters
    given: dict[str, Any] = {
        "images": options.images, "captions": options.captions, "sampling": options.sampling,
        "skip_problems": options.skip_problems, "drop_unfinished": options.drop_unfinished,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value}
    if "rule" in takes:
        given["rule"] = options.rule
    if options.data:
        if len(options.data) > 1 and kind != "chair":
            raise CommandError(f"--data must be one file for {kind}, got {len(options.data)}")
        given["data"] = options.data if kind == "chair" else options.data[0]
    elif "data" in takes:
        raise CommandError(f"--kind {kind} needs --data")
    if options.scenes is not None:
        given["scenes" if "scenes" in takes else "pictures"] = options.scenes
    if unknown := [name for name in given if name not in takes]:
        raise CommandError(f"--{unknown[0].replace('_', '-')} is nothing that --kind {kind} takes")
    return load_dataset(kind, **given)


def read_transformers(model: str) -> TransformersAnswerer:
    """Read a model of transformers and its processor.

    Parameters
    ----------
    model : str
        A folder, or a name that transformers knows.

    Raises
    ------
    CommandError
        If it cannot be read.
    """
    hf = demand("transformers")
    try:
        processor = hf.AutoProcessor.from_pretrained(model)
        read = hf.AutoModelForImageTextToText.from_pretrained(model).eval()
        return TransformersAnswerer(read, processor)
    except (OSError, ValueError) as error:
        raise CommandError(f"--model {model} cannot be read: {error}") from error
