"""The command `reattend evaluate`: methods against plain attention, on drawn scenes or own data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reattend.cli.arguments import at_least
from reattend.cli.command import Options
from reattend.cli.data import data_options
from reattend.cli.evaluate_data import answer_options, evaluate_data
from reattend.cli.model_options import model_options
from reattend.cli.resumable import ResumableCommand
from reattend.evaluation.loading import profile_file
from reattend.evaluation.runner.progress import ProgressBar
from reattend.optional import demand


def _stem(text: str | Path) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise click.BadParameter(f"{path.parent} is not a folder")
    return path.with_suffix("") if path.suffix in (".json", ".jsonl", ".md") else path


_add = click.option


@click.command(
    "evaluate",
    cls=ResumableCommand,
    runs_models=True,
    examples=(
        "reattend evaluate --scenes 40 --methods var,brighten",
        "reattend evaluate --data coco_pope_random.json --images val2014 --model llava-1.5-7b-hf",
        "reattend evaluate --data instances_val2014.json --captions captions_val2014.json "
        "\\\n    --kind chair --images val2014 --model llava-1.5-7b-hf --methods var,vhr",
        "reattend evaluate --kind emoji-world-questions --sampling popular --workers 2",
    ),
    short_help="measure what each method does to hallucinated objects, on scenes or your own data",
)
@_add(
    "--scenes",
    type=at_least(int, 1),
    metavar="N",
    help="how many pictures of a data set that is drawn (default: 200)",
)
@_add("--batch", type=at_least(int, 1), default=16, metavar="N", help="prompts in a batch")
@_add(
    "--workers",
    type=at_least(int, 1),
    default=1,
    metavar="N",
    help="worker processes, which share the CPUs; each takes 2 GB of memory",
)
@_add(
    "--matrices",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    help="the type in which the layers of the package's own model multiply; bfloat16 needs torch, "
    "and is faster on CPUs with AMX",
)
@_add(
    "--out",
    type=_stem,
    default=Path("evaluation"),
    metavar="NAME",
    help="writes NAME.json, NAME.md and NAME.jsonl, from which it goes on",
)
@model_options
@data_options
@answer_options
@_add("--json", is_flag=True, help="print the results as JSON")
def command(**chosen: Any) -> int:
    """Measure what each method does to hallucinated objects, on drawn scenes or data of your own.

    Every setting describes the same pictures, or answers the same questions. Finished batches are
    kept beside the results: the same command goes on where it was stopped.
    """
    options = Options(**chosen)
    profile = profile_file(options.weights, options.profile)
    if options.out.with_name(f"{options.out.name}.json").resolve() == profile.resolve():
        raise click.UsageError(f"--out must not write over the profile, {profile}")
    if options.matrices == "bfloat16":
        demand("torch")
    if not (options.data or options.kind):
        options.kind = "emoji-world"
    return evaluate_data(options, ProgressBar(options.out.name))
