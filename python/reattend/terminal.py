"""What commands share: errors for the user, kinds of arguments, and progress on a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from reattend.optional import demand
from reattend.plot.sink_rates import FORMATS

INTERRUPTED, PIPE_CLOSED = 130, 141  # 128 + the signal's number, as a shell says it
CLEAR_LINE = "\r\033[K"

Item = TypeVar("Item")


class CommandError(Exception):
    """What was asked for cannot be done, in one sentence for the user."""


def at_least(kind: type[Any], least: float) -> Callable[[str], Any]:
    """Give a reader of numbers that are at least so large, for argparse.

    Parameters
    ----------
    kind : type
        int or float.
    least : float
        The smallest that is taken.

    Examples
    --------
    >>> at_least(int, 1)("12")
    12
    """

    def number(text: str) -> Any:
        value = kind(text)
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return value

    number.__name__ = "number"  # argparse says: invalid number value
    return number


def share(text: str) -> float:
    """Read a number above 0 and at most 1.

    Parameters
    ----------
    text : str
        What the user wrote.

    Examples
    --------
    >>> share("0.9")
    0.9
    """
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return value


def picture_path(text: str) -> Path:
    """Read where a picture is to be written.

    Parameters
    ----------
    text : str
        What the user wrote.

    Examples
    --------
    >>> picture_path("sinks.png").name
    'sinks.png'
    """
    path = Path(text)
    if path.suffix not in FORMATS:
        raise argparse.ArgumentTypeError(f"must end in {', '.join(FORMATS)}, got {text}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is not a folder")
    return path


def progress(
    items: Iterable[Item], description: str, *, quiet: bool = False, **options: Any
) -> Iterable[Item]:
    """Show on standard error how far a loop is, if that is a terminal; else loop silently.

    Parameters
    ----------
    items : iterable
        What is looped over.
    description : str
        What is being done.
    quiet : bool, optional
        Whether to show nothing.
    options
        As for tqdm.

    Examples
    --------
    >>> list(progress([1, 2], "Counting", quiet=True))
    [1, 2]
    """
    if quiet or not sys.stderr.isatty():
        return items
    bar: Iterable[Item] = demand("tqdm").tqdm(
        items, desc=description, leave=False, file=sys.stderr, **options
    )
    return bar
