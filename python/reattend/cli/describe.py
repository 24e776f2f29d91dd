"""The command `reattend describe`: any model, any picture, with methods and without."""

from __future__ import annotations

import collections
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from reattend.adaptors.transformers import attached
from reattend.cli.arguments import at_least
from reattend.cli.command import Command
from reattend.cli.method_argument import MethodName, make_chosen, method_help
from reattend.demo.repeating import stop_reason
from reattend.evaluation.datasets.emoji_world import DESCRIBE, NOUNS, SIDE
from reattend.evaluation.loading import load
from reattend.method import Method
from reattend.methods import HeadMask
from reattend.models.pictures import read_picture
from reattend.optional import demand
from reattend.plot.page import write_page
from reattend.policy import Array
from reattend.recording import Recording
from reattend.session import Session
from reattend.terminal import CommandError, progress

_PROMPT = "Describe this picture."
_WATCHED = 336  # pixels of a side of the picture on a page, at most


class Described(NamedTuple):
    """One answer, and what the methods did along it."""

    label: str
    text: str
    report: dict[str, Any]
    notes: list[str]
    recording: Recording | None


@click.command(
    "describe",
    cls=Command,
    runs_models=True,
    examples=(
        "reattend describe photo.jpg --model llava-hf/llava-1.5-7b-hf --method var",
        "reattend describe photo.jpg --model Qwen/Qwen2.5-VL-3B-Instruct --method var "
        "\\\n    --prompt 'What is on the table?' --report photo.html",
        "reattend describe drawing.png --method vhr --json",
    ),
    short_help="let any model describe any picture, without a method and with some",
)
@click.argument("picture", type=Path)
@click.option("--model", metavar="NAME",
    help="a vision-language model of transformers, a folder or a name (default: the package's "
    f"own, which knows {len(NOUNS)} nouns and nothing else)")  # fmt: skip
@click.option("--method", "methods", type=MethodName(), metavar="NAME", multiple=True,
    help=f"{method_help()}; may be given several times, for a description each")  # fmt: skip
@click.option("--prompt", default=_PROMPT, metavar="TEXT", help="what is asked")
@click.option("--max-new-tokens", type=at_least(int, 1), default=64, metavar="N",
    help="longest answer")  # fmt: skip
@click.option("--record", type=Path, metavar="FILE",
    help="keep where the last description's rows attend, as .npz for reattend report")  # fmt: skip
