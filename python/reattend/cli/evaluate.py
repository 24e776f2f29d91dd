"""The command `reattend evaluate`: all settings on many scenes, against plain."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from reattend.border.config import __version__
from reattend.cli.arguments import at_least
from reattend.cli.command import Command, Options, Several
from reattend.cli.data import data_options
from reattend.cli.evaluate_data import answer_options, evaluate_data
from reattend.cli.model_options import load_chosen, model_options
from reattend.evaluation.calibration.strengths import tune
from reattend.evaluation.datasets.easy_vqa import KINDS, read_questions, run_questions, write_table
from reattend.evaluation.datasets.emoji_world.cases import CELLS, Cases
from reattend.evaluation.datasets.emoji_world.world import VERSION
from reattend.evaluation.loading import Loaded, strengths_file
from reattend.evaluation.metrics.counts import estimate, resample
from reattend.evaluation.report.forest import draw_differences
from reattend.evaluation.report.summary import summarise
from reattend.evaluation.report.tables import write_groups, write_tables
from reattend.evaluation.runner.journal import Journal, JournalError, differences
from reattend.evaluation.runner.progress import ProgressBar
from reattend.evaluation.runner.run import Clock, batches, collect, head_agreement, run_settings
from reattend.evaluation.runner.workers import Workers
from reattend.evaluation.settings import PLAIN, SETTINGS, UNSURE, default_strengths
from reattend.models import VisionLanguage, read_vision_language
from reattend.models.bfloat16 import round_matrices
from reattend.models.vision_language import SHIPPED
from reattend.optional import demand
from reattend.terminal import INTERRUPTED, CommandError

_TUNED_ON = 192  # scenes, unless --scenes says so
_EVALUATED = 2000
_SHAPES = 200
_AGREEMENT = 12  # batches in which VHR's heads are compared
_DECIDE_CASES = ("world", "seed", "asked")  # of a run
_TOLD_EVERY = 25  # pieces, where there is no terminal to show a bar


def _settings(text: Any) -> tuple[str, ...]:
    if isinstance(text, tuple):  # the default
        return text
    names = tuple(part.strip() for part in text.split(","))
    if unknown := [name for name in names if name not in SETTINGS]:
        raise click.BadParameter(f"must be some of {', '.join(SETTINGS)}, got {', '.join(unknown)}")
    return names


def _stem(text: str | Path) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise click.BadParameter(f"{path.parent} is not a folder")
    return path.with_suffix("") if path.suffix in (".json", ".jsonl", ".md", ".png") else path


_add = click.option


@click.command(
    "evaluate",
    cls=Command,
    runs_models=True,
    examples=(
        "reattend evaluate --scenes 40 --settings plain,var",
        "reattend evaluate --data coco_pope_random.json --images val2014 --model llava-1.5-7b-hf",
        "reattend evaluate --data instances_val2014.json --captions captions_val2014.json "
        "\\\n    --kind chair --images val2014 --model llava-1.5-7b-hf --methods var,vhr",
        "reattend evaluate --pool seed0.jsonl seed1.jsonl --out pooled",
    ),
    short_help="measure what each method does to made-up words, on many scenes or your own data",
)
@_add(
    "--scenes",
    type=at_least(int, 1),
    metavar="N",
    help=f"how many pictures (default: {_EVALUATED}; with --tune {_TUNED_ON}; of easy-vqa "
    f"{_SHAPES})",
)
@_add(
    "--asked",
    type=at_least(int, 0),
    metavar="N",
    help="how many of them are asked about as well as described (default: a quarter; with "
    "--tune all)",
)
@_add(
    "--pictures",
    type=click.Choice(["scenes", "easy-vqa"]),
    default="scenes",
    help="easy-vqa: shapes that others drew and asked about, 1,000 of them",
)
@_add(
    "--settings",
    type=_settings,
    default=tuple(SETTINGS),
    metavar="LIST",
    show_default="all",
    help=f"some of {', '.join(SETTINGS)}; others can be added to the same run later",
)
@_add(
    "--tune",
    is_flag=True,
    help="choose strengths and ACT's heads on the split tune, and store them for these "
    "weights; what is not among --settings gets the papers' strengths",
)
@_add("--seed", type=at_least(int, 0), default=0, metavar="N", help="other scenes")
@_add("--batch", type=at_least(int, 1), default=16, metavar="N", help="prompts side by side")
@_add(
    "--workers",
    type=at_least(int, 1),
    default=1,
    metavar="N",
    help="processes that answer side by side and share the CPUs, with 2 GB of memory each",
)
@_add(
    "--matrices",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    help="the type in which the language model's layers multiply; bfloat16 needs torch, and is "
    "faster on CPUs with AMX",
)
@_add(
    "--out",
    type=_stem,
    default=Path("evaluation"),
    metavar="NAME",
    help="writes NAME.json, NAME.md, NAME.png and NAME.jsonl, from which it goes on",
)
@click.option(
    "--pool",
    cls=Several,
    type=Path,
    metavar="JOURNAL",
    help="answer nothing: sum up what the journals of several models (NAME.jsonl, also as .gz) "
    "hold so far, of scenes that all of the settings described",
)
@model_options
@data_options
@answer_options
@_add("--json", is_flag=True, help="print the results as JSON")
def command(**chosen: Any) -> int:
    """Measure what each method does to made-up words, on many scenes or on data of your own.

    Every setting describes the same scenes and answers the same questions, at three difficulties,
    with few and many things, with and without other text before the question. Finished batches are
    kept beside the results: the same command goes on where it was stopped.
    """
    return _evaluate(Options(**chosen))


def _evaluate(options: Options) -> int:
    if options.tune and options.pictures != "scenes":
        raise click.UsageError("--tune needs --pictures scenes: strengths are chosen on those")
    strengths = strengths_file(options.weights, options.strengths)
    if _beside(options.out, ".json").resolve() == strengths.resolve() and not options.tune:
        raise click.UsageError(f"--out must not write over the strengths, {strengths}")
    if options.matrices == "bfloat16":
        demand("torch")
    if options.pictures == "easy-vqa":
        demand("easy_vqa")  # say so now, not after the model is read
    try:
        if options.data or options.kind:
            return evaluate_data(options, ProgressBar(options.out.name))
        if options.pool:
            return _pool(options)
        read = _read_rounded if options.matrices == "bfloat16" else read_vision_language
        loaded = load_chosen(options, tuning=options.tune, read=read)
        if options.workers > 1:
            of_worker = partial(read, options.weights, options.model)
            loaded = loaded._replace(workers=Workers(options.workers, of_worker))
        if options.pictures == "easy-vqa":
            return _measure_shapes(options, loaded)
        return _tune(options, loaded) if options.tune else _measure(options, loaded)
    except JournalError as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def _read_rounded(*files_and_progress: Any) -> VisionLanguage:
    model = read_vision_language(*files_and_progress)
    round_matrices(model.llama)
    return model


def _measure(options: Options, loaded: Loaded) -> int:
    count = options.scenes or _EVALUATED
    asked = count // 4 if options.asked is None else min(options.asked, count)
    names = _answering(options)
    cases = Cases("test", options.seed, cells=CELLS, asked=asked)
    todo = batches(count, len(CELLS), options.batch)
    run = {**_run(options, "test", count, asked), **_found(loaded)}
    journal = Journal(_beside(options.out, ".jsonl"), run)
    methods = {name: loaded.methods(name) for name in names}
    run_settings(loaded, methods, cases, todo, journal, _Bar(options.out.name))
    answers = collect(journal, names, cases, todo)
    summary = summarise([(answers, loaded.strengths)])
    agreement = _agreement(loaded, cases, todo) if {"vhr", "vhr-one-pass"} <= {*names} else None
    results = {
        "run": run, "tuned": loaded.tuned, "head_agreement": agreement,
        "methods": {name: [repr(each) for each in some] for name, some in methods.items()},
        "groups": summary,
    }  # fmt: skip
    _store(options, results)
    return 0


def _pool(options: Options) -> int:
    """Sum up the journals of several models."""
    runs: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    parts = []
    for path in options.pool:
        journal = Journal(path)
        run = journal.run
        if "pictures" in run or run.get("split") != "test":
            raise CommandError(f"{path} must be the journal of an evaluation of scenes")
        own = {name: run[name] for name in _DECIDE_CASES}
        first = first or own
        if differs := differences(own, first):
            raise CommandError(f"{path} has other scenes than {options.pool[0]}: {differs}")
        cases = Cases(run["split"], run["seed"], cells=CELLS, asked=run["asked"])
        todo = batches(run["scenes"], len(CELLS), run["batch"])
        begun = {name for name, _ in journal}
        names = [name for name in _answering(options) if name in begun]
        answers = collect(journal, names, cases, todo)
        if not answers.cases:
            raise CommandError(f"{path} holds no scenes yet that {', '.join(names)} all described")
        parts.append((answers, {**default_strengths(), **run["strengths"]}))
        runs.append({**run, "settings": names, "done": len(answers.cases)})
    models = {
        f"{number}: {Path(run['weights']).stem}": summarise([part], only="all")["all"]
        for number, (run, part) in enumerate(zip(runs, parts, strict=True), start=1)
    }
    _store(options, {"runs": runs, "models": models, "groups": summarise(parts)})
    return 0


def _store(options: Options, results: dict[str, Any]) -> None:
    """Write results as JSON, tables and a picture; print the tables of all scenes, or JSON."""
    out, text = options.out, json.dumps(results, indent=1) + "\n"
    _write(_beside(out, ".json"), text)
    summary = results["groups"]
    shown = [name for name in summary if "," not in name]
    tables = [write_tables(summary, name) for name in shown]
    cells = {name: found for name, found in summary.items() if "," in name}
    tables += [write_groups(cells, "kind of scene")] if cells else []
    tables += [write_groups(results["models"], "model")] if "models" in results else []
    _write(_beside(out, ".md"), "\n".join(tables))
    draw_differences(_beside(out, ".png"), summary)
    _tell(options, text, tables[0], f"Written: {out}.json, {out}.md, {out}.png")


def _tell(options: Options, results: str, tables: str, written: str) -> None:
    if options.json:
        print(results, end="")
    else:
        print(tables)
    print(written, file=sys.stderr if options.json else sys.stdout)


def _measure_shapes(options: Options, loaded: Loaded) -> int:
    names = _answering(options)
    questions = read_questions(options.scenes or _SHAPES)
    run = {
        **_run(options, "test", options.scenes or _SHAPES, len(questions)),
        **_found(loaded),
        "pictures": "easy-vqa",
    }
    journal = Journal(_beside(options.out, ".jsonl"), run)
    methods = {name: loaded.methods(name) for name in names}
    summary = run_questions(
        loaded, methods, questions, options.batch, journal, _Bar(options.out.name)
    )
    results = {"run": run, "tuned": loaded.tuned, "kinds": summary}
    text = json.dumps(results, indent=1) + "\n"
    _write(_beside(options.out, ".json"), text)
    tables = "\n\n".join(write_table(summary, kind) for kind in KINDS) + "\n"
    _write(_beside(options.out, ".md"), tables)
    _tell(options, text, tables, f"Written: {options.out}.json, {options.out}.md")
    return 0


def _answering(options: Options) -> list[str]:
    """Give the settings that answer themselves: what leaves out unsure words follows from plain."""
    return [name for name in SETTINGS if name in {*options.settings, PLAIN} - {UNSURE}]


def _agreement(loaded: Loaded, cases: Cases, todo: Sequence[range]) -> dict[str, Any]:
    """Say how far the one-pass shortcut chooses VHR's heads: share, and share by chance."""
    found = np.concatenate(
        [
            head_agreement(loaded, [cases.draw(number) for number in numbers])
            for numbers in todo[:_AGREEMENT]
        ]
    )
    both, first, chance = found.T
    weights = resample(len(found))
    return {
        "scenes": len(found),
        "share": [round(number, 4) for number in estimate(both, first, weights)],
        "by_chance": [round(number, 4) for number in estimate(chance, first, weights)],
    }


