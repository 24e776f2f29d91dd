"""``reattend evaluate --data``: a model of one's own, or ours, on files that researchers have."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from reattend.cli.command import Options
from reattend.cli.data import chosen_dataset, read_transformers
from reattend.cli.method_argument import make_chosen, method_help
from reattend.cli.model_options import load_chosen
from reattend.decoding import ICD, M3ID, VCD, Guidance
from reattend.decoding.settings import Setting
from reattend.evaluation.baselines import Brighten
from reattend.evaluation.datasets import Dataset
from reattend.evaluation.datasets.dataset import sha256
from reattend.evaluation.loading import PLAIN, known_methods
from reattend.evaluation.report.score_tables import FORMS, write_scores
from reattend.evaluation.report.scores import score
from reattend.evaluation.runner.answerers import (
    Answerer,
    FileAnswerer,
    RecordedAnswerer,
    VisionLanguageAnswerer,
)
from reattend.evaluation.runner.evaluate import AnswererOf, evaluate
from reattend.evaluation.runner.executors import dask, processes
from reattend.evaluation.runner.progress import Progress
from reattend.evaluation.runner.second_branch import Change
from reattend.json_text import from_json
from reattend.models import SHIPPED_WEIGHTS, VisionLanguage, read_vision_language
from reattend.models.bfloat16 import round_matrices
from reattend.terminal import CommandError
from reattend.whole_file import whole_file

Callback = TypeVar("Callback", bound=Callable[..., Any])
_METHODS = "var,vhr,act,brighten"
_AT_LOGITS: dict[str, Callable[[], Setting]] = {
    "vcd": VCD, "icd": ICD, "m3id": M3ID, "guidance": Guidance
}  # fmt: skip
_ENDINGS = {"markdown": ".md", "latex": ".tex", "html": ".html"}


def answer_options(callback: Callback) -> Callback:
    """Add the options that say what answers, and how scores are written.

    Parameters
    ----------
    callback : callable
        What runs the command.
    """
    add = click.option
    for each in reversed((
        add("--methods", metavar="LIST",
            help="compared with plain attention: some of "
            f"{method_help()}; {', '.join(_AT_LOGITS)}, which mix the logits of two branches; and "
            f"brighten, the baseline that raises image keys in all heads (default: {_METHODS})"),
        add("--set", "parameters", multiple=True, metavar="METHOD.NAME=VALUE",
            help="a parameter of one of the methods, such as var.tau=0.3"),
        add("--dask", metavar="ADDRESS",
            help="answer on a Dask cluster: its scheduler's address or file (without it "
            "--workers answer, on this machine)"),
        add("--answers", type=Path, metavar="FILE", help="score answers that were made elsewhere"),
        add("--form", type=click.Choice([*FORMS]), default="markdown", help="of the table"),
    )):  # fmt: skip
        callback = each(callback)
    return callback


def evaluate_data(options: Options, progress: Progress) -> int:
    """Evaluate on the files that options name, and write NAME.json and a table.

    Parameters
    ----------
    options : Namespace
        Of `data_options` and `answer_options`, and of the command.
    progress : callable
        Called with how many of how many batches are done.

    Raises
    ------
    CommandError
        If files have problems, or methods are not there.
    """
    journal = _beside(options.out, ".jsonl")
    try:
        data = chosen_dataset(options)
        answerer, settings = _answering(options, data)
        with _executor(options) as executor:
            found = evaluate(
                data, answerer, settings, journal, batch=options.batch, executor=executor,
                progress=progress,
            )  # fmt: skip
    except ValueError as error:  # files with problems, a method that does not fit the model
        raise CommandError(str(error)) from error
    except BrokenExecutor as error:
        raise CommandError(
            "a worker process has ended before it had answered, for want of memory perhaps: "
            "the same command goes on from here"
        ) from error
    scores = score(found)
    table = write_scores(scores, options.form)
    written = [_beside(options.out, ".json"), _beside(options.out, _ENDINGS[options.form])]
    text = json.dumps(scores, indent=1) + "\n"
    for path, content in zip(written, (text, table), strict=True):
        with whole_file(path) as new:
            new.write_text(content, "utf-8")
    for problem in data.problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(text if options.json else table, end="")
    files = ", ".join(map(str, (*written, journal)))
    print(f"Written: {files} (the answers)", file=sys.stderr)
    return 0


def _answering(options: Options, data: Dataset) -> tuple[Answerer, Mapping[str, Sequence[Change]]]:
    if options.answers is not None:
        return FileAnswerer(options.answers, data.cases), {PLAIN: []}
    if data.made:
        return RecordedAnswerer(data), {PLAIN: []}
    if any(case.image is None for case in data.cases):
        raise CommandError("--data needs --images, the folder of its pictures, or --answers")
    names = [name.strip() for name in (options.methods or _METHODS).split(",")]
    if options.model is not None and options.model.suffix != ".gguf":
        settings = _with_parameters({name: [_made(name)] for name in names}, options)
        return _spread(options, partial(read_transformers, str(options.model))), settings
    own = {name: _made(name) for name in names if name not in known_methods()}
    read = _read_rounded if options.matrices == "bfloat16" else read_vision_language
    loaded = load_chosen(options, read=read)
    ours: Answerer = _answerer_of(loaded.model, options.weights, options.matrices)
    if _is_spread(options):
        here = partial(_read_ours, options.weights, options.model, options.matrices)
        ours = AnswererOf(here, ours.identity())
    settings = {name: [own[name]] if name in own else loaded.methods(name) for name in names}
    return ours, _with_parameters(settings, options)


def _made(name: str) -> Change:
    if name == "brighten":
        return Brighten()
    return _AT_LOGITS[name]() if name in _AT_LOGITS else make_chosen(name)


def _with_parameters(
    settings: Mapping[str, Sequence[Change]], options: Options
) -> dict[str, Sequence[Change]]:
    """Give plain attention and settings, with the parameters of --set."""
    found: dict[str, Sequence[Change]] = {PLAIN: [], **settings}
    for text in options.parameters:
        name, _, value = text.partition("=")
        method, _, parameter = name.partition(".")
        if not (value and parameter and method in settings):
            raise CommandError(
                f"--set must be METHOD.NAME=VALUE, of one of {', '.join(settings)}, got {text}"
            )
        try:
            given = {parameter: from_json(value)}
            found[method] = [replace(each, **given) for each in found[method]]  # type: ignore[type-var]
        except (TypeError, ValueError) as error:
            raise CommandError(f"--set {text}: {error}") from error
    return found


def _is_spread(options: Options) -> bool:
    return options.dask is not None or options.workers > 1


def _spread(options: Options, read: Callable[[], Answerer]) -> Answerer:
    """Give what is read, or a way to read it in each process."""
    return AnswererOf(read) if _is_spread(options) else read()


def _read_ours(weights: Path | None, language: Path | None, matrices: str) -> Answerer:
    read = _read_rounded if matrices == "bfloat16" else read_vision_language
    return _answerer_of(read(weights, language), weights, matrices)


def _read_rounded(*files_and_progress: Any) -> VisionLanguage:
    model = read_vision_language(*files_and_progress)
    round_matrices(model.llama)
    return model


def _answerer_of(model: VisionLanguage, weights: Path | None, matrices: str) -> Answerer:
    name = sha256(weights or SHIPPED_WEIGHTS)
    return VisionLanguageAnswerer(model, name if matrices == "float32" else f"{name}, {matrices}")


def _executor(options: Options) -> AbstractContextManager[Executor | None]:
    if options.dask is not None:
        return dask(options.dask)
    return processes(options.workers) if options.workers > 1 else nullcontext()


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)
