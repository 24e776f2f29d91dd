"""``reattend evaluate --data``: a model of one's own, or ours, on files that researchers have."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from reattend.cli.command import Options, Several
from reattend.cli.model_options import load_chosen
from reattend.evaluation.datasets import DataError, Dataset, load_dataset, registered_datasets
from reattend.evaluation.datasets.pope import SAMPLING
from reattend.evaluation.metrics.pope import RULES
from reattend.evaluation.report.score_tables import FORMS, write_scores
from reattend.evaluation.report.scores import score
from reattend.evaluation.runner.answerers import (
    Answerer,
    FileAnswerer,
    TransformersAnswerer,
    VisionLanguageAnswerer,
)
from reattend.evaluation.runner.evaluate import evaluate
from reattend.evaluation.settings import PLAIN, SETTINGS
from reattend.method import Method, registered
from reattend.models.vision_language import SHIPPED
from reattend.optional import demand
from reattend.terminal import CommandError

Progress = Any
Callback = TypeVar("Callback", bound=Callable[..., Any])
_ENDINGS = {"markdown": ".md", "latex": ".tex", "html": ".html"}


def data_options(callback: Callback) -> Callback:
    """Add the options that say which files are evaluated on, and what answers.

    Parameters
    ----------
    callback : callable
        What runs the command.
    """
    add = click.option
    for each in reversed((
        add("--data", cls=Several, type=Path, metavar="FILE",
            help="a data set of your own, instead of drawn scenes: a POPE file, or COCO's "
            "instances_*.json (with --kind)"),
        add("--kind", type=click.Choice([*registered_datasets()]), default="pope",
            help="what --data is"),
        add("--images", type=Path, metavar="DIR", help="the folder of its pictures"),
        add("--captions", cls=Several, type=Path, metavar="FILE",
            help="for chair: COCO's captions_*.json"),
        add("--methods", metavar="LIST",
            help="compared with plain attention: some of "
            f"{', '.join(map(str.lower, registered()))} (default: var,vhr,act)"),
        add("--answers", type=Path, metavar="FILE", help="score answers that were made elsewhere"),
        add("--rule", type=click.Choice([*RULES]), default="official",
            help="how yes and no are read"),
        add("--sampling", type=click.Choice([*SAMPLING]), default="random",
            help="for pope-from-instances: which absent things are asked for"),
        add("--skip-problems", is_flag=True,
            help="leave out entries with a problem, and count them, instead of stopping"),
        add("--form", type=click.Choice([*FORMS]), default="markdown", help="of the table"),
    )):  # fmt: skip
        callback = each(callback)
    return callback


def evaluate_data(options: Options, progress: Progress) -> int:
    """Evaluate on the files that options name, and write NAME.json and a table.

    Parameters
    ----------
    options : Namespace
        Of `add_data_options`, and of the command.
    progress : callable
        Called with how many of how many batches are done.

    Raises
    ------
    CommandError
        If files have problems, or methods are not there.
    """
    try:
        data = _dataset(options)
        answerer, settings = _answering(options, data)
        found = evaluate(
            data, answerer, settings, _beside(options.out, ".jsonl"), batch=options.batch,
            progress=progress,
        )  # fmt: skip
    except DataError as error:
        raise CommandError(str(error)) from error
    scores = score(found)
    table = write_scores(scores, options.form)
    written = [_beside(options.out, ".json"), _beside(options.out, _ENDINGS[options.form])]
    text = json.dumps(scores, indent=1) + "\n"
    for path, content in zip(written, (text, table), strict=True):
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(content, "utf-8")
        partial.replace(path)
    for problem in data.problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(text if options.json else table, end="")
    print(f"Written: {', '.join(map(str, written))}", file=sys.stderr)
    return 0


def _dataset(options: Options) -> Dataset:
    common = {"images": options.images, "skip_problems": options.skip_problems}
    if options.kind == "chair":
        return load_dataset("chair", data=options.data, captions=options.captions, **common)
    if len(options.data) != 1:
        raise CommandError(f"--data must be one file for {options.kind}, got {len(options.data)}")
    drawn = {"sampling": options.sampling} if options.kind == "pope-from-instances" else {}
    return load_dataset(options.kind, data=options.data[0], rule=options.rule, **drawn, **common)


def _answering(options: Options, data: Dataset) -> tuple[Answerer, Mapping[str, Sequence[Method]]]:
    if options.answers is not None:
        return FileAnswerer(options.answers, data.cases), {PLAIN: []}
    if options.images is None:
        raise CommandError("--data needs --images, the folder of its pictures, or --answers")
    names = [name.strip() for name in (options.methods or "var,vhr,act").split(",")]
    if options.model is not None and options.model.suffix != ".gguf":
        known = {name.lower(): method for name, method in registered().items()}
        _check_known(names, known)
        answerer = _read_transformers(str(options.model))
        return answerer, {PLAIN: [], **{name: [known[name]()] for name in names}}
    _check_known(names, SETTINGS)
    loaded = load_chosen(options)
    weights = options.weights or SHIPPED
    ours = VisionLanguageAnswerer(loaded.model, hashlib.sha256(weights.read_bytes()).hexdigest())
    return ours, {PLAIN: [], **{name: loaded.methods(name) for name in names}}


def _check_known(names: Sequence[str], known: Mapping[str, Any]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise CommandError(
            f"--methods must be some of {', '.join(known)}, got {', '.join(unknown)}"
        )


def _read_transformers(model: str) -> TransformersAnswerer:
    hf = demand("transformers")
    try:
        processor = hf.AutoProcessor.from_pretrained(model)
        read = hf.AutoModelForImageTextToText.from_pretrained(model).eval()
        return TransformersAnswerer(read, processor)
    except (OSError, ValueError) as error:
        raise CommandError(f"--model {model} cannot be read: {error}") from error


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)
