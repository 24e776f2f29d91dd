"""What each method and each field of a plan takes beside plain attention, in one run.

python benchmarks/method_costs.py                 a table, of LLaVA-1.5-7B's attention
python benchmarks/method_costs.py --json FILE     and the figures in a file, which the manual reads
python benchmarks/method_costs.py --rounds 5      quicker and less sure

One thread, and its CPU time: what other processes take is not counted, though they may take the
caches and the memory's bandwidth. So candidates have their turn in every round, plain attention in
several; a ratio is to plain attention of the same round, the median of all rounds. A prefill's
clock covers the opening of a generation and the search for sinks; not VHR's run of the prompt
without its image, which is a pass of the whole model.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from cases import SINK_DIM, Arrays, Case, make

CASES = {
    "prefill": Case("llava-1.5-7b prefill 640", 32, 32, 640, 640),
    "step": Case("llava-1.5-7b decode 1024", 32, 32, 1, 1024),
}
NUM_LAYERS, LAYER = 32, 10
PLAIN, PLAIN_TURNS = "plain", 4  # of each round: all ratios hang on it
ROUNDS_IN_PLACE = 5  # then arrays are made anew: where they lie in memory changes steps by 5%
CALLS = {"prefill": 1, "step": 10}  # of a turn
SPANS = ((5, 25), (40, 60))
HEADS = {LAYER: tuple(range(0, 32, 4))}  # where a method is for some heads

Calls = dict[str, Callable[[], Any]]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="the file to write")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each candidate; 15")
    parser.add_argument("--only", nargs="+", help="candidates, by name; all by default")
    options = parser.parse_args()
    import machine

    bystanders = machine.Bystanders()
    results: dict[str, Any] = {**machine.described(1), "rounds": options.rounds, "cases": {}}
    for kind, case in CASES.items():
        results["cases"][kind] = measured(kind, case, options.rounds, options.only)
    results["others"] = bystanders.share()
    found = [case["results"] for case in results["cases"].values()]
    results["table"] = {name: [told(each[name]) for each in found] for name in found[0]}
    print_table(results)
    if options.json:
        from results import write

        write(options.json, results)


def measured(kind: str, case: Case, rounds: int, only: list[str] | None) -> dict[str, Any]:
    """Time all candidates of a case in turns; the least and the median, in ms."""
    registry = settings()
    times: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {PLAIN: [1.0]}
    for number in range(rounds):
        print(f"{case.name}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        if number % ROUNDS_IN_PLACE == 0:
            calls = named_calls(kind, case, only)
            plain = np.array(calls[PLAIN]())
            acts = {
                name: name not in registry or not np.array_equal(outcome(call()), plain)
                for name, call in calls.items()
            }
            others = [name for name in calls if name != PLAIN]
        beside: list[float] = []
        for place, name in enumerate(others):
            if place % (len(others) // PLAIN_TURNS + 1) == 0:
                beside.append(turn(calls[PLAIN], CALLS[kind]))
            times.setdefault(name, []).append(turn(calls[name], CALLS[kind]))
        times.setdefault(PLAIN, []).extend(beside)
        for name in others:
            ratios.setdefault(name, []).append(times[name][-1] / median(beside))
    return {
        "name": case.name,
        "results": {
            name: {
                "least, ms": round(min(times[name]), 4),
                "median, ms": round(median(times[name]), 4),
                "ratio": round(median(ratios[name]), 4),
                "acts": acts[name],
            }
            for name in calls
        },
    }


def named_calls(kind: str, case: Case, only: list[str] | None) -> Calls:
    """Give the candidates, with arrays of their own."""
    arrays = make(case)
    calls = {**fields(case, arrays), **methods(kind, case, arrays)}
    return {name: call for name, call in calls.items() if not only or name in (PLAIN, *only)}


def turn(call: Callable[[], Any], times: int) -> float:
    """Give the CPU time of a call in ms, the mean of a turn; one call before it is not timed."""
    if times > 1:
        call()
    begin = time.thread_time()
    for _ in range(times):
        call()
    return 1000 * (time.thread_time() - begin) / times


def outcome(result: Any) -> Any:
    """Give a call's output, whatever else it gave."""
    return result.out if hasattr(result, "out") else result


def fields(case: Case, arrays: Arrays) -> Calls:
    """Give calls of `attention`: plain, with what edits scores, and with what it tells."""
    import reattend as ra

    call = functools.partial(ra.attention, *arrays[:3], causal=True, num_threads=1)
    assert arrays.image is not None
    slope = np.where(arrays.image, 0.2, 0)[:, None]
    labels = arrays.image[:, None].view(np.uint8)
    several = arrays.labels[None, None]
    told = functools.partial(call, segments=labels)
    return {
        PLAIN: call,
        "transform": functools.partial(call, transform=ra.Transform(slope=slope)),
        "null key": functools.partial(call, null_logit=np.ones((1, case.num_heads, 1), "f4")),
        "masses": functools.partial(told, returns="masses"),
        "score_sums": functools.partial(told, returns="score_sums"),
        "entropies": functools.partial(told, returns="entropies"),
        "largest": functools.partial(told, returns=("largest", "largest_keys")),
        "score_sums, 4 segments": functools.partial(call, segments=several, returns="score_sums"),
        "entropies, 4 segments": functools.partial(call, segments=several, returns="entropies"),
    }


