"""The command `reattend compare`: two runs of `reattend evaluate --data`, pair by pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from reattend.cli.command import Command
from reattend.evaluation.loading import PLAIN
from reattend.evaluation.report.comparison import compare
from reattend.evaluation.report.score_tables import FORMS, write_comparison
from reattend.json_text import from_json
from reattend.terminal import CommandError


@click.command(
    "compare",
    cls=Command,
    examples=(
        "reattend compare before.json after.json",
        "reattend compare before.json after.json --setting var --json",
        "reattend compare run.json run.json --setting plain --second-setting var",
    ),
    short_help="compare two runs of evaluate --data, pair by pair",
)
@click.argument("first", type=Path)
@click.argument("second", type=Path)
@click.option("--setting", default=PLAIN, help="which setting of both")
@click.option("--second-setting", metavar="NAME", help="which of the second, if another")
@click.option("--form", type=click.Choice(FORMS), default="markdown", help="of the table")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(
    first: Path, second: Path, setting: str, second_setting: str | None, form: str, as_json: bool
) -> None:
    """Say of every measure how far the second run is above the first on the same cases.

    FIRST and SECOND are what two runs of reattend evaluate --data wrote as NAME.json, on the same
    data. Each difference comes with a 95% interval, the p value of a paired permutation test, and
    whether it shows a difference; hallucinated words also at matched recall and length, and all of
    it beside two trivial baselines, where a run holds them: image keys raised in all heads
    (evaluate --methods ...,brighten) and plain's words below a probability left out.
    """
    runs: list[Any] = []
    for path in (first, second):
        try:
            runs.append(from_json(path.read_text("utf-8")))
        except ValueError as error:
            raise CommandError(f"{path} cannot be read as JSON: {error}") from error
    try:
        found = compare(runs[0], runs[1], setting, second_setting)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if as_json:
        print(json.dumps(found, indent=1))
        return
    print(write_comparison(found, form), end="")
