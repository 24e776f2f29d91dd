"""What commands and long runs say: errors for the user, and progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from reattend.optional import demand

INTERRUPTED, PIPE_CLOSED = 130, 141  # 128 + the signal's number, as a shell says it

Item = TypeVar("Item")


class CommandError(Exception):
    """What was asked for cannot be done, in one sentence for the user."""


def progress(items: Iterable[Item], description: str, *, quiet: bool = False) -> Iterable[Item]:
    """Show on standard error how far a loop is, if that is a terminal; else loop silently.

    Parameters
    ----------
    items : iterable
        What is looped over.
    description : str
        What is being done.
    quiet : bool, optional
        Whether to show nothing.

    Examples
    --------
    >>> list(progress([1, 2], "Counting", quiet=True))
    [1, 2]
    """
    if quiet or not sys.stderr.isatty():
        return items
    console = demand("rich.console").Console(stderr=True)
    tracked: Iterable[Item] = demand("rich.progress").track(
        items, description, console=console, transient=True
    )
    return tracked
