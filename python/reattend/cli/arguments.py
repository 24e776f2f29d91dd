"""Kinds of arguments: each reads what the user wrote, or says in a line what it must be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from reattend.plot.figure_file import FORMATS


def at_least(kind: type[Any], least: float) -> Callable[[Any], Any]:
    """Give a reader of numbers that are at least so large.

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

    def number(text: Any) -> Any:
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise click.BadParameter(f"must be {what}, got {text}") from None
        if not least <= value < float("inf"):
            raise click.BadParameter(f"must be at least {least}, got {text}")
        return value

    return number


def share(text: Any) -> float:
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
    value: float = at_least(float, 0)(text)
    if not 0 < value <= 1:
        raise click.BadParameter(f"must be above 0 and at most 1, got {text}")
    return value


def picture_path(text: str | Path) -> Path:
    """Read where a picture is to be written.

    Parameters
    ----------
    text : str or Path
        What the user wrote.

    Examples
    --------
    >>> picture_path("sinks.png").name
    'sinks.png'
    """
    path = Path(text)
    if path.suffix not in FORMATS:
        raise click.BadParameter(f"must end in {', '.join(FORMATS)}, got {text}")
    if not path.parent.is_dir():
        raise click.BadParameter(f"{path.parent} is not a folder")
    return path