def _tune(options: Options, loaded: Loaded) -> int:
    count = options.scenes or _TUNED_ON
    cases = Cases("tune", options.seed, cells=CELLS, asked=count)
    todo = batches(count, len(CELLS), options.batch)
    run = {**_run(options, "tune", count, count), "sink_dims": loaded.sink_dims,
           "tried": {name: each.tried for name, each in SETTINGS.items()}}  # fmt: skip
    journal = Journal(_beside(options.out, ".tune.jsonl"), run)
    bars: dict[str, _Bar] = {}

    def progress(what: str, done: int, whole: int) -> None:
        bars.setdefault(what, _Bar(what))(done, whole)

    tuned = tune(loaded, cases, todo, journal, progress, options.settings)
    strengths = {**default_strengths(), **tuned}
    stored = strengths_file(options.weights, options.strengths)
    _write(stored, json.dumps({"strengths": strengths, "run": run}, indent=1) + "\n")
    for name, values in strengths.items():
        print(f"{SETTINGS[name].label}: {values}")
    print(f"Stored: {stored}")
    return 0


def _run(options: Options, split: str, scenes: int, asked: int) -> dict[str, Any]:
    """Say what decides the answers: a journal is of one run only."""
    weights = options.weights or SHIPPED
    return {
        "reattend": __version__,
        "world": VERSION,
        "weights": weights.name,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "split": split,
        "seed": options.seed,
        "scenes": scenes,
        "asked": asked,
        "batch": options.batch,
        # Journals from before there was a choice do not name the type.
        **({} if options.matrices == "float32" else {"matrices": options.matrices}),
    }


def _found(loaded: Loaded) -> dict[str, Any]:
    """Say what was found for these weights: of all settings, so that any can be added later."""
    return {"strengths": loaded.strengths, "sink_dims": loaded.sink_dims}


class _Bar:
    """Shows how far a run is: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._clock = Clock()
        self._bar: Any = None
        self._told = 0

    def __call__(self, done: int, whole: int) -> None:
        left = self._clock.left(done, whole)  # it counts from the first piece that it hears of
        if sys.stderr.isatty():
            if self._bar is None:
                console = demand("rich.console").Console(stderr=True)
                self._bar = demand("rich.progress").Progress(console=console)
                self._bar.add_task(self._name, total=whole)
                self._bar.start()
            self._bar.update(0, completed=done)
            if done == whole:
                self._bar.stop()
        elif done == whole or done >= self._told + _TOLD_EVERY:
            self._told = done
            print(f"{self._name}: {done} of {whole}, {left} left", file=sys.stderr, flush=True)


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)
