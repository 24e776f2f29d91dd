"""Figures as files, which are there in full or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reattend.whole_file import whole_file

FORMATS = (".png", ".pdf", ".svg")


def write_figure(path: str | Path, draw: Callable[[], Any]) -> None:
    """Write a figure, in full or not at all.

    Parameters
    ----------
    path : path
        Where to, as .png, .pdf or .svg.
    draw : callable
        Gives the figure, of matplotlib.

    Raises
    ------
    ValueError
        If the path ends otherwise.

    Examples
    --------
    >>> write_figure("sinks.txt", lambda: None)
    Traceback (most recent call last):
        ...
    ValueError: path must end in .png, .pdf, .svg, got 'sinks.txt'
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"path must end in {', '.join(FORMATS)}, got {path.name!r}")
    figure = draw()
    content = io.BytesIO()  # drawn before it is written: matplotlib hides that a disk is full
    figure.savefig(content, format=path.suffix[1:], dpi=150)
    with whole_file(path) as partial:
        partial.write_bytes(content.getvalue())
