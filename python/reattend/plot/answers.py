"""Two answers to one prompt, word by word: what a method left out, and what it says instead."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from reattend.optional import demand
from reattend.plot.style import COLOURS, axes

_SIZE, _LINE = 10.0, 1.6  # points, and a line's height in em
_ADVANCE = 0.602  # em, of each letter of DejaVu Sans Mono, which comes with matplotlib
_PUNCTUATION = ".,;:!?\"'()"
_LEFT_OUT, _NEW, _HALLUCINATED = COLOURS[0], COLOURS[1], COLOURS[2]


class _Word(NamedTuple):
    text: str
    changed: bool
    hallucinated: bool


def changed_words(
    before: Sequence[str], after: Sequence[str], *, hallucinated: Collection[str] = (),
    labels: tuple[str, str] = ("plain", "with the method"), title: str = "", ax: Any = None,
) -> Any:  # fmt: skip
    """Draw an answer without and with a method, and mark the words that it changed.

    Words that only the first has are struck through, those that only the second has are
    underlined; hallucinated ones stand in a frame. Which are the same is found
    without punctuation and capitals.

    Parameters
    ----------
    before, after : sequence of str
        The words, or tokens, of the two answers.
    hallucinated : collection of str, optional
        Words that name what is not there, without blanks and punctuation, in lower case.
    labels : tuple of two str, optional
        What the two answers are called.
    title : str, optional
        Above.
    ax : matplotlib.axes.Axes, optional
        Where to draw; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If an answer is one text instead of its words.

    Examples
    --------
    >>> ax = changed_words(["a", "cat", "and", "a", "dog"], ["a", "cat"], hallucinated={"dog"})
    >>> [text.get_text() for text in ax.texts]
    ['plain', 'a', 'cat', 'and', 'a', 'dog', 'with the method', 'a', 'cat']
    """
    for name, words in (("before", before), ("after", after)):
        if isinstance(words, str):
            raise TypeError(f"{name} must be a sequence of words, got one text: use split()")
    first, second = [word.strip() for word in before], [word.strip() for word in after]
    bare = [[word.strip(_PUNCTUATION).lower() or word for word in said] for said in (first, second)]
    same = SequenceMatcher(None, bare[0], bare[1], autojunk=False).get_matching_blocks()
    kept = [{start + i for start, i in _each(same, side)} for side in (0, 1)]
    new = ax is None
    ax = axes(ax, 7.0, 1.0)
    width = ax.figure.get_figwidth() * (1 if new else ax.get_position().width) - 0.4  # inches
    room = max(12, int(width * 72 / (_SIZE * _ADVANCE)))
    lines: list[tuple[str, list[_Word]]] = []
    for label, words, names, common in zip(labels, (first, second), bare, kept, strict=True):
        marked = [
            _Word(word, place not in common, name in hallucinated)
            for place, (word, name) in enumerate(zip(words, names, strict=True))
        ]
        lines += [(label if not i else "", line) for i, line in enumerate(_broken(marked, room))]
    if new:
        rows = len(lines) + len(labels)
        ax.figure.set_figheight(rows * _SIZE * _LINE / 72 + (0.55 if title else 0.3))
    _write(ax, lines, room)
    ax.set_title(title)
    return ax


def _each(blocks: Sequence[Any], side: int) -> Iterator[tuple[int, int]]:
    """Give start and offset of each word that both answers have."""
    for block in blocks:
        yield from ((block[side], i) for i in range(block.size))


def _broken(words: Sequence[_Word], room: int) -> list[list[_Word]]:
    """Break words into lines of so many letters."""
    lines: list[list[_Word]] = [[]]
    used = 0
    for word in words:
        if used and used + len(word.text) > room:
            lines.append([])
            used = 0
        lines[-1].append(word)
        used += len(word.text) + 1
    return lines


def _write(ax: Any, lines: Sequence[tuple[str, Sequence[_Word]]], room: int) -> None:
    """Write the lines, each answer below its label, in letters of one width."""
    rectangle = demand("matplotlib.patches").Rectangle
    rows = len(lines) + sum(bool(label) for label, _ in lines)
    ax.set_axis_off()
    ax.set(xlim=(0, room), ylim=(rows, 0))
    letters = {"family": "DejaVu Sans Mono", "fontsize": _SIZE, "va": "center", "clip_on": True}
    row = 0.5
    for index, (label, words) in enumerate(lines):
        if label:
            ax.text(0, row, label, fontsize=_SIZE, weight="bold", va="center")
            row += 1
        column, struck = 0, not any(name for name, _ in lines[1 : index + 1])
        for word in words:
            end = column + len(word.text)
            colour = (_LEFT_OUT if struck else _NEW) if word.changed else "0.25"
            weight = "bold" if word.changed and not struck else "normal"
            ax.text(column, row, word.text, color=colour, weight=weight, **letters)
            if word.changed:
                height = row if struck else row + 0.36
                ax.plot([column, end], [height, height], color=colour, linewidth=1.1)
            if word.hallucinated:
                corner, width = (column - 0.2, row - 0.42), len(word.text) + 0.4
                frame = {"fill": False, "edgecolor": _HALLUCINATED, "linewidth": 1.3}
                ax.add_patch(rectangle(corner, width, 0.84, **frame))
            column = end + 1
        row += 1
