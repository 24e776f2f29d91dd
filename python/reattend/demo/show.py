"""Shows a picture and answers in a terminal; hallucinated words are marked as they come."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from reattend.evaluation.datasets.emoji_world.sentences import mentioned
from reattend.optional import demand
from reattend.policy import Array

_WORD_OR_NOT = re.compile(r"[A-Za-z]+|[^A-Za-z]+")
_PIPE_WIDTH = 100  # columns, where no terminal says how many: a table is not folded


def make_console() -> Any:
    """Give rich's console for standard output, on which text is printed as it is.

    Returns
    -------
    rich.console.Console
        Colours and styles are those that the terminal has; a pipe gets plain text.

    Examples
    --------
    >>> make_console().print("[1] a 2.0")
    [1] a 2.0
    """
    return demand("rich.console").Console(
        file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH,
        soft_wrap=True, highlight=False, markup=False, emoji=False,
    )  # fmt: skip


def has_colours(console: Any) -> bool:
    """Say whether a console shows colours: a terminal that has them, and no NO_COLOR.

    Parameters
    ----------
    console : rich.console.Console
        Of `make_console`.

    Examples
    --------
    >>> has_colours(make_console())
    False
    """
    return console.color_system is not None and not console.no_color


def has_pictures(console: Any) -> bool:
    """Say whether a console shows pictures: colours, and the half block that they are made of.

    Parameters
    ----------
    console : rich.console.Console
        Of `make_console`.

    Examples
    --------
    >>> has_pictures(make_console())
    False
    """
    return has_colours(console) and console.encoding.startswith("utf")


def half_blocks(pixels: Array) -> Any:
    """Give a picture in half blocks, two pixels a character, for a console to print.

    rich has no pictures, and a package that adds them to it would be one more for these lines.

    Parameters
    ----------
    pixels : uint8 array [h, w, 3]
        A last row without a second one below is left out.

    Returns
    -------
    rich.segment.Segments
        A console brings their colours to those that its terminal has.

    Examples
    --------
    >>> make_console().print(half_blocks(np.full((2, 3, 3), 7, np.uint8)), end="")
    ▀▀▀
    """
    segment, style = demand("rich.segment"), demand("rich.style").Style
    of = demand("rich.color").Color.from_rgb
    found = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=False):
        for up, down in zip(upper, lower, strict=True):
            found.append(segment.Segment("▀", style(color=of(*up), bgcolor=of(*down))))
        found.append(segment.Segment.line())
    return segment.Segments(found)


class Marker:
    """Marks the hallucinated nouns of a text that comes in pieces, as soon as each is complete.

    Parameters
    ----------
    there : collection of int, optional
        The nouns that are not hallucinated; None: nobody knows, and nothing is marked.
    colours : bool
        Whether a word is marked in red, bold and struck through, or by a word behind it.

    Examples
    --------
    >>> from reattend.evaluation.datasets.emoji_world import NOUNS
    >>> marker = Marker([NOUNS.index("cow")], colours=False)
    >>> [str(marker.push(piece)) for piece in ("A cow", ", a b", "us.")], str(marker.flush())
    (['A ', 'cow, a ', 'bus [hallucinated].'], '')
    """

    def __init__(self, there: Collection[int] | None, *, colours: bool) -> None:
        self._there = there
        self._colours = colours
        self._text = demand("rich.text").Text
        self._waiting = ""

    def push(self, piece: str) -> Any:
        """Take a piece and give what can be shown now.

        Parameters
        ----------
        piece : str
            What comes next of the text.

        Returns
        -------
        rich.text.Text

        Examples
        --------
        See the example of the class.
        """
        *ready, last = _WORD_OR_NOT.findall(self._waiting + piece) or [""]
        self._waiting = last if last.isalpha() else ""
        if not self._waiting:
            ready.append(last)
        return self._text.assemble(*map(self._marked, ready))

    def flush(self) -> Any:
        """Give what is left at the end.

        Returns
        -------
        rich.text.Text

        Examples
        --------
        See the example of the class.
        """
        left, self._waiting = self._waiting, ""
        return self._text.assemble(self._marked(left))

    def _marked(self, part: str) -> str | tuple[str, str]:
        if self._there is None or all(noun in self._there for noun in mentioned(part)):
            return part
        return (part, "bold strike red") if self._colours else f"{part} [hallucinated]"


def smaller(pixels: Array, side: int) -> Array:
    """Shrink a square picture by a whole number, each pixel the mean of those it stands for.

    Parameters
    ----------
    pixels : uint8 array [n, n, 3]
        The picture.
    side : int
        At most how many pixels a side shall have.

    Examples
    --------
    >>> smaller(np.full((120, 120, 3), 7, np.uint8), 70).shape
    (60, 60, 3)
    """
    length = len(pixels)
    by = next(n for n in range(1, length + 1) if length % n == 0 and length // n <= side)
    blocks = pixels.reshape(length // by, by, length // by, by, 3)
    means: Array = np.rint(blocks.mean((1, 3)))
    return means.astype(np.uint8)


def listing(words: Iterable[str]) -> str:
    """Write words one after the other.

    Parameters
    ----------
    words : iterable of str
        Any number.

    Examples
    --------
    >>> listing(["cow", "pig", "bus"]), listing([])
    ('cow, pig and bus', 'nothing')
    """
    *others, last = list(words) or ["nothing"]
    return f"{', '.join(others)} and {last}" if others else last


def table(rows: Iterable[tuple[str, ...]]) -> Any:
    """Set rows in columns: the first to the left, the others to the right.

    Parameters
    ----------
    rows : iterable of tuple of str
        All of the same length; the first one is the heading.

    Returns
    -------
    rich.table.Table

    Examples
    --------
    >>> make_console().print(table([("", "plain", "VAR"), ("recall", "90%", "9%")]))
            plain  VAR
    recall    90%   9%
    """
    heading, *others = rows
    found = demand("rich.table").Table(box=None, pad_edge=False, padding=(0, 1))
    for place, name in enumerate(heading):
        found.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in others:
        found.add_row(*row)
    return found
