"""The demonstration's model beside transformers with the same weights: to load, to read, a token.

python benchmarks/describe.py                       one picture, and 16 side by side
python benchmarks/describe.py --json results.json   and every time in a file

Each candidate is a process of its own and they take turns; tokens are compared before a clock
counts. Both take the likeliest token, in float32.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import machine
import numpy as np
import results
import workers

ROOT = Path(__file__).resolve().parents[1]
CANDIDATES = {  # how OpenMP's threads wait for work: see generate.py
    "plain": "passive",
    "var": "passive",
    "vhr": "passive",
    "act": "passive",
    "transformers": None,
}
PEER = "transformers"
TOKENS = 24  # of each answer
Describe = Callable[[np.ndarray, int], Iterator[np.ndarray]]


def main() -> int:
    """Run the command line; the exit status is 1 if tokens differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="weights; those of the package by default")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="pictures at once")
    parser.add_argument("--repeat", type=int, default=5, help="turns")
    parser.add_argument("--threads", type=int, default=2, help="of each candidate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times to FILE")
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.candidate:
        serve(options.candidate, options.model, options.threads)
        return 0

    from reattend.models import SHIPPED_WEIGHTS

    path = (options.model or SHIPPED_WEIGHTS).resolve()
    found: dict[str, Any] = {**machine.described(options.threads), "load": {}, "cases": []}
    running: dict[str, Any] = {}
    try:
        for name, policy in CANDIDATES.items():  # the next one loads when this one is ready
            running[name] = workers.start(__file__, name, policy, path, options.threads)
            found["load"][name] = workers.ask(running[name], {"batch": 1})["load"]
        for batch in options.batch:
            found["cases"].append(measure(running, batch, options.repeat))
    finally:
        workers.stop(running.values())
    print(table(found))
    if options.json:
        results.write(options.json, found)
    return 0 if all(case["same tokens"] for case in found["cases"]) else 1


def measure(running: dict[str, Any], batch: int, repeat: int) -> dict[str, Any]:
    """Let every candidate describe the same pictures in turn; the first turn is compared."""
    times: dict[str, Any] = {name: {"read": [], "token": []} for name in running}
    tokens = {}
    for turn in range(repeat + 1):
        for name in workers.in_turn(running, turn):
            reply = workers.ask(running[name], {"batch": batch})
            if turn == 0:
                tokens[name] = reply["tokens"]
                continue
            times[name]["read"].append(reply["seconds"][0])
            times[name]["token"] += reply["seconds"][1:]
    return {"batch": batch, "times": times, "same tokens": tokens["plain"] == tokens[PEER]}


def table(found: dict[str, Any]) -> str:
    """Write medians, with the ratio to transformers."""
    heads = [""]
    for case in found["cases"]:
        same = "" if case["same tokens"] else ", TOKENS DIFFER"
        heads += [f"to read {case['batch']}, s{same}", "a token, ms"]
    lines = [f"| {' | '.join([*heads, 'to load, s'])} |", "| --- " * (len(heads) + 1) + "|"]
    for name in CANDIDATES:
        cells = [name]
        for case in found["cases"]:
            for part, unit in (("read", 1), ("token", 1000)):
                own, theirs = (median(case["times"][n][part]) for n in (name, PEER))
                cells.append(f"{own * unit:.3g} ({theirs / own:.2f}x)")
        lines.append(f"| {' | '.join([*cells, format(found['load'][name], '.1f')])} |")
    return "\n".join(lines)


def serve(name: str, path: Path, threads: int) -> None:
    """Answer requests until there are none."""
    from reattend.evaluation.datasets.emoji_world import World

    replies, sys.stdout = sys.stdout, sys.stderr  # whatever libraries print is no reply
    world = World(split="test")
    build = transformers if name == PEER else ours
    world.scene(0)  # reads the font of the pictures
    started = time.perf_counter()
    describe = build(name, path, threads)
    load = time.perf_counter() - started
    for line in sys.stdin:
        pixels = np.stack([world.scene(index).pixels for index in range(json.loads(line)["batch"])])
        tokens, seconds, started = [], [], time.perf_counter()
        for step in describe(pixels, TOKENS):
            seconds.append(time.perf_counter() - started)
            tokens.append(step.tolist())
            started = time.perf_counter()
        reply = {"tokens": tokens, "seconds": seconds, "load": load}
        print(json.dumps(reply), file=replies, flush=True)


def ours(name: str, path: Path, threads: int) -> Describe:
    """Give the NumPy model with a method."""
    from reattend import Session
    from reattend.evaluation.datasets.emoji_world import DESCRIBE
    from reattend.evaluation.loading import load

    loaded = load(path)._replace(profile=None)  # at the papers' strengths
    model = loaded.model

    def describe(pixels: np.ndarray, count: int) -> Iterator[np.ndarray]:
        session = Session(loaded.methods(name), num_layers=model.llama.config.num_layers)
        prompts = [model.prompt(DESCRIBE)] * len(pixels)
        return model.generate(session, prompts, pixels, max_new_tokens=count, stop=())

    return describe


def transformers(name: str, path: Path, threads: int) -> Describe:
    """Give the torch model, what it learnt merged: transformers' own calls, without generate()."""
    sys.path.insert(0, str(ROOT / "python" / "training"))
    import torch
    from network import read_network
    from reattend.adaptors.transformers.caches import cache_argument, cache_of
    from reattend.evaluation.datasets.emoji_world import DESCRIBE
    from reattend.models import ModelFile, Tokenizer, find_smollm2
    from samples import Texts

    torch.set_num_threads(threads)
    language = find_smollm2()
    network = read_network(language, path)
    network.merge()
    texts = Texts(Tokenizer(ModelFile(language)))
    prompt = torch.tensor([*texts.start(), *texts.question(DESCRIBE)])

    def describe(pixels: np.ndarray, count: int) -> Iterator[np.ndarray]:
        cache, ids = None, prompt.expand(len(pixels), -1)
        for step in range(count):
            with torch.inference_mode():
                if step:
                    embedded = network.embedding[ids]
                else:
                    embedded = network.embed(ids, torch.from_numpy(pixels))
                held = {cache_argument(network.language): cache}
                done = network.language(
                    inputs_embeds=embedded, **held, use_cache=True, logits_to_keep=1
                )
                cache, ids = cache_of(done), done.logits[:, -1:].argmax(-1)
            yield ids[:, 0].numpy()

    return describe


if __name__ == "__main__":
    sys.exit(main())
