"""Breaks text into lines that fit a figure, by the widths of its font."""

from __future__ import annotations

from typing import Any

from reattend.optional import demand

_MOST_LINES = 8
_INCH = 72  # points
_HINTING = 1.06  # letters are moved to whole pixels when drawn, which makes lines wider


def broken(text: str, inches: float, size: float, *, weight: str = "normal") -> str:
    """Break a text so that each line is at most so wide; what is too long ends in an ellipsis.

    Parameters
    ----------
    text : str
        Its own line breaks stay.
    inches : float
        How wide a line may be.
    size : float
        Of the letters, in points.
    weight : str, optional
        Of the font, as matplotlib names it.

    Examples
    --------
    >>> broken("one two three", 0.6, 10)
    'one two\\nthree'
    """
    font = demand("matplotlib.font_manager").FontProperties(size=size, weight=weight)
    measured = demand("matplotlib.textpath").text_to_path

    def fits(line: str) -> bool:
        width: Any = measured.get_text_width_height_descent(line, font, ismath=False)[0]
        return bool(width * _HINTING <= inches * _INCH)

    lines: list[str] = []
    for part in text.split("\n"):
        line = ""
        for word in part.split(" "):
            longer = f"{line} {word}" if line else word
            if fits(longer):
                line = longer
                continue
            if line:
                lines.append(line)
            line = word
            while not fits(line):  # a word wider than a line is cut where the line ends
                count = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or fits(line[:n]))
                lines.append(line[:count])
                line = line[count:]
        lines.append(line)
    if len(lines) > _MOST_LINES:
        last = lines[_MOST_LINES - 1]
        while last and not fits(last + " ..."):
            last = last[:-1]
        lines = [*lines[: _MOST_LINES - 1], last + " ..."]
    return "\n".join(lines)
