"""One self-contained HTML page of a recording, drawn by Plotly: words, maps, heads, settings."""

from __future__ import annotations

import base64
import io
import json
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from reattend.optional import demand
from reattend.plot.over_picture import grid_of, visual_sinks
from reattend.policy import Array
from reattend.recording import Recording
from reattend.whole_file import whole_file

_DIGITS = 5  # of a number on the page


def write_page(recording: Recording, path: str | Path) -> None:
    """Write a recording as one HTML file that needs nothing else and no network.

    It shows the picture with attention on its tokens for each word (arrow keys step through them),
    layers x heads grids, what each method changed, and the settings.

    Parameters
    ----------
    recording : Recording
        Of a session, or of a file.
    path : path
        Where to, as .html. The file is there in full or not at all.

    Raises
    ------
    ValueError
        If the path ends otherwise, or the recording has no image tokens.
    MissingPackageError
        If plotly (extra `reattend[report]`) is not installed.

    Examples
    --------
    >>> import tempfile
    >>> made = Recording(np.ones((2, 1, 1, 4)) / 4, np.zeros((2, 1, 1)), np.zeros((1, 4)),
    ...                  np.ones(4), words=("a", "cat"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_page(made, Path(folder, "run.html"))
    ...     Path(folder, "run.html").read_text("utf-8")[:15]
    '<!doctype html>'
    """
    path = Path(path)
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"path must end in .html, got {path.name!r}")
    page = _page(recording)
    with whole_file(path) as partial:
        partial.write_text(page, "utf-8")


def _page(recording: Recording) -> str:
    attention = recording.attention.astype(np.float32)
    rows, layers, heads, tokens = attention.shape
    if not tokens:
        raise ValueError("recording must have image tokens, got a prompt without an image")
    grid = grid_of(tokens, recording.grid)
    shown = {
        "words": list(recording.words) or [f"row {row}" for row in range(rows)],
        "grid": grid,
        "maps": _numbers(attention.mean((1, 2)).reshape(rows, *grid)),
        "mass": _numbers(attention.sum(-1)),
        "entropy": _numbers(recording.entropy),
        "sinks": visual_sinks(recording),
        "picture": None if recording.picture is None else _data_uri(recording.picture),
    }
    about = [("answer", f"{rows} tokens"), ("layers and heads", f"{layers} x {heads}"),
             ("image", f"{tokens} tokens, {grid[0]} x {grid[1]}")]  # fmt: skip
    about += [(str(name), _told(value)) for name, value in recording.settings.items()]
    template = Template(Path(__file__).with_name("page.html").read_text("utf-8"))
    return template.substitute(
        plotly=demand("plotly.offline").get_plotlyjs(),
        data=json.dumps(shown, separators=(",", ":")).replace("<", "\\u003c"),
        about="".join(f"<tr><th scope=row>{escape(a)}<td>{escape(b)}" for a, b in about),
        methods=_methods(recording.methods.get("readings", ())),
    )


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _methods(readings: Any) -> str:
    """Give the rows of the table of what methods changed, the mean over heads."""
    lines = []
    for each in readings:
        if not each["rows"]:
            continue
        before, after = (np.asarray(each[name]).mean(0) for name in ("before", "after"))
        changed = float(np.mean(each["changed"]))
        masses = ", ".join(
            f"{escape(name)} {a:.3f} &rarr; {b:.3f}"
            for name, a, b in zip(each["segments"], before, after, strict=True)
        )
        lines.append(f"<tr><td>{each['layer']}<td>{escape(each['method'])}<td>{changed:.0%}"
                     f"<td>{masses}")  # fmt: skip
    return "".join(lines) or "<tr><td colspan=4>No step was changed."


def _numbers(array: Array) -> Any:
    return np.round(np.asarray(array, float), _DIGITS).tolist()


def _data_uri(picture: Array) -> str:
    file = io.BytesIO()
    demand("PIL.Image").fromarray(picture).save(file, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
