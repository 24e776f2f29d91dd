"""The command `reattend report`: a recording as one HTML page."""

from __future__ import annotations

import json
from pathlib import Path

import click

from reattend.cli.command import Command
from reattend.plot.page import write_page
from reattend.recording import Recording
from reattend.terminal import CommandError


@click.command(
    "report",
    cls=Command,
    examples=("reattend report run.npz", "reattend report run.npz -o run.html"),
    short_help="write a recording as one HTML page",
)
@click.argument("recording", type=Path)
@click.option("-o", "--out", type=Path, metavar="FILE",
    help="where to write (default: beside the recording, as .html)")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="print where it is as JSON")
def command(recording: Path, out: Path | None, as_json: bool) -> None:
    """Write what a session recorded as one HTML page that needs no network.

    RECORDING is what session.recording().save("run.npz") wrote. The page shows attention on the
    picture for each word, layers by heads, and what each method changed.
    """
    written = out or recording.with_suffix(".html")
    try:
        write_page(Recording.load(recording), written)
    except ValueError as error:
        raise CommandError(str(error)) from error
    print(json.dumps({"written": str(written)}) if as_json else f"Written: {written}")
