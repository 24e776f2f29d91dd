"""Answers to one prompt, word by word: what a method left out, and what it says instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache
from typing import Any, NamedTuple

from reattend.optional import demand
from reattend.plot.style import COLOURS, axes

_SIZE, _LINE = 10.0, 1.6  # points, and a line's height in em
_FONT = "DejaVu Sans Mono"  # comes with matplotlib
_ADVANCE = 0.602  # em, of each of its letters
_PUNCTUATION = ".,;:!?\"'()"
_LEAST = 24  # letters of an answer in a line
_LEFT_OUT, _NEW = "left out", "new"
_COLOUR = {"": "0.25", _LEFT_OUT: COLOURS[0], _NEW: COLOURS[1]}
_HALLUCINATED = COLOURS[2]


class _Word(NamedTuple):
    text: str
    change: str = ""  # _LEFT_OUT, _NEW
    hallucinated: bool = False
    note: bool = False


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
    first, second = _words("before", before), _words("after", after)
    kept = _same(first, second)
    rows = [
        (label, _marked(words, common, change, hallucinated))
        for label, words, common, change in zip(
            labels, (first, second), kept, (_LEFT_OUT, _NEW), strict=True
        )
    ]
    return _draw(rows, title, ax)


def answers_by_setting(
    answers: Mapping[str, Sequence[str]], *, notes: Mapping[str, str] | None = None,
    hallucinated: Collection[str] = (), title: str = "", ax: Any = None,
) -> Any:  # fmt: skip
    """Draw what several settings answer, one below the other.

    Words that the first does not have are underlined; hallucinated ones stand in a frame.

    Parameters
    ----------
    answers : mapping from str to sequence of str
        The words, or tokens, of each setting's answer; the first is what the others are compared
        with, such as plain attention.
    notes : mapping from str to str, optional
        What else there is to say of a setting, after its answer.
    hallucinated : collection of str, optional
        Words that name what is not there, without blanks and punctuation, in lower case.
    title : str, optional
        Above.
    ax : matplotlib.axes.Axes, optional
        Where to draw; new ones by default. What is written has a fixed size: these axes must be
        0.22 inches high for each line, of which there are ``ax.get_ylim()[0]``.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If an answer is one text instead of its words.
    ValueError
        If there is no answer, or a note of none.

    Examples
    --------
    >>> ax = answers_by_setting({"plain": ["a", "cat"], "VAR": ["a", "dog"]},
    ...                         notes={"VAR": "(1 sink)"}, hallucinated={"cat"})
    >>> [text.get_text() for text in ax.texts]
    ['plain', 'a', 'cat', 'VAR', 'a', 'dog', '(1', 'sink)']
    """
    if not answers:
        raise ValueError("answers must have at least one setting, got none")
    if unknown := set(notes or {}) - set(answers):
        raise ValueError(f"notes must be of settings in answers, got {', '.join(sorted(unknown))}")
    said = {label: _words(f"answers[{label!r}]", each) for label, each in answers.items()}
    first, *_ = said.values()
    rows = []
    for label, words in said.items():
        row = _marked(words, _same(first, words)[1], _NEW, hallucinated)
        note = (notes or {}).get(label, "").split()
        rows.append((label, row + [_Word(word, note=True) for word in note]))
    return _draw(rows, title, ax)


def _words(name: str, words: Sequence[str]) -> list[str]:
    if isinstance(words, str):
        raise TypeError(f"{name} must be a sequence of words, got one text: use split()")
    return [word.strip() for word in words]


def _bare(words: Sequence[str]) -> list[str]:
    return [word.strip(_PUNCTUATION).lower() or word for word in words]


def _same(first: Sequence[str], second: Sequence[str]) -> tuple[set[int], set[int]]:
    """Give the places of the words that two answers share, in each of them."""
    blocks = SequenceMatcher(None, _bare(first), _bare(second), autojunk=False)
    places: tuple[set[int], set[int]] = (set(), set())
    for block in blocks.get_matching_blocks():
        for side in (0, 1):
            places[side].update(range(block[side], block[side] + block.size))
    return places


def _marked(
    words: Sequence[str], common: Collection[int], change: str, hallucinated: Collection[str]
) -> list[_Word]:
    return [
        _Word(word, "" if place in common else change, name in hallucinated)
        for place, (word, name) in enumerate(zip(words, _bare(words), strict=True))
    ]


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


def _draw(rows: Sequence[tuple[str, Sequence[_Word]]], title: str, ax: Any) -> Any:
    """Write answers in letters of one width, each beside its label."""
    new = ax is None
    ax = axes(ax, 7.0, 1.0)
    ax.set_axis_off()
    ax.set_title(title)
    ax.figure.figure.draw_without_rendering()  # a layout may widen the axes
    room = int(ax.get_window_extent().width / ax.figure.dpi * 72 / (_SIZE * _ADVANCE))
    indent = max(len(label) for label, _ in rows) + 2
    room = max(room, indent + _LEAST)
    lines = [
        (label if not i else "", line)
        for label, words in rows
        for i, line in enumerate(_broken(words, room - indent))
    ]
    if new:
        height = len(lines) * _SIZE * _LINE / 72
        ax.figure.set_figheight(height + (0.55 if title else 0.2))
    ax.set(xlim=(0, room), ylim=(len(lines), 0))
    for row, (label, words) in enumerate(lines):
        if label:
            _write(ax, 0, row + 0.5, label, color="black", weight="bold")
        column = indent
        for word in words:
            _write_word(ax, column, row + 0.5, word)
            column += len(word.text) + 1
    return ax


@cache
def _letters() -> frozenset[int]:
    """Give what the font has."""
    fonts = demand("matplotlib.font_manager")
    return frozenset(fonts.get_font(fonts.findfont(_FONT)).get_charmap())


def _write(ax: Any, column: float, row: float, text: str, **look: Any) -> None:
    shown = "".join(letter if ord(letter) in _letters() else "?" for letter in text)
    ax.text(column, row, shown, family=_FONT, parse_math=False, fontsize=_SIZE, va="center",
            clip_on=True, **look)  # fmt: skip


def _write_word(ax: Any, column: float, row: float, word: _Word) -> None:
    """Write a word and its marks."""
    colour = _COLOUR[word.change]
    _write(ax, column, row, word.text, color=colour, style="italic" if word.note else "normal",
           weight="bold" if word.change == _NEW else "normal")  # fmt: skip
    if word.change:
        height = row if word.change == _LEFT_OUT else row + 0.36
        ends = [column, column + len(word.text)]
        ax.plot(ends, [height, height], color=colour, linewidth=1.1)
    if word.hallucinated:
        frame = demand("matplotlib.patches").Rectangle(
            (column - 0.2, row - 0.42), len(word.text) + 0.4, 0.84, fill=False,
            edgecolor=_HALLUCINATED, linewidth=1.3,
        )  # fmt: skip
        ax.add_patch(frame)
