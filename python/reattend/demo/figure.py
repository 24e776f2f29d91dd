"""The demonstration's picture: scene, attention on it, sinks, what was said, and heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reattend.demo.tracing import Watched
from reattend.evaluation.datasets.emoji_world.sentences import mentioned
from reattend.evaluation.datasets.emoji_world.world import NOUNS, Scene
from reattend.optional import demand
from reattend.plot import (
    answers_by_setting,
    attention_on_keys,
    attention_on_picture,
    change,
    head_map,
    objects_on_picture,
    write_figure,
)
from reattend.policy import Array

_WIDTH, _PICTURES, _LINE, _HEADS = 13.0, 3.8, 0.23, 3.6  # inches; of one line of text
_TITLE, _CAPTION = 1.0, 0.6


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
    figure = demand("matplotlib.figure").Figure(figsize=(_WIDTH, 10), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    rows = figure.add_gridspec(3, 1)
    left, middle, right = (figure.add_subplot(at) for at in rows[0].subgridspec(1, 3))
    text = answers_by_setting(
        {each.label: each.text.split() for each in described},
        notes={each.label: each.note for each in described},
        hallucinated=_hallucinated(described, scene),
        ax=figure.add_subplot(rows[1]),
    )
    lines = _LINE * text.get_ylim()[0]
    rows.set_height_ratios([_PICTURES, lines, _HEADS])
    figure.set_figheight(_TITLE + _PICTURES + lines + _HEADS + _CAPTION)
    _draw_scene(left, pixels, scene, described[0].text)
    _draw_attention(middle, pixels, described[0].watched, prompt)
    image, length = prompt.image, prompt.length
    spans = {"image": (image.start, image.stop), "question": (image.stop, length)}
    attention_on_keys(described[0].watched.keys, spans=spans, percent=True, label="",
                      title="Sinks: attention on each key of the prompt", ax=right)  # fmt: skip
    heads = rows[2].subgridspec(1, len(described))
    for place, each in zip(heads, described, strict=True):
        _draw_heads(figure.add_subplot(place), each, plain=each is described[0])
    figure.suptitle(title, x=0.01, ha="left", fontsize=15, weight="bold")
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8.5, color="0.35")
    return figure


def _hallucinated(described: Sequence[Description], scene: Scene | None) -> set[str]:
    """Give the words of all descriptions that name what is not in the scene."""
    if scene is None:
        return set()
    words = {word.strip(" .,").lower() for each in described for word in each.text.split()}
    return {word for word in words if {*mentioned(word)} - {*scene.nouns}}


def _draw_scene(ax: Any, pixels: Array, scene: Scene | None, text: str) -> None:
    """The picture, and in it what is known to be there: framed as it is named or missed."""
    nouns = () if scene is None else scene.nouns
    said = {*mentioned(text)}
    objects_on_picture(
        pixels, [NOUNS[noun] for noun in nouns], () if scene is None else scene.boxes,
        named=[noun in said for noun in nouns], ax=ax,
        title="What it sees" if scene is None else "What it sees, finds and misses (dashed)",
    )  # fmt: skip


def _draw_attention(ax: Any, pixels: Array, plain: Watched, prompt: Prompt) -> None:
    """Attention on the image in middle layers, sinks among its tokens framed."""
    layers = middle_layers(len(plain.keys))
    attention_on_picture(
        plain.keys[layers, prompt.image].mean(0), pixels, percent=True, ax=ax,
        sinks=visual_sinks(plain, prompt, slice(2, len(plain.keys) - 1)),  # where VAR works
        title=f"Where its answer looks, in layers {layers.start} to {layers.stop - 1}",
    )  # fmt: skip


def _draw_heads(ax: Any, described: Description, *, plain: bool) -> None:
    """Image mass of each head; of methods, what they change of it."""
    before, after = described.watched.before, described.watched.after
    if plain:
        head_map(before, percent=True, label="", title="Attention on the image", ax=ax)
    else:
        title = f"What {described.label} changes"
        change(before, after, percent=True, label="", title=title, ax=ax)


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
