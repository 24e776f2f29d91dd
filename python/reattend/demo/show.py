"""Shows a picture and answers in a terminal; made-up words are marked as they come."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from reattend.evaluation.datasets.emoji_world.sentences import mentioned
from reattend.policy import Array

PLAIN_TEXT, COLOURS_256, COLOURS_24_BIT = 0, 8, 24
_WORD_OR_NOT = re.compile(r"[A-Za-z]+|[^A-Za-z]+")
_LEVELS = np.array([0, 95, 135, 175, 215, 255])  # of red, green and blue in a palette of 256


class Ink:
    """What a stream can show: escape codes where it understands them, plain text elsewhere.

    Parameters
    ----------
    colours : {PLAIN_TEXT, COLOURS_256, COLOURS_24_BIT}
        What it understands.
    blocks : bool
        Whether it can show half blocks, which pictures are made of.

    Examples
    --------
    >>> Ink(PLAIN_TEXT, blocks=False).made_up("cow")
    'cow [made up]'
    >>> Ink(COLOURS_256, blocks=False).made_up("cow")
    '\\x1b[1;9;31mcow\\x1b[0m'
    """

    def __init__(self, colours: int, *, blocks: bool) -> None:
        self.colours, self.blocks = colours, blocks

    @classmethod
    def of(cls, stream: Any, environment: Mapping[str, str] = os.environ) -> Ink:
        """Find out what a stream can show.

        Parameters
        ----------
        stream : text stream
            Such as ``sys.stdout``.
        environment : mapping, optional
            Where ``NO_COLOR``, ``TERM`` and ``COLORTERM`` are.

        Examples
        --------
        >>> import io
        >>> Ink.of(io.StringIO()).colours
        0
        """
        colours, term = PLAIN_TEXT, environment.get("TERM", "")
        if stream.isatty() and not environment.get("NO_COLOR") and term not in ("", "dumb"):
            true = environment.get("COLORTERM") in ("truecolor", "24bit") or "direct" in term
            colours = COLOURS_24_BIT if true else COLOURS_256
        unicode = (stream.encoding or "").lower().replace("-", "").startswith("utf")
        return cls(colours, blocks=unicode and colours != PLAIN_TEXT)

    def made_up(self, word: str) -> str:
        """Mark a word as made up: red and struck through, or in so many words.

        Parameters
        ----------
        word : str
            The word.

        Examples
        --------
        See the example of the class.
        """
        return self._in("1;9;31", word) if self.colours else f"{word} [made up]"

    def strong(self, text: str) -> str:
        """Show a text in bold, where that can be shown.

        Parameters
        ----------
        text : str
            The text.

        Examples
        --------
        >>> Ink(PLAIN_TEXT, blocks=False).strong("VAR")
        'VAR'
        """
        return self._in("1", text)

    def faint(self, text: str) -> str:
        """Show a text so that others stand out, where that can be shown.

        Parameters
        ----------
        text : str
            The text.

        Examples
        --------
        >>> Ink(COLOURS_256, blocks=False).faint("30 ms a token")
        '\\x1b[2m30 ms a token\\x1b[0m'
        """
        return self._in("2", text)

    def picture(self, pixels: Array) -> str:
        """Show a picture in half blocks, two pixels a character; empty where none can be shown.

        Parameters
        ----------
        pixels : uint8 array [h, w, 3]
            A last row without a second one below is left out.

        Examples
        --------
        >>> Ink(COLOURS_24_BIT, blocks=True).picture(np.full((2, 1, 3), 7, np.uint8))
        '\\x1b[38;2;7;7;7;48;2;7;7;7m▀\\x1b[0m\\n'
        """
        if not self.blocks:
            return ""
        lines = []
        for upper, lower in zip(pixels[::2], pixels[1::2], strict=False):
            cells = (
                f"\033[38;{self._colour(u)};48;{self._colour(d)}m▀"
                for u, d in zip(upper, lower, strict=True)
            )
            lines.append("".join(cells) + "\033[0m\n")
        return "".join(lines)

    def _in(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colours else text

    def _colour(self, pixel: Array) -> str:
        if self.colours == COLOURS_24_BIT:
            return "2;" + ";".join(map(str, pixel.tolist()))
        red, green, blue = np.abs(pixel[:, None].astype(int) - _LEVELS).argmin(-1).tolist()
        return f"5;{16 + 36 * red + 6 * green + blue}"


class Marker:
    """Marks the nouns of a text that comes in pieces, as soon as each is complete.

    Parameters
    ----------
    ink : Ink
        How a word is marked.
    there : collection of int, optional
        The nouns that are not made up; None: nobody knows, and nothing is marked.

    Examples
    --------
    >>> from reattend.evaluation.datasets.emoji_world import NOUNS
    >>> marker = Marker(Ink(PLAIN_TEXT, blocks=False), there=[NOUNS.index("cow")])
    >>> [marker.push(piece) for piece in ("A cow", ", a b", "us.")], marker.flush()
    (['A ', 'cow, a ', 'bus [made up].'], '')
    """

    def __init__(self, ink: Ink, there: Collection[int] | None) -> None:
        self._ink = ink
        self._there = there
        self._waiting = ""

    def push(self, piece: str) -> str:
        """Take a piece and give what can be shown now.

        Parameters
        ----------
        piece : str
            What comes next of the text.

        Examples
        --------
        See the example of the class.
        """
        *ready, last = _WORD_OR_NOT.findall(self._waiting + piece) or [""]
        self._waiting = last if last.isalpha() else ""
        if not self._waiting:
            ready.append(last)
        return "".join(map(self._marked, ready))

    def flush(self) -> str:
        """Give what is left at the end.

        Examples
        --------
        See the example of the class.
        """
        left, self._waiting = self._waiting, ""
        return self._marked(left)

    def _marked(self, part: str) -> str:
        if self._there is None or all(noun in self._there for noun in mentioned(part)):
            return part
        return self._ink.made_up(part)


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


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Set rows in columns: the first to the left, the others to the right.

    Parameters
    ----------
    rows : iterable of tuple of str
        All of the same length.

    Examples
    --------
    >>> print(table([("", "plain", "VAR"), ("recall", "90%", "9%")]))
            plain  VAR
    recall    90%   9%
    """
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in lines
    )
