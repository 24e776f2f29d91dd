"""The command `reattend calibrate`: the heads or the strength at which a method helps a model."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from reattend.cli.arguments import at_least, share
from reattend.cli.command import Options, Several
from reattend.cli.data import chosen_dataset, data_options, read_transformers
from reattend.cli.model_options import model_options
from reattend.cli.resumable import ResumableCommand
from reattend.evaluation.calibration import (
    AnswerDescriptions,
    AnswerScores,
    HeadScores,
    Profile,
    ProfileError,
    find_sink_dims,
    fingerprint,
    head_candidates,
    hold_out,
    question_scores,
    search_heads,
    search_profile,
    tune,
    tuning_profile,
)
from reattend.evaluation.calibration.search import STRATEGIES
from reattend.evaluation.calibration.significance import RULES
from reattend.evaluation.calibration.tuning import SEARCHES
from reattend.evaluation.datasets import DataError, Dataset, load_dataset
from reattend.evaluation.datasets.emoji_world import Cell
from reattend.evaluation.metrics.counts import Estimate
from reattend.evaluation.runner.answerers import TransformersAnswerer, VisionLanguageAnswerer
from reattend.evaluation.runner.journal import JournalError
from reattend.evaluation.runner.progress import ProgressBar
from reattend.json_text import from_json
from reattend.method import Method, registered
from reattend.models import read_vision_language
from reattend.terminal import CommandError

_SCENES = 80
_CELLS = (Cell("dim"), Cell("dim", long=True))  # prompts are short, and much is hallucinated
_METHODS = {name.lower(): method for name, method in registered().items()}
_WITH_HEADS = tuple(
    name
    for name, method in _METHODS.items()
    if "heads" in {each.name for each in dataclasses.fields(method)}  # type: ignore[arg-type]
)
_add = click.option

Answerer = TransformersAnswerer | VisionLanguageAnswerer


@click.command(
    "calibrate",
    cls=ResumableCommand,
    runs_models=True,
    examples=(
        "reattend calibrate --out act",
        "reattend calibrate --data coco_pope_popular.json --images val2014 "
        "\\\n    --model llava-1.5-7b-hf --method act --choose holm --out llava",
        "reattend calibrate --kind emoji-world --method vhr --tune alpha=1.1,1.25,1.5,2",
    ),
    short_help="search the heads, or tune the strength, at which a method helps a model",
)
@_add(
    "--method",
    type=click.Choice([*_METHODS]),
    default="act",
    help=f"what is calibrated; heads are searched for {', '.join(_WITH_HEADS)}",
)
@_add(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="a parameter of the method that is not its default",
)
@_add(
    "--tune",
    "grid",
    cls=Several,
    metavar="NAME=VALUES",
    help="tune this parameter over values with commas between them, instead of searching heads",
)
@_add("--strategy", type=click.Choice([*STRATEGIES]), default="single", help="of the search")
@_add(
    "--choose",
    type=click.Choice([*RULES]),
    default="above",
    help="which gains of heads count: any above 0, or those beyond chance",
)
@_add("--level", type=share, default=0.05, metavar="P", help="of holm and bootstrap")
@_add("--most", type=at_least(int, 1), metavar="N", help="heads that forward adds at most")
@_add(
    "--score",
    metavar="MEASURE",
    help="what a head must raise: a measure of the data (default: the log-probability of the right "
    "one of yes and no)",
)
@_add(
    "--search",
    type=click.Choice([*SEARCHES]),
    default="grid",
    help="of --tune; halving tries all on a part, and the best on more",
)
@_add(
    "--held-out",
    type=share,
    default=0.8,
    metavar="SHARE",
    help="of the pictures, on which heads that were found are confirmed",
)
@_add("--scenes", type=at_least(int, 2), metavar="N", help=f"to be drawn (default: {_SCENES})")
@_add("--seed", type=at_least(int, 0), default=0, metavar="N", help="of what is held out")
@_add("--batch", type=at_least(int, 1), default=16, metavar="N", help="prompts in a batch")
@_add(
    "--out",
    type=Path,
    default=Path("profile"),
    metavar="NAME",
    help="writes NAME.json, its arrays, and NAME.METHOD.heads.jsonl or .tune.jsonl, from which it "
    "goes on; a profile of this model that is there is added to",
)
@model_options
@data_options
@_add("--json", is_flag=True, help="print the profile as JSON")
def command(**chosen: Any) -> int:
    """Search the heads in which a method helps a model, or tune its strength, and keep a profile.

    The search is ACT's: each head alone, those that help are kept, and pictures that were held out
    say what they are worth. Strengths are compared by hallucinated words at equal recall. Every
    score is kept beside the profile: the same command goes on where it was stopped. In Python:
    ACT.from_profile("NAME.json").
    """
    return _calibrate(Options(**chosen))


def _calibrate(options: Options) -> int:
    method = _METHODS[options.method]
    settings = dict(map(_setting, options.settings))
    grid = {name: tuple(map(_value, text.split(","))) for name, text in map(_pair, options.grid)}
    _check_parameters(method, {**settings, **grid})
    if options.profile is not None:
        raise click.UsageError("--profile is for what is measured: --out names what is written")
    if not grid and options.method not in _WITH_HEADS:
        raise click.UsageError(f"--method {options.method} has no heads to search: give --tune")
    out = options.out.with_suffix("") if options.out.suffix == ".json" else options.out
    path = out.with_name(f"{out.name}.json")
    if not out.parent.is_dir():
        raise click.UsageError(f"--out: {out.parent} is not a folder")
    try:
        data = _data(options, described=bool(grid))
        before = Profile.load(path) if path.exists() else None
        answerer = _answerer(options)
        model = fingerprint(answerer.model)
        if before is not None:
            before.check(model)
        known = {} if before is None else dict(before.methods.get(method.__name__, {}))
        if grid:
            settings = {**known, **settings}
            found = _tuned(options, data, answerer, method, settings, grid, out)
        else:
            found = _searched(options, data, answerer, method, settings, out)
    except (DataError, ProfileError) as error:
        raise CommandError(str(error)) from error
    profile = found if before is None else before.joined(found)
    profile.save(path)
    print(path.read_text("utf-8") if options.json else _shown(profile, method.__name__), end="")
    journal = _journal(out, options, "tune" if grid else "heads")
    print(f"Written: {path}, {journal} (the scores)", file=sys.stderr)
    return 0


def _searched(
    options: Options, data: Dataset, answerer: Answerer, method: type[Method],
    settings: Mapping[str, Any], out: Path,
) -> Profile:  # fmt: skip
    def switch(heads: Any) -> Method:
        return method(**{**settings, "heads": heads})

    try:
        parts = hold_out(data, options.held_out, seed=options.seed)
        scores = [_scores(options, part, answerer, switch) for part in parts]
    except ValueError as error:
        raise CommandError(str(error)) from error
    model = fingerprint(answerer.model)
    found = search_heads(
        scores[0], head_candidates(model["num_layers"], model["num_heads"]),
        strategy=options.strategy, rule=options.choose, level=options.level, most=options.most,
        confirm=scores[1], journal=_journal(out, options), seed=options.seed,
        progress=ProgressBar(options.method),
    )  # fmt: skip
    told = {
        "searched": parts[0].identity(), "held_out": parts[1].identity(),
        "strategy": options.strategy, "rule": options.choose, "level": options.level,
    }  # fmt: skip
    return search_profile(
        found, switch(()), model, data={method.__name__: told},
        sink_dims=find_sink_dims(answerer.hidden_states(data.cases[0])),
    )  # fmt: skip


def _scores(options: Options, data: Dataset, answerer: Answerer, switch: Any) -> HeadScores:
    if options.score is not None:
        return AnswerScores(data, answerer, switch, score=options.score, batch=options.batch)
    if isinstance(answerer, VisionLanguageAnswerer) and not switch({}).needs_text_only:
        return question_scores(data, answerer, switch, batch=options.batch)
    return AnswerScores(data, answerer, switch, batch=options.batch)


def _tuned(
    options: Options, data: Dataset, answerer: Answerer, method: type[Method],
    settings: Mapping[str, Any], grid: Mapping[str, Any], out: Path,
) -> Profile:  # fmt: skip
    def build(parameters: Mapping[str, Any]) -> Method:
        return method(**{**settings, **parameters})

    try:
        describe = AnswerDescriptions(data, answerer, build, batch=options.batch)
        found = tune(
            describe, grid, len(data.cases), search=options.search, seed=options.seed,
            journal=_journal(out, options, "tune"), progress=ProgressBar(options.method),
        )  # fmt: skip
    except (JournalError, DataError):
        raise
    except ValueError as error:
        raise CommandError(str(error)) from error
    return tuning_profile(
        found, build({}), answerer.model,
        data={method.__name__: {"tuned": data.identity(), "search": options.search}},
        sink_dims=find_sink_dims(answerer.hidden_states(data.cases[0])),
    )  # fmt: skip


def _data(options: Options, *, described: bool) -> Dataset:
    if options.data or options.kind:
        return chosen_dataset(options)
    count = options.scenes or _SCENES
    kind = "emoji-world" if described else "emoji-world-questions"
    return load_dataset(kind, scenes=count, split="tune", cells=_CELLS)


def _answerer(options: Options) -> Answerer:
    if options.model is not None and options.model.suffix != ".gguf":
        return read_transformers(str(options.model))
    return VisionLanguageAnswerer(read_vision_language(options.weights, options.model))


def _journal(out: Path, options: Options, what: str = "heads") -> Path:
    return out.with_name(f"{out.name}.{options.method}.{what}.jsonl")


def _check_parameters(method: type[Method], given: Mapping[str, Any]) -> None:
    known = {each.name for each in dataclasses.fields(method)}  # type: ignore[arg-type]
    if unknown := sorted(given.keys() - known):
        raise click.UsageError(
            f"parameters of {method.__name__} are {', '.join(sorted(known))}, got "
            f"{', '.join(unknown)}"
        )
    try:
        method(
            **{name: each[0] if isinstance(each, tuple) else each for name, each in given.items()}
        )
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise click.UsageError(f"must be like NAME=VALUE, got {text}")
    return name, value


def _setting(text: str) -> tuple[str, Any]:
    name, value = _pair(text)
    return name, _value(value)


def _value(text: str) -> Any:
    """Read a parameter as JSON writes it; what is none is a text."""
    try:
        return from_json(text)
    except ValueError:
        return text


def _shown(profile: Profile, name: str) -> str:
    """Say in lines what was found."""
    scores, parameters = profile.scores[name], dict(profile.methods[name])
    lines = [f"{name}, {profile.model['architecture']}"]
    if (searched := scores.get("searched")) is not None:
        heads = parameters.pop("heads")
        count = sum(map(len, heads.values()))
        lines.append(f"{count} of {searched['candidates']} heads: " + "; ".join(
            f"{layer}: {', '.join(map(str, some))}" for layer, some in heads.items() if some
        ))  # fmt: skip
        lines.append(f"score where they were searched: {_interval(searched['gain'])}")
        held = scores["held_out"]
        lines.append(f"score held out: {_interval(held['gain'])}: {held['verdict']}")
    if (tuned := scores.get("tuned")) is not None:
        for trial in tuned["trials"][1:]:
            values = ", ".join(f"{key}={value}" for key, value in trial["parameters"].items())
            lines.append(
                f"{values}: hallucinated {_interval(trial['excess'])} at equal recall "
                f"({trial['samples']} pictures{', finds less' if trial['out'] else ''})"
            )
        best = tuned["best"] and ", ".join(f"{key}={each}" for key, each in tuned["best"].items())
        lines.append(f"best: {best or 'none'}: {tuned['verdict']}")
    lines.append(f"sink dimensions: {', '.join(map(str, profile.sink_dims or ())) or 'none'}")
    return "\n".join(lines) + "\n"


def _interval(numbers: Sequence[float | None]) -> str:
    return Estimate(*(np.nan if each is None else each for each in numbers)).written("+.4f")
