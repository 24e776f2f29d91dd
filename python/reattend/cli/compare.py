"""The command `reattend compare`: two runs of `reattend evaluate --data`, pair by pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from reattend.cli.command import Command
from reattend.evaluation.report.scores import compare
from reattend.evaluation.settings import PLAIN
from reattend.terminal import CommandError


@click.command(
    "compare",
    cls=Command,
    examples=(
        "reattend compare before.json after.json",
        "reattend compare before.json after.json --setting var --json",
    ),
    short_help="compare two runs of evaluate --data, pair by pair",
)
@click.argument("first", type=Path)
@click.argument("second", type=Path)
@click.option("--setting", default=PLAIN, help="which setting of both")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(first: Path, second: Path, setting: str, as_json: bool) -> None:
    """Say of every measure how far the second run is above the first on the same cases.

    FIRST and SECOND are what two runs of reattend evaluate --data wrote as NAME.json, on the same
    data. Each difference comes with a 95% interval, and whether that shows a difference.
    """
    runs: list[Any] = []
    for path in (first, second):
        try:
            runs.append(json.loads(path.read_text("utf-8")))
        except ValueError as error:
            raise CommandError(f"{path} cannot be read as JSON: {error}") from error
    try:
        found = compare(runs[0], runs[1], setting)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for measure, each in found.items():
        values = each["difference"]
        shown = "-" if None in values else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*values)
        print(f"{measure}: {shown}, {each['verdict']}")