@click.option("--report", "page", type=Path, metavar="FILE",
    help="write that as an HTML page")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(
    picture: Path,
    model: str | None,
    methods: tuple[str, ...],
    prompt: str,
    max_new_tokens: int,
    record: Path | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Let a vision-language model describe PICTURE, without a method and with each that is named.

    What each method did is said below its description.
    """
    if record is not None and record.suffix != ".npz":
        raise click.UsageError(f"--record must end in .npz, got {record.name}")
    if page is not None:
        if page.suffix not in (".html", ".htm"):
            raise click.UsageError(f"--report must end in .html, got {page.name}")
        demand("plotly")
    made = [(name, [make_chosen(name)]) for name in methods]
    image = read_picture(picture)
    if model is None:
        if prompt != _PROMPT:
            raise click.UsageError("--prompt needs --model: the package's own model only describes")
        answerer: _Shipped | _Transformers = _Shipped(image)
        print(
            f"No --model was named: the package's own describes, which knows {len(NOUNS)} nouns.",
            file=sys.stderr,
        )
    else:
        answerer = _Transformers(model, image, prompt)
    found = []
    runs: list[tuple[str, list[Method]]] = [("plain", []), *made]
    for place, (label, chosen) in enumerate(progress(runs, "Describing", quiet=as_json)):
        watched = place == len(runs) - 1 and (record is not None or page is not None)
        try:
            each = answerer.describe(label, chosen, max_new_tokens, watched)
        except (ValueError, NotImplementedError) as error:
            raise CommandError(f"--method {label}: {error}" if chosen else str(error)) from error
        found.append(each)
        if not as_json:
            print(f"{label}: {each.text}")
            for note in each.notes:
                print(f"    {note}")
    written = _write(found[-1].recording, record, page)
    if as_json:
        answers = [
            {"method": each.label, "text": each.text, "report": each.report} for each in found
        ]
        print(json.dumps({"picture": str(picture), "answers": answers, "written": written}))
    elif written:
        print(f"Written: {', '.join(written)}")


def _write(recording: Recording | None, record: Path | None, page: Path | None) -> list[str]:
    if recording is None:
        return []
    try:
        if record is not None:
            recording.save(record)
        if page is not None:
            write_page(recording, page)
    except ValueError as error:
        raise CommandError(str(error)) from error
    return [str(path) for path in (record, page) if path is not None]


class _Shipped:
    """The package's own model, in NumPy."""

    def __init__(self, picture: Any) -> None:
        fit, lanczos = demand("PIL.ImageOps").fit, demand("PIL.Image").Resampling.LANCZOS
        self._pixels = np.array(fit(picture, (SIDE, SIDE), method=lanczos), np.uint8)
        self._model = load().model

    def describe(self, label: str, methods: list[Method], count: int, watched: bool) -> Described:
        model, config = self._model, self._model.llama.config
        session = Session(methods, num_layers=config.num_layers, num_heads=config.num_heads)
        if watched:
            session.record()
        prompt = [model.prompt(DESCRIBE)]
        steps = model.generate(session, prompt, self._pixels[None], max_new_tokens=count)
        tokens: list[int] = []
        stopped = None
        for (token,) in steps:
            tokens.append(int(token))
            if stopped := stop_reason(model.tokenizer.decode(tokens)):
                break
        steps.close()
        recording = None
        if watched:
            words = [model.tokenizer.decode([token]) for token in tokens]
            recording = _told(session.recording(), words, self._pixels, None, label)
        said = model.tokenizer.decode([t for t in tokens if t not in model.tokenizer.stop])
        report = session.report()
        notes = [*([stopped] if stopped else ()), *_notes(methods, report, config.num_layers)]
        return Described(label, said.strip(), report.to_dict(), notes, recording)


class _Transformers:
    """A model of transformers, with its processor."""

    def __init__(self, name: str, picture: Any, prompt: str) -> None:
        hf = demand("transformers")
        try:
            self._processor = hf.AutoProcessor.from_pretrained(name)
            self._model = hf.AutoModelForImageTextToText.from_pretrained(name).eval()
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            if name.startswith((".", "/", "~")) and not Path(name).is_dir():
                reason = "it is no folder"
            raise CommandError(f"--model {name} cannot be read: {reason}") from error
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        message = [{"role": "user", "content": content}]
        if getattr(self._processor, "chat_template", None) is None:
            raise CommandError(
                f"--model {name} has no chat template, so nothing says how a question is put"
            )
        text = self._processor.apply_chat_template(message, add_generation_prompt=True)
        self._picture = picture
        self._inputs = self._processor(text=[text], images=[picture], return_tensors="pt")

    def describe(self, label: str, methods: list[Method], count: int, watched: bool) -> Described:
        # Only a method sees calls: one that changes nothing lets plain attention be watched.
        at_work = methods or ([HeadMask()] if watched else [])
        with (
            demand("torch").no_grad(),
            attached(self._model, *at_work, processor=self._processor) as session,
        ):
            if watched:
                session.record()
            found = self._model.generate(**self._inputs, max_new_tokens=count, do_sample=False)
        tokens = found[0, self._inputs["input_ids"].shape[1] :].tolist()
        decode = self._processor.tokenizer.decode
        recording = None
        if watched:
            words = [decode([token]) for token in tokens]
            shown = self._picture.copy()
            shown.thumbnail((_WATCHED, _WATCHED))
            recording = _told(
                session.recording(), words, np.array(shown, np.uint8), self._grid(), label
            )
        report = session.report()
        layers = len(self._model.get_decoder().layers)
        notes = _notes(methods, report.methods, layers)
        said = decode(tokens, skip_special_tokens=True)
        return Described(label, said.strip(), report.to_dict(), notes, recording)

    def _grid(self) -> tuple[int, int] | None:
        """Give the rows and columns of the image's tokens, where the processor says them."""
        sizes = self._inputs.get("image_grid_thw")
        if sizes is None:
            return None
        merge = getattr(self._processor.image_processor, "merge_size", 1)
        _, rows, columns = sizes[0].tolist()
        return rows // merge, columns // merge


def _told(
    recording: Recording,
    words: Sequence[str],
    picture: Array,
    grid: tuple[int, int] | None,
    label: str,
) -> Recording:
    """Add words, picture and settings; rows of a token that nothing follows are not there."""
    rows = len(recording.attention)
    kept = recording.with_words(list(words)[:rows], picture=picture, grid=grid, method=label)
    return replace(kept, settings=dict(kept.settings))


def _notes(methods: Sequence[Method], report: Any, num_layers: int) -> list[str]:
    by_name = collections.defaultdict(list)
    for reading in report.readings:
        by_name[reading.method].append(reading)
    return [
        note
        for method in methods
        for note in method.describe(by_name[type(method).__name__], num_layers)
    ]
