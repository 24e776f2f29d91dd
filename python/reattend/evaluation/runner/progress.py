"""How far a run is: rate, time left and what was found, on a terminal, a page or in lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from reattend.optional import demand

_LINE_EVERY, _SHOWN_EVERY = 10.0, 1.0  # seconds: lines; what was found, on a bar


class Progress(Protocol):
    """Is told how far a run is."""

    def __call__(self, done: int, whole: int, so_far: Callable[[], str] = ..., /) -> None:
        """Take pieces done, of how many, and a function that says what was found so far."""


def silent(done: int, whole: int, so_far: Callable[[], str] = str, /) -> None:
    """Show nothing.

    Examples
    --------
    >>> silent(1, 2)
    """


class ProgressBar:
    """A bar on a terminal and in a notebook (tqdm's); elsewhere a line now and then.

    Parameters
    ----------
    name : str
        What is being done.
    file : text stream, optional
        Where to; standard error by default.
    every : float, optional
        Seconds between two lines where there is no terminal; the last one always comes.
    now : callable, optional
        Gives seconds.

    Examples
    --------
    >>> seconds = iter([0.0, 2.0, 4.0])
    >>> bar = ProgressBar("heads", file=sys.stdout, every=0, now=lambda: next(seconds))
    >>> bar(3, 10, lambda: "best 2.0")
    heads: 3 of 10
    >>> bar(5, 10, lambda: "best 2.1")
    heads: 5 of 10, 1.0/s, 0:05 left; best 2.1
    """

    def __init__(
        self,
        name: str,
        *,
        file: TextIO | None = None,
        every: float = _LINE_EVERY,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._file, self._every, self._now = name, file, every, now
        self._bar: Any = None
        self._start = now()
        self._told = -float("inf")
        self._first: int | None = None  # done by an earlier run, at no cost of ours

    def __call__(self, done: int, whole: int, so_far: Callable[[], str] = str, /) -> None:
        """Show it."""
        now, file = self._now(), self._file or sys.stderr
        new = self._first is None
        if self._first is None:
            # The first piece may be one that a journal had: the rate counts from here.
            self._first, self._start = done, now
        if file.isatty() or _in_notebook():
            self._show(done, whole, so_far, now, file)
        elif new or done >= whole or now - self._told >= self._every:
            self._told = now
            print(self._line(done, whole, so_far, now), file=file, flush=True)

    def _line(self, done: int, whole: int, so_far: Callable[[], str], now: float) -> str:
        text = f"{self._name}: {done} of {whole}"
        count = done - (self._first or 0)
        if count > 0 and now > self._start:
            rate = count / (now - self._start)
            per = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
            text += f", {per}, {duration((whole - done) / rate)} left"
            if found := so_far():
                text += f"; {found}"
        return text

    def _show(
        self, done: int, whole: int, so_far: Callable[[], str], now: float, file: TextIO
    ) -> None:
        if self._bar is None:
            self._bar = demand("tqdm.auto").tqdm(
                desc=self._name, total=whole, initial=done, file=file, dynamic_ncols=True
            )
        self._bar.total = whole
        self._bar.update(done - self._bar.n)
        if now - self._told >= _SHOWN_EVERY or done >= whole:
            self._told = now
            self._bar.set_postfix_str(so_far())
        if done >= whole:
            self._bar.close()
            self._bar = None


def duration(seconds: float) -> str:
    """Write a time as minutes and seconds, with hours where there are any.

    Parameters
    ----------
    seconds : float
        At least 0.

    Examples
    --------
    >>> duration(75), duration(3700)
    ('1:15', '1:01:40')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"
