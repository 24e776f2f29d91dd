"""The command `reattend report`: a recording as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reattend.plot.page import write_page
from reattend.recording import Recording
from reattend.terminal import CommandError


def add_report(commands: Any) -> None:
    """Add the command to a command line.

    Parameters
    ----------
    commands : subparsers
        Of argparse.
    """
    parser = commands.add_parser(
        "report",
        help="write a recording as one HTML page",
        description="Write what a session recorded (session.recording().save('run.npz')) as one "
        "HTML page that needs no network: attention on the picture for each word, layers by heads, "
        "what each method changed.",
        epilog="example: reattend report run.npz -o run.html",
    )
    parser.add_argument("recording", type=Path, help="the recording, as .npz")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE",
        help="where to write (default: beside the recording, as .html)")  # fmt: skip
    parser.set_defaults(run=_report, parser=parser)


def _report(options: argparse.Namespace) -> int:
    out = options.out or options.recording.with_suffix(".html")
    try:
        write_page(Recording.load(options.recording), out)
    except ValueError as error:
        raise CommandError(str(error)) from error
    print(f"Written: {out}")
    return 0
