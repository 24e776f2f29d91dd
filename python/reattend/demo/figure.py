"""The demonstration's picture: scene, attention on it, sinks, what was said, and heads."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reattend.demo.sentences import mentioned
from reattend.demo.watching import Watched
from reattend.extras import demand
from reattend.picture import write_figure
from reattend.policy import Array

_TOKEN = re.compile(r"\S+\s*")
_ADVANCE = 0.602  # em, of each letter of DejaVu Sans Mono, which comes with matplotlib
_TEXT_SIZE, _LINE = 9.5, 1.45  # points; line height in em
_WIDTH = 13.0  # inches
_RED, _GREY = "#c1121f", "0.35"


class Told(NamedTuple):
    """What one setting said of the picture, and where it looked."""

    label: str
    text: str
    note: str  # what else there is to say, after the text
    watched: Watched


class Prompt(NamedTuple):
    """Where in the prompt the picture is, and above which phi a token is a sink."""

    image: slice
    length: int
    tau: float


def draw_demo(
    path: Path,
    pixels: Array,
    told: Sequence[Told],
    there: Collection[int] | None,
    prompt: Prompt,
    *,
    title: str,
    caption: str,
) -> None:
    """Draw the demonstration's picture.

    Parameters
    ----------
    path : path
        Where to write, as .png, .pdf or .svg.
    pixels : uint8 array [120, 120, 3]
        The scene.
    told : sequence of Told
        Plain attention first, then each method.
    there : collection of int, or None
        The nouns that are not made up; None if nobody knows.
    prompt : Prompt
        Where its image is.
    title, caption : str
        Above and below.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    """
    write_figure(path, lambda: _figure(pixels, told, there, prompt, title, caption))


def _figure(
    pixels: Array,
    told: Sequence[Told],
    there: Collection[int] | None,
    prompt: Prompt,
    title: str,
    caption: str,
) -> Any:
    lines = _text_lines(told)
    # Heights in inches: title, pictures, text, heads, caption.
    text_height = (len(lines) + 0.5) * _TEXT_SIZE * _LINE / 72
    height = 0.75 + 3.6 + 0.75 + text_height + 0.65 + 3.1 + 1.05
    figure = demand("matplotlib.figure").Figure(figsize=(_WIDTH, height))

    def place(left: float, top: float, width: float, tall: float) -> Any:
        """Add axes by inches from the top left."""
        box = (left / _WIDTH, 1 - (top + tall) / height, width / _WIDTH, tall / height)
        return figure.add_axes(box)

    figure.text(0.35 / _WIDTH, 1 - 0.25 / height, title, fontsize=15, weight="bold", va="top")
    plain = told[0].watched
    _draw_pixels(place(0.35, 0.95, 3.4, 3.4), pixels)
    _draw_attention(figure, place(4.0, 0.95, 3.4, 3.4), pixels, plain, prompt)
    _draw_sinks(figure, place(8.35, 0.95, 3.9, 3.4), plain, prompt)
    top = 0.75 + 3.6 + 0.45
    _draw_text(place(0.35, top, _WIDTH - 0.7, text_height), lines, there)
    top += text_height + 0.65
    width, gap = 2.35, 0.72
    for column, each in enumerate(told):
        _draw_heads(figure, place(0.75 + column * (width + gap), top, width, 3.1), each, column)
    figure.text(0.35 / _WIDTH, 0.12 / height, caption, fontsize=8.5, color=_GREY, va="bottom")
    return figure


def _draw_pixels(at: Any, pixels: Array) -> None:
    at.imshow(pixels, interpolation="nearest")
    at.set_title("What the model sees", fontsize=11)
    at.set_axis_off()


def _draw_attention(figure: Any, at: Any, pixels: Array, plain: Watched, prompt: Prompt) -> None:
    """Attention on the image in middle layers, over a pale scene; sinks among its tokens framed."""
    middle = middle_layers(len(plain.keys))
    weights = plain.keys[middle, prompt.image].mean(0)  # [T]
    side = int(len(weights) ** 0.5)
    grey = pixels.mean(-1) * 0.5 + 127
    at.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    extent = (-0.5, len(pixels) - 0.5, len(pixels) - 0.5, -0.5)
    image = at.imshow(
        weights.reshape(side, side), cmap="inferno", alpha=0.62, extent=extent, vmin=0,
        interpolation="nearest",
    )  # fmt: skip
    at.set_title(f"Attention of its answer on it, layers {middle.start} to {middle.stop - 1}",
                 fontsize=11)  # fmt: skip
    at.set_axis_off()
    for token in visual_sinks(plain, prompt, middle):
        y, x = divmod(token, side)
        cell = len(pixels) / side
        rectangle = demand("matplotlib.patches").Rectangle
        at.add_patch(rectangle((x * cell - 0.5, y * cell - 0.5), cell, cell, fill=False,
                               edgecolor="#4cc9f0", linewidth=2))  # fmt: skip
    _colour_bar(figure, image, at, 1)


def _draw_sinks(figure: Any, at: Any, plain: Watched, prompt: Prompt) -> None:
    """Attention on each key of the prompt, layer by layer."""
    colours = demand("matplotlib.colors")
    image = at.imshow(
        plain.keys, cmap="magma", aspect="auto", interpolation="nearest",
        norm=colours.PowerNorm(0.4, vmin=0, vmax=max(float(plain.keys.max()), 1e-3)),
    )  # fmt: skip
    at.set_title("Sinks: attention on each key of the prompt", fontsize=11)
    at.set_ylabel("layer")
    spans = (
        (0, prompt.image.start, ""),
        (prompt.image.start, prompt.image.stop, "image"),
        (prompt.image.stop, prompt.length, "question"),
    )
    at.set_xticks([0, *((start + stop - 1) / 2 for start, stop, name in spans if name)],
                  ["first\nkey", *(name for *_, name in spans if name)], fontsize=9)  # fmt: skip
    at.tick_params(axis="x", length=0)
    for start, _, name in spans:
        if name:
            at.axvline(start - 0.5, color="white", linewidth=0.8, alpha=0.7)
    _colour_bar(figure, image, at, 0)


def _draw_heads(figure: Any, at: Any, told: Told, column: int) -> None:
    """Image mass of each head; of methods, what they change of it."""
    change = told.watched.after - told.watched.before
    values = change if column else told.watched.before
    reach = max(float(np.abs(values).max()), 0.01)
    image = at.imshow(
        values, cmap="RdBu_r" if column else "inferno", vmin=-reach if column else 0, vmax=reach,
        aspect="auto", interpolation="nearest",
    )  # fmt: skip
    at.set_title(f"what {told.label} changes" if column else "image, of each head's attention",
                 fontsize=11)  # fmt: skip
    at.set_xlabel("head")
    at.set_xticks(range(0, values.shape[1], 2))
    if not column:
        at.set_ylabel("layer")
    if column and not change.any():
        at.text(0.5, 0.5, "nothing", transform=at.transAxes, ha="center", color=_GREY)
        return
    _colour_bar(figure, image, at, 0)


def _colour_bar(figure: Any, image: Any, at: Any, decimals: int) -> None:
    box = at.get_position()
    bar_at = figure.add_axes((box.x1 + 0.005, box.y0, 0.008, box.height))
    formatter = demand("matplotlib.ticker").PercentFormatter(1, decimals=decimals)
    bar = figure.colorbar(image, cax=bar_at, format=formatter)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)


def _text_lines(told: Sequence[Told]) -> list[list[tuple[str, str]]]:
    """Break labels, texts and notes into lines of (kind, word)."""
    room = int((_WIDTH - 0.7) * 72 / (_TEXT_SIZE * _ADVANCE))
    indent = max(len(each.label) for each in told) + 2
    lines: list[list[tuple[str, str]]] = []
    for each in told:
        lines.append([("label", each.label.ljust(indent))])
        used = indent
        words = [("text", word) for word in _TOKEN.findall(each.text + " ")]
        words += [("note", word) for word in _TOKEN.findall(each.note)]
        for kind, word in words:
            if used + len(word.rstrip()) > room:
                lines.append([("label", " " * indent)])
                used = indent
            lines[-1].append((kind, word))
            used += len(word)
    return lines


def _draw_text(
    at: Any, lines: Sequence[Sequence[tuple[str, str]]], there: Collection[int] | None
) -> None:
    """Write lines of one width of letters, made-up words red and struck through."""
    at.set_axis_off()
    width, height = _WIDTH - 0.7, at.get_position().height * at.figure.get_figheight()
    letter, line = _TEXT_SIZE * _ADVANCE / 72 / width, _TEXT_SIZE * _LINE / 72 / height
    at.set(xlim=(0, 1), ylim=(0, 1))
    for row, words in enumerate(lines):
        x, y = 0.0, 1 - (row + 0.5) * line
        for kind, word in words:
            made_up = kind == "text" and there is not None and bool({*mentioned(word)} - {*there})
            colour = _RED if made_up else _GREY if kind == "note" else "black"
            bare = word.rstrip(" .,") if made_up else word.rstrip()
            at.text(x, y, bare, family="DejaVu Sans Mono", fontsize=_TEXT_SIZE, va="center",
                    color=colour, weight="bold" if kind == "label" or made_up else "normal",
                    style="italic" if kind == "note" else "normal")  # fmt: skip
            if made_up:
                at.plot([x, x + len(bare) * letter], [y, y], color=_RED, linewidth=1.2)
                tail = word.rstrip()[len(bare) :]
                at.text(x + len(bare) * letter, y, tail, family="DejaVu Sans Mono",
                        fontsize=_TEXT_SIZE, va="center")  # fmt: skip
            x += len(word) * letter


def middle_layers(num_layers: int) -> slice:
    """Give the layers in which attention on an image tells most: the middle third.

    Parameters
    ----------
    num_layers : int
        How many there are.

    Examples
    --------
    >>> middle_layers(30)
    slice(10, 20, None)
    """
    return slice(num_layers // 3, max(num_layers // 3 + 1, 2 * num_layers // 3))


def visual_sinks(watched: Watched, prompt: Prompt, layers: slice) -> list[int]:
    """Give the image tokens that are sinks by VAR's rule in any of some layers.

    Parameters
    ----------
    watched : Watched
        With phi of each token.
    prompt : Prompt
        Where its image is, and its tau.
    layers : slice
        Which layers count.

    Returns
    -------
    list of int
        Places among the image's tokens.

    Examples
    --------
    >>> scores = np.array([[24.0, 1.0, 9.0, 2.0]])
    >>> seen = Watched(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 4)), scores)
    >>> visual_sinks(seen, Prompt(slice(1, 3), 4, tau=7.5), slice(0, 1))
    [1]
    """
    above = watched.scores[layers, prompt.image] > prompt.tau
    return np.flatnonzero(np.any(above, axis=0)).tolist()
