"""The demonstration's picture: scene, attention on it, sinks, what was said, and heads."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reattend.demo.tracing import Watched
from reattend.evaluation.datasets.emoji_world.sentences import mentioned
from reattend.evaluation.datasets.emoji_world.world import NOUNS, Scene
from reattend.optional import demand
from reattend.plot import write_figure
from reattend.policy import Array

_TOKEN = re.compile(r"\S+\s*")
_ADVANCE = 0.602  # em, of each letter of DejaVu Sans Mono, which comes with matplotlib
_FONT_END = 0x250  # it has all printable characters before
_TEXT_SIZE, _LINE = 9.5, 1.45  # points; line height in em
_WIDTH = 13.0  # inches
_RED, _GREY = "#c1121f", "0.35"
_GREEN, _ORANGE, _BLUE = "#2d6a4f", "#d97706", "#0077b6"


class Description(NamedTuple):
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
    described: Sequence[Description],
    scene: Scene | None,
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
    described : sequence of Description
        Plain attention first, then each method.
    scene : Scene, or None
        What is there; None if nobody knows.
    prompt : Prompt
        Where its image is.
    title, caption : str
        Above and below.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    """
    write_figure(path, lambda: _figure(pixels, described, scene, prompt, title, caption))


def _figure(
    pixels: Array,
    described: Sequence[Description],
    scene: Scene | None,
    prompt: Prompt,
    title: str,
    caption: str,
) -> Any:
    lines = _text_lines(described)
    # Heights in inches: title, pictures, text, heads, caption.
    text_height = len(lines) * _TEXT_SIZE * _LINE / 72
    height = 0.95 + 3.4 + 0.55 + text_height + 0.65 + 3.1 + 1.0
    figure = demand("matplotlib.figure").Figure(figsize=(_WIDTH, height))

    def place(left: float, top: float, width: float, tall: float) -> Any:
        """Add axes by inches from the top left."""
        box = (left / _WIDTH, 1 - (top + tall) / height, width / _WIDTH, tall / height)
        return figure.add_axes(box)

    figure.text(0.35 / _WIDTH, 1 - 0.25 / height, title, fontsize=15, weight="bold", va="top")
    plain = described[0].watched
    _draw_pixels(place(0.35, 0.95, 3.4, 3.4), pixels, scene, {*mentioned(described[0].text)})
    _draw_attention(figure, place(4.0, 0.95, 3.4, 3.4), pixels, plain, prompt)
    _draw_sinks(figure, place(8.5, 0.95, 3.75, 3.4), plain, prompt)
    top = 0.95 + 3.4 + 0.55
    there = None if scene is None else scene.nouns
    _draw_text(place(0.35, top, _WIDTH - 0.7, text_height), lines, there)
    top += text_height + 0.65
    for column, each in enumerate(described):
        _draw_heads(figure, place(0.75 + column * 3.1, top, 2.3, 3.1), each, column)
    figure.text(0.35 / _WIDTH, 0.12 / height, caption, fontsize=8.5, color=_GREY, va="bottom")
    return figure


def _draw_pixels(at: Any, pixels: Array, scene: Scene | None, said: Collection[int]) -> None:
    """Draw the picture, and a frame with its name around each thing."""
    at.imshow(pixels, interpolation="nearest")
    at.set_title("What it sees", fontsize=11)
    at.set_axis_off()
    if scene is None:
        return
    at.set_title("What it sees, finds and misses", fontsize=11)
    for noun, (x0, y0, x1, y1) in zip(scene.nouns, scene.boxes.tolist(), strict=True):
        colour = _GREEN if noun in said else _ORANGE
        _frame(at, (x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, colour)
        above = y0 > 8
        at.text(
            (x0 + x1) / 2, y0 - 1.5 if above else y1 + 0.5, NOUNS[noun], fontsize=7.5,
            color="white", ha="center", va="bottom" if above else "top",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": colour, "edgecolor": "none"},
        )  # fmt: skip


def _frame(at: Any, corner: tuple[float, float], width: float, height: float, colour: str) -> None:
    rectangle = demand("matplotlib.patches").Rectangle
    at.add_patch(rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=1.6))


