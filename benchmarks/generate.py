"""Tokens per second of the NumPy loop beside transformers, on the same GGUF file, in one run.

python benchmarks/generate.py                       SmolLM2, prompts of 45 and 600 tokens
python benchmarks/generate.py --json results.json   and every time in a file

Each candidate is a process of its own, with the settings that suit it, and they take turns. Both
take the likeliest token; tokens and logits are compared before a clock counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import machine
import numpy as np
import results
import workers

# What runs, and how OpenMP's threads wait for work. NumPy's BLAS has threads of its own, so ours
# must sleep; torch has one pool, and is given both.
CANDIDATES = {
    "reattend": ("none", "passive"),
    "reattend ACT": ("act", "passive"),
    "transformers": ("transformers", None),
    "transformers, passive": ("transformers", "passive"),
}
PEERS = [name for name, (kind, _) in CANDIDATES.items() if kind == "transformers"]
BOTH = (median, min)
TEXT = "The old harbour lay quiet in the morning light, and nobody had come to meet the boat. "
Step = Callable[[np.ndarray], np.ndarray]


def main() -> int:
    """Run the command line; the exit status is 1 if tokens differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a Llama-type GGUF file; SmolLM2 by default")
    parser.add_argument("--prompt", type=int, nargs="+", default=[45, 600], help="lengths")
    parser.add_argument("--steps", type=int, default=40, help="tokens to generate a turn")
    parser.add_argument("--repeat", type=int, default=5, help="turns")
    parser.add_argument("--threads", type=int, default=2, help="of each candidate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times to FILE")
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.candidate:
        serve(options.candidate, options.model, options.threads)
        return 0

    from reattend.models import ModelFile, Tokenizer, find_smollm2

    path = (options.model or find_smollm2()).resolve()
    ids = Tokenizer(ModelFile(path)).encode(TEXT * (max(options.prompt) // 10))
    found: dict[str, Any] = {
        **machine.described(options.threads),
        "model": path.name,
        "transformers": version("transformers"),
        "steps": options.steps,
        "cases": [],
    }
    running = {
        name: workers.start(__file__, name, policy, path, options.threads)
        for name, (_, policy) in CANDIDATES.items()
    }
    same = True
    try:
        for length in options.prompt:
            case = measure(running, ids[:length], options.steps, options.repeat)
            found["cases"].append(case)
            print(table(case), flush=True)
            same &= case["same tokens"]
    finally:
        workers.stop(running.values())
    if options.json:
        results.write(options.json, found)
    return 0 if same else 1


def measure(running: dict[str, Any], prompt: list[int], steps: int, repeat: int) -> dict[str, Any]:
    """Let every candidate generate in turn; the first turn warms up and is compared."""
    times: dict[str, Any] = {name: {"prefill": [], "decode": []} for name in running}
    case: dict[str, Any] = {"prompt": len(prompt), "steps": steps, "times": times}
    for turn in range(repeat + 1):
        for name in workers.in_turn(running, turn):
            with tempfile.TemporaryDirectory() as folder:
                file = str(Path(folder, "logits.npy")) if turn == 0 else None
                request = {"prompt": prompt, "steps": steps, "logits": file}
                reply = workers.ask(running[name], request)
                if file:
                    times[name]["tokens"], times[name]["logits"] = reply["tokens"], np.load(file)
                else:
                    times[name]["prefill"].append(reply["seconds"][0])
                    times[name]["decode"] += reply["seconds"][1:]
    logits = {name: times[name].pop("logits") for name in times}
    tokens = {name: times[name].pop("tokens") for name in times}
    case["same tokens"] = tokens["reattend"] == tokens[PEERS[0]]
    if case["same tokens"]:
        difference = np.abs(logits["reattend"] - logits[PEERS[0]]).max()
        case["largest logit difference"] = float(difference)
        case["largest logit"] = float(np.abs(logits[PEERS[0]]).max())
    return case


def table(case: dict[str, Any]) -> str:
    """Write what was measured of one prompt: tokens/s, and ratios to the faster transformers."""
    words = "".join(f"{word:>9}" for word in ("best", "median", "ratio", "(best)"))
    lines = [
        f"prompt of {case['prompt']} tokens, {case['steps']} steps",
        f"  {'':24}{'prefill tokens/s':^36}  {'decode tokens/s':^36}",
        f"  {'':24}{words}  {words}",
    ]
    for name, times in case["times"].items():
        cells = []
        for part, tokens in (("prefill", case["prompt"]), ("decode", 1)):
            own = times[part]
            ratios = (min(map(f, (case["times"][p][part] for p in PEERS))) / f(own) for f in BOTH)
            rates = "".join(f"{tokens / f(own):9.1f}" for f in reversed(BOTH))
            cells.append(rates + "".join(f"{ratio:8.2f}x" for ratio in ratios))
        lines.append(f"  {name:24}{'  '.join(cells)}")
    if case["same tokens"]:
        lines.append(
            f"  same tokens; largest logit difference {case['largest logit difference']:.1e}, of "
            f"logits up to {case['largest logit']:.0f}"
        )
    else:
        lines.append("  TOKENS DIFFER")
    return "\n".join(lines)


def serve(name: str, path: Path, threads: int) -> None:
    """Answer requests until there are none."""
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever libraries print is no reply
    kind = CANDIDATES[name][0]
    begin = transformers(path, threads) if kind == "transformers" else numpy_loop(path, kind)
    for line in sys.stdin:
        request = json.loads(line)
        tokens, seconds, logits = np.array([request["prompt"]]), [], []
        step = begin()
        taken = []
        for _ in range(request["steps"] + 1):
            started = time.perf_counter()
            logits.append(step(tokens))
            tokens = logits[-1].argmax(-1)[:, None]
            seconds.append(time.perf_counter() - started)
            taken.append(int(tokens[0, 0]))
        step(None)
        if request["logits"]:
            np.save(request["logits"], np.concatenate(logits))
        print(json.dumps({"tokens": taken, "seconds": seconds}), file=replies, flush=True)


def numpy_loop(path: Path, method: str) -> Callable[[], Step]:
    """Give what begins a generation of ours; a step without tokens ends it."""
    from reattend import ACT, KVCache, Session
    from reattend.models import ModelFile, read_llama

    model = read_llama(ModelFile(path))
    layers = model.config.num_layers

    def begin() -> Step:
        session = Session([ACT()] if method == "act" else [], num_layers=layers)
        cache = KVCache(layers)
        generation = session.generation()
        generation.__enter__()

        def step(tokens: np.ndarray | None) -> np.ndarray | None:
            if tokens is None:
                return generation.__exit__(None, None, None)
            return model.logits(model(tokens, cache, session)[:, -1])

        return step

    return begin


def transformers(path: Path, threads: int) -> Callable[[], Step]:
    """Give what begins a generation of transformers: its model's own calls, without generate()."""
    import torch
    from reattend.adaptors.transformers.caches import cache_argument, cache_of

    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="sdpa"
        )

    def begin() -> Step:
        cache = None

        def step(tokens: np.ndarray | None) -> np.ndarray | None:
            nonlocal cache
            if tokens is None:
                return None
            with torch.inference_mode():
                done = model(
                    input_ids=torch.from_numpy(tokens),
                    **{cache_argument(model): cache}, use_cache=True, logits_to_keep=1,
                )  # fmt: skip
            cache = cache_of(done)
            return done.logits[:, -1].numpy()

        return step

    return begin


if __name__ == "__main__":
    sys.exit(main())
