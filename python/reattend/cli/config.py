"""The command `reattend config`: the compiled core as it runs here."""

from __future__ import annotations

import json

import click

from reattend.border.config import read_config, show_config
from reattend.cli.command import Command


@click.command(
    "config",
    cls=Command,
    examples=("reattend config", "reattend config --json", "REATTEND_MAX_ISA=v3 reattend config"),
    short_help="print versions, instruction set and threads",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(as_json: bool) -> None:
    """Print versions, the instruction set in use and the number of threads."""
    if as_json:
        print(json.dumps(read_config()))
    else:
        show_config()