def settings() -> dict[str, Any]:
    """Give each registered method with what makes it act in the layer."""
    import reattend as ra
    from reattend.head_vectors import HeadVectors
    from reattend.method import registered

    rng = np.random.default_rng(0)
    vectors = HeadVectors({LAYER: rng.standard_normal((32, 128), np.float32)})
    given: dict[str, dict[str, Any]] = {
        "VAR": {"sink_dims": (SINK_DIM,), "tau": 20 / 64},
        "VHR": {"layers": (LAYER,)},
        "ADHH": {"heads": HEADS, "threshold": 0.05},
        "CAAC": {"strength": 1.4},
        "ContextEmphasis": {"spans": SPANS, "heads": HEADS},
        "EAH": {"layers": (LAYER,)},
        "EvenHeads": {"heads": HEADS},
        "HeadMask": {"heads": HEADS},
        "HeadSteering": {"vectors": vectors},
        "ILVAD": {"saliency": tuple(rng.random(576).tolist())},
        "PAINT": {"top": tuple(range(100)), "bottom": tuple(range(100, 140))},
        "PASTA": {"spans": SPANS, "heads": HEADS},
        "RowEdit": {"spans": SPANS, "shares": (0.3, 0.2), "heads": HEADS, "phase": "both"},
        "SoftInjection": {"vectors": vectors},
        "SplitSoftmax": {"spans": SPANS, "heads": HEADS},
    }
    return {name: getattr(ra, name)(**given.get(name, {})) for name in registered()}


def methods(kind: str, case: Case, arrays: Arrays) -> Calls:
    """Give a call of a layer with each method, of the prompt or of a step behind it."""
    make_call = prompt_of if kind == "prefill" else step_of
    return {name: make_call(case, arrays, method) for name, method in settings().items()}


def prompt_of(case: Case, arrays: Arrays, method: Any) -> Callable[[], Any]:
    """Give the reading of a prompt."""
    import reattend as ra

    session = ra.Session(method, num_layers=NUM_LAYERS, num_heads=case.num_heads)
    texts = text_outputs(case, arrays, session) if method.needs_text_only else None

    def read() -> Any:
        with session.generation(arrays.image, text_outputs=texts):
            return session.attend(
                LAYER, *arrays[:3], hidden_states=arrays.hidden_states, num_threads=1
            )

    return read


def step_of(case: Case, arrays: Arrays, method: Any) -> Callable[[], Any]:
    """Read the prompt, and give the step behind it, which can be made again."""
    import reattend as ra

    session = ra.Session(method, num_layers=NUM_LAYERS, num_heads=case.num_heads)
    texts = text_outputs(case, arrays, session) if method.needs_text_only else None
    generation = session.generation(arrays.image, text_outputs=texts)
    generation.__enter__()
    whole = arrays.prompt, *(x[:, :, : case.prompt_len] for x in arrays[1:3])
    session.attend(LAYER, *whole, hidden_states=arrays.hidden_states, num_threads=1)
    session.attend(LAYER, arrays.query, *(x[:, :, :-1] for x in arrays[1:3]), num_threads=1)

    def step(open_: object = generation) -> Any:  # it ends when nobody holds it
        session._run.seen.clear()  # or the same row would not be taken again
        return session.attend(LAYER, *arrays[:3], num_threads=1)

    return step


def text_outputs(case: Case, arrays: Arrays, session: Any) -> dict[int, Any]:
    """Give the heads' outputs at the last row of the prompt without its image."""
    import reattend as ra

    assert arrays.image is not None
    text = ~arrays.image[0]
    rows = (x[:, :, : len(text)][:, :, text] for x in (arrays.prompt, *arrays[1:3]))
    return {LAYER: ra.attention(*rows, causal=True, num_threads=1)[:, :, -1]}


def print_table(results: dict[str, Any]) -> None:
    """Print the ratios of all candidates."""
    print(f"| times plain | {' | '.join(results['cases'])} |")
    print("| --- | --- | --- |")
    for name, cells in results["table"].items():
        print(f"| {name} | {' | '.join(cells)} |")
    print(json.dumps({"other processes' share of the CPUs": results["others"]}))


def told(result: dict[str, Any]) -> str:
    """Write a ratio; a method that changed nothing has none."""
    return f"{result['ratio']:.2f}" if result["acts"] else "-"


if __name__ == "__main__":
    main()