def _draw_attention(figure: Any, at: Any, pixels: Array, plain: Watched, prompt: Prompt) -> None:
    """Attention on the image in middle layers, over a pale scene; sinks among its tokens framed."""
    middle = middle_layers(len(plain.keys))
    weights = plain.keys[middle, prompt.image].mean(0)  # [T]
    side = int(len(weights) ** 0.5)
    grey = pixels.mean(-1, keepdims=True)
    at.imshow((grey + 0.25 * (pixels - grey)) * 0.45 / 255 + 0.55, interpolation="nearest")
    extent = (-0.5, len(pixels) - 0.5, len(pixels) - 0.5, -0.5)
    top = max(float(weights.max()), 1e-4)
    shown = (weights / top).reshape(side, side)
    # Where little goes the scene shows through.
    image = at.imshow(
        weights.reshape(side, side), cmap="YlOrRd", alpha=np.clip(1.6 * shown, 0, 0.85),
        extent=extent, vmin=0, vmax=top, interpolation="nearest",
    )  # fmt: skip
    at.set_title(f"Where its answer looks, in layers {middle.start} to {middle.stop - 1}",
                 fontsize=11)  # fmt: skip
    at.set_axis_off()
    for token in visual_sinks(plain, prompt, slice(2, len(plain.keys) - 1)):  # where VAR works
        y, x = divmod(token, side)
        cell = len(pixels) / side
        _frame(at, (x * cell - 0.5, y * cell - 0.5), cell, cell, _BLUE)
    _colour_bar(figure, image, at)


def _draw_sinks(figure: Any, at: Any, plain: Watched, prompt: Prompt) -> None:
    """Attention on each key of the prompt, layer by layer."""
    colours = demand("matplotlib.colors")
    image = at.imshow(
        plain.keys, cmap="magma", aspect="auto", interpolation="nearest",
        norm=colours.PowerNorm(0.4, vmin=0, vmax=max(float(plain.keys.max()), 1e-3)),
    )  # fmt: skip
    at.set_title("Sinks: attention on each key of the prompt", fontsize=11)
    _number_layers(at, len(plain.keys), named=True)
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
    _colour_bar(figure, image, at)


def _draw_heads(figure: Any, at: Any, described: Description, column: int) -> None:
    """Image mass of each head; of methods, what they change of it."""
    change = described.watched.after - described.watched.before
    values = change if column else described.watched.before
    reach = max(float(np.abs(values).max()), 0.01)
    # Of a change as `reattend.plot.change` has it: dark is less, light is more, also in grey.
    image = at.imshow(
        values, cmap="cividis" if column else "inferno", vmin=-reach if column else 0, vmax=reach,
        aspect="auto", interpolation="nearest",
    )  # fmt: skip
    at.set_title(f"What {described.label} changes" if column else "Each head's share for the image",
                 fontsize=11)  # fmt: skip
    at.set_xlabel("head")
    at.set_xticks(range(0, values.shape[1], 2))
    _number_layers(at, len(values), named=not column)
    if column and not change.any():
        at.text(0.5, 0.5, "nothing", transform=at.transAxes, ha="center", color=_GREY)
        return
    _colour_bar(figure, image, at)


def _colour_bar(figure: Any, image: Any, at: Any) -> None:
    box = at.get_position()
    bar_at = figure.add_axes((box.x1 + 0.005, box.y0, 0.008, box.height))
    low, high = image.get_clim()
    decimals = 0 if high - low > 0.08 else 1 if high - low > 0.008 else 2
    ticker = demand("matplotlib.ticker")
    bar = figure.colorbar(
        image, cax=bar_at, format=ticker.PercentFormatter(1, decimals=decimals), alpha=1
    )
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)


def _number_layers(at: Any, count: int, *, named: bool) -> None:
    ticker = demand("matplotlib.ticker")
    at.yaxis.set_major_locator(ticker.MaxNLocator(min(count, 10), integer=True))
    at.tick_params(labelsize=9, labelleft=named)
    if named:
        at.set_ylabel("layer")


def _text_lines(described: Sequence[Description]) -> list[list[tuple[str, str]]]:
    """Break labels, texts and notes into lines of (kind, word)."""
    room = int((_WIDTH - 0.7) * 72 / (_TEXT_SIZE * _ADVANCE))
    indent = max(len(each.label) for each in described) + 2
    lines: list[list[tuple[str, str]]] = []
    for each in described:
        text = "".join(c if c.isprintable() and ord(c) < _FONT_END else "?" for c in each.text)
        lines.append([("label", each.label.ljust(indent))])
        used = indent
        words = [("text", word) for word in _TOKEN.findall(text + " ")]
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
