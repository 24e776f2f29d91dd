"""The command `reattend demo`: a picture, what a model sees in it, and what methods change."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import sys
import textwrap
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from reattend.cli.arguments import at_least, picture_path
from reattend.cli.command import Command, Options
from reattend.cli.model_options import load_chosen, model_options
from reattend.demo.figure import Description, Prompt, draw_demo
from reattend.demo.repeating import stop_reason
from reattend.demo.show import (
    Marker,
    half_blocks,
    has_colours,
    has_pictures,
    listing,
    make_console,
    smaller,
)
from reattend.demo.small_set import LABELS, METHODS, SmallSet, measure, numbers, show_numbers
from reattend.demo.tracing import WatchedAnswer
from reattend.evaluation.datasets import Case
from reattend.evaluation.datasets.emoji_world import (
    CONTEXTS,
    DESCRIBE,
    DIFFICULTIES,
    NOUNS,
    SIDE,
    Scene,
    mentioned,
)
from reattend.evaluation.loading import PLAIN, TAU, Loaded
from reattend.evaluation.metrics.counts import Estimate
from reattend.evaluation.runner.answerers import VisionLanguageAnswerer
from reattend.models import IMAGE, TextStream
from reattend.models.pictures import read_picture
from reattend.optional import demand
from reattend.policy import Array
from reattend.session import Session
from reattend.terminal import INTERRUPTED, progress

_LOOKED_AT = 8  # scenes, of which the first with a hallucinated object is shown
_LONGEST = 64  # tokens of a description
_INDENT = 7  # columns of a setting's name
_WIDEST = 100  # columns of a line of text
_PIXELS = 60  # of a side of the picture in the terminal, at most
_WHERE = {
    "kitchen": "in a kitchen", "fruit": "among fruit", "farm": "on a farm",
    "street": "in a street", "music": "in a band", "sport": "in sports", "office": "in an office",
    "bedroom": "in a bedroom", "sea": "at sea", "garden": "in a garden", "weather": "in the sky",
    "clothes": "among clothes",
}  # fmt: skip
_OWN_PICTURE = (
    f"This small model knows {len(NOUNS)} nouns, learnt from drawings, and sees one of them in "
    "whatever it is shown. A model that knows photos: reattend describe FILE --model NAME."
)
_CAPTION = (
    "Attention is the mean over the rows of the answer, as softmax gave it. Framed image tokens: "
    "their state is a sink's (VAR's rule). Framed words: hallucinated objects; underlined ones are "
    "not\nin the plain answer. Heads: the share of each head's attention that is on the image, and "
    "how far a method moves it; heads that VHR reinforces count with its factor. Pictures of "
    "things:\nOpenMoji, CC BY-SA 4.0."
)


class Seen(NamedTuple):
    """A picture, and the truth about it where it is known."""

    pixels: Array  # uint8 [120, 120, 3]
    scene: Scene | None

    @property
    def there(self) -> Collection[int] | None:
        """The nouns that are not hallucinated."""
        return None if self.scene is None else self.scene.nouns


class Spoken(NamedTuple):
    """A description that was streamed."""

    text: str
    steps: int  # tokens, its end included
    notes: tuple[str, ...]


_add = click.option


@click.command(
    "demo",
    cls=Command,
    runs_models=True,
    examples=(
        "reattend demo",
        "reattend demo --seed 3 --difficulty clear --scenes 0",
        "reattend demo --image yours.jpg --out yours.png",
    ),
    short_help="describe a picture, mark hallucinated objects, and show what each method changes",
)
@_add(
    "--image",
    type=Path,
    metavar="FILE",
    help="your own picture, cropped to a square (default: a scene of known things)",
)
@_add("--seed", type=at_least(int, 0), default=0, metavar="N", help="of the scenes")
@_add(
    "--difficulty",
    type=click.Choice([*DIFFICULTIES]),
    default="dim",
    help="how well the scenes can be seen",
)
@_add(
    "--scenes",
    type=at_least(int, 0),
    default=12,
    metavar="N",
    help="how many scenes the numbers are from; 0: no numbers",
)
@_add(
    "--out",
    type=picture_path,
    default=Path("reattend-demo.png"),
    metavar="FILE",
    help="where the picture goes, as .png, .pdf or .svg",
)
@_add("--json", is_flag=True, help="print JSON")
@model_options
def command(**chosen: Any) -> int:
    """Describe a picture with a small vision-language model, without and with VAR, VHR and ACT.

    Hallucinated objects are marked, counted on some scenes, and drawn. A minute and a half on two
    cores.
    """
    options = Options(**chosen)
    if not options.json:
        return _show(options, {})
    found: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        status = _show(options, found)
    print(json.dumps(found, indent=1))
    return status


def _show(options: Options, found: dict[str, Any]) -> int:
    """Show it as it comes, and note it for who wants JSON."""
    demand("matplotlib")  # say so now, not after the answers
    own = None if options.image is None else _read_picture(options.image)
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a character shows ?
        sys.stdout.reconfigure(errors="replace")
    console = make_console()
    loaded = load_chosen(options)
    cases = SmallSet.draw(_LOOKED_AT + options.scenes, options.seed, options.difficulty)
    if own is not None:
        seen, title = Seen(own, None), options.image.name
    else:
        case = _choose(loaded, cases.described.cases[:_LOOKED_AT])
        seen, title = Seen(case.truth.pixels, case.truth), _title(case, options)
    found["picture"] = title
    if seen.scene is not None:
        found["there"] = [NOUNS[noun] for noun in sorted(seen.scene.nouns)]
    if seen.scene is None:
        console.print(_wrapped(_OWN_PICTURE, console))
        console.print(_wrapped(f"It knows {listing(NOUNS)}.", console), end="\n\n")
    if has_pictures(console):
        console.print(half_blocks(smaller(seen.pixels, min(_PIXELS, console.width))), end="")
    console.print(f"Picture: {title}", style="bold")
    if seen.scene is None:
        console.print("What is in it is not known, so no object can be marked as hallucinated.")
    else:
        console.print(_wrapped(_truth(seen.scene), console))
    console.print()
    spoken: dict[str, Spoken] = {}
    for name in (PLAIN, *METHODS):
        spoken[name] = _speak(loaded, name, seen, console, spoken.get(PLAIN))
    found["descriptions"] = {name: _noted(seen, each) for name, each in spoken.items()}
    _draw(loaded, options.out, seen, spoken, title)
    found["drawn"] = str(options.out)
    console.print(f"Drawn: {options.out}")
    if not options.scenes:
        return 0
    names = (PLAIN, *METHODS)
    measured = measure(loaded, names, cases, _LOOKED_AT, progress)
    console.print()
    console.print(show_numbers(measured, cases, names, options.difficulty))
    if measured.scenes:
        found["scenes"] = len(measured.scenes)
        found["seconds"] = measured.seconds
        found["numbers"] = {
            label: {name: _estimated(each) for name, each in of.items()}
            for label, of in numbers(measured, cases, names).items()
        }
    source = "chosen on other scenes" if loaded.profile else "those of the papers"
    console.print(f"The methods' strengths are {source}.", style="dim")
    return INTERRUPTED if measured.interrupted else 0


def _noted(seen: Seen, spoken: Spoken) -> dict[str, Any]:
    """Give a description as JSON has it."""
    said = {*mentioned(spoken.text)}
    found: dict[str, Any] = {"text": spoken.text, "tokens": spoken.steps, "notes": spoken.notes}
    if seen.there is not None:
        found["hallucinated"] = [NOUNS[noun] for noun in sorted(said - {*seen.there})]
    return found


def _estimated(estimate: Estimate) -> dict[str, float | None]:
    """Give an estimate as JSON has it, which knows no NaN."""
    return {name: None if np.isnan(x) else float(x) for name, x in estimate._asdict().items()}


def _read_picture(path: Path) -> Array:
    """Read a picture, and crop it to a square of the size that the model reads."""
    picture = read_picture(path)
    lanczos = demand("PIL.Image").Resampling.LANCZOS
    fitted = demand("PIL.ImageOps").fit(picture, (SIDE, SIDE), method=lanczos)
    return np.array(fitted, np.uint8)


def _choose(loaded: Loaded, cases: Sequence[Case]) -> Case:
    """Give the first case in which an object is hallucinated without a method; else the first."""
    for _ in progress([0], "Looking at scenes"):
        answers = VisionLanguageAnswerer(loaded.model, "demo")(cases, [])
    for case, answer in zip(cases, answers, strict=True):
        if {*mentioned(answer.text)} - {*case.truth.nouns}:
            return case
    return cases[0]


def _title(case: Case, options: Options) -> str:
    return f"scene {case.key} of seed {options.seed}, {options.difficulty}"


def _truth(scene: Scene) -> str:
    names = list(CONTEXTS)
    usual = listing(_WHERE[names[place]] for place in scene.contexts)
    there = listing(NOUNS[noun] for noun in sorted(scene.nouns))
    removed = listing(NOUNS[noun] for noun in scene.removed)
    return f"In it: {there}. Usual {usual}, but taken out: {removed}."


def _wrapped(text: str, console: Any, indent: str = "") -> str:
    """Break a text into lines; rich would do so too, but fill up those that it indents."""
    width = min(console.width, _WIDEST)
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)


def _speak(loaded: Loaded, name: str, seen: Seen, console: Any, plain: Spoken | None) -> Spoken:
    """Describe a picture, and show the description as it comes."""
    model = loaded.model
    config = model.llama.config
    session = Session(
        loaded.methods(name), num_layers=config.num_layers, num_heads=config.num_heads
    )
    console.print(LABELS[name].ljust(_INDENT), style="bold", end="")
    stream = TextStream(model.tokenizer)
    marker = Marker(seen.there, colours=has_colours(console))
    times, text, stopped = [], "", None
    steps = model.generate(
        session, [model.prompt(DESCRIBE)], seen.pixels[None], max_new_tokens=_LONGEST
    )
    try:
        for (token,) in steps:
            times.append(time.perf_counter())
            if token not in model.tokenizer.stop:
                piece = "".join(c if c.isprintable() else " " for c in stream.push(int(token)))
                text += piece
                console.print(marker.push(piece), end="")
            if stopped := stop_reason(text):
                break
    finally:
        steps.close()
        rest = stream.flush()
        console.print(marker.push(rest) + marker.flush())
    text += rest
    notes = [*([stopped] if stopped else ()), *_compared(text, seen, plain), *session.describe()]
    pace = f"{1000 * (times[-1] - times[0]) / max(len(times) - 1, 1):.0f} ms a token"
    console.print(_wrapped("; ".join([*notes, pace]), console, " " * _INDENT), style="dim")
    return Spoken(text, len(times), tuple(notes))


def _compared(text: str, seen: Seen, plain: Spoken | None) -> Iterator[str]:
    """Say what is missing, and how a description differs from plain's."""
    said = {*mentioned(text)}
    if seen.scene is not None:
        yield f"missed {listing(NOUNS[noun] for noun in sorted({*seen.scene.nouns} - said))}"
    if plain is None:
        return
    before = {*mentioned(plain.text)}
    if text == plain.text:
        yield "word for word the same"
    elif said == before:
        yield "the same things"
    for verb, nouns in (("no longer says", before - said), ("says in addition", said - before)):
        if nouns:
            yield f"{verb} {listing(NOUNS[noun] for noun in sorted(nouns))}"


def _draw(loaded: Loaded, path: Path, seen: Seen, spoken: dict[str, Spoken], title: str) -> None:
    """Answer again, watched, and draw what was seen."""
    model = loaded.model
    config = model.llama.config
    tokens = model.prompt(DESCRIBE)
    described = []
    for name in progress(spoken, "Watching attention"):
        session = WatchedAnswer(
            loaded.methods(name), num_layers=config.num_layers, num_heads=config.num_heads,
            sink_dims=loaded.sink_dims,
        )  # fmt: skip
        steps = model.generate(
            session, [tokens], seen.pixels[None], max_new_tokens=spoken[name].steps
        )
        collections.deque(steps, maxlen=0)
        notes = f"({'; '.join(spoken[name].notes)})" if spoken[name].notes else ""
        described.append(Description(LABELS[name], spoken[name].text, notes, session.watched()))
    first = tokens.index(IMAGE)
    image = slice(first, first + tokens.count(IMAGE))
    tau = TAU * float(np.sqrt(config.hidden_size))
    draw_demo(
        path, seen.pixels, described, seen.scene, Prompt(image, len(tokens), tau),
        title=f"What a model hallucinates, and what methods change: {title}", caption=_CAPTION,
    )  # fmt: skip
