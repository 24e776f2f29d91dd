"""What Python costs in one small call: instructions, counted by Callgrind, and time.

python benchmarks/overhead.py               SmolLM2's 9 of 3 heads, one row, 64 keys
python benchmarks/overhead.py --no-count    time alone: Callgrind takes a minute
python benchmarks/overhead.py --steps       steps of methods: 256 keys, of which an image is 138

`core` is the compiled call that `attention` hands its arguments to. What `attention` and
`Session.attend` take beyond it is the overhead. Instructions do not depend on what else the machine
does; Callgrind knows no AVX-512, so all is held to AVX2.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from cases import SINK_DIM, Arrays, Case, make

CALLS = ("core", "attention", "session")
COUNTED = 1500  # calls that two runs differ by: what importing takes differs by millions
TIMED = 2000  # calls in a turn
TURNS = 15
STEP = Case(
    "step", 9, 3, query_len=1, key_len=256, head_dim=64, prompt_len=200, image=(22, 160),
    hidden_size=576,
)  # fmt: skip
NUM_LAYERS, LAYER = 40, 30


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-count", action="store_true", help="leave out the instructions")
    parser.add_argument("--steps", action="store_true", help="steps of methods")
    parser.add_argument("--rounds", type=int, default=300, help="short turns of each step; 300")
    parser.add_argument("--call", choices=CALLS, help=argparse.SUPPRESS)
    parser.add_argument("--times", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        repeat(calls()[options.call], options.times)
        return
    if options.steps:
        show_steps(options.rounds)
        return
    counts: dict[str, float] = {}
    if not options.no_count and shutil.which("valgrind") is None:
        print("instructions are not counted: valgrind is not installed", file=sys.stderr)
    elif not options.no_count:
        counts = {call: counted(call) for call in CALLS}
    turns: dict[str, list[float]] = {call: [] for call in CALLS}
    ready = calls()
    for _ in range(TURNS + 1):  # the first warms up
        for call in CALLS:
            begin = time.perf_counter()
            repeat(ready[call], TIMED)
            turns[call].append(1e6 * (time.perf_counter() - begin) / TIMED)
    print("| call | us | beyond core, us | instructions | beyond core |")
    print("| --- | --- | --- | --- | --- |")
    for call in CALLS:
        own, core = (np.array(turns[each][1:]) for each in (call, "core"))
        cells = [call, f"{median(own):.1f}", f"{median(own - core):.1f}"]
        cells += (
            [f"{counts[call] - less:,.0f}" for less in (0, counts["core"])] if counts else ["", ""]
        )
        print(f"| {' | '.join(cells)} |")


def calls() -> dict[str, Callable[[], object]]:
    """Give each call, ready to be made."""
    import reattend
    from reattend import _core
    from reattend.border.request import PLAIN, MaskSpec

    rng = np.random.default_rng(0)
    query = rng.standard_normal((1, 9, 1, 64), dtype=np.float32)
    key, value = rng.standard_normal((2, 1, 3, 64, 64), dtype=np.float32)
    mask = MaskSpec(causal=True)
    session = reattend.Session([], num_layers=1)
    generation = session.generation(prompt_len=63)
    generation.__enter__()

    def step(open_: object = generation) -> object:  # it ends when nobody holds it
        session._run.seen.clear()  # or the same row would not be taken again
        return session.attend(0, query, key, value, num_threads=1)

    return {
        "core": lambda: _core.attention(query, key, value, mask, PLAIN, 1),
        "attention": lambda: reattend.attention(query, key, value, causal=True, num_threads=1),
        "session": step,
    }


def show_steps(rounds: int) -> None:
    """Print what a step takes beyond plain attention, the least of many turns of 20 calls."""
    ready = steps()
    least = dict.fromkeys(ready, np.inf)
    for _ in range(rounds):
        for name, call in ready.items():
            begin = time.perf_counter()
            repeat(call, 20)
            least[name] = min(least[name], 1e6 * (time.perf_counter() - begin) / 20)
    print("| step | us | beyond attention, us | times attention |")
    print("| --- | --- | --- | --- |")
    plain = least["attention"]
    for name, own in least.items():
        print(f"| {name} | {own:.1f} | {own - plain:.1f} | {own / plain:.2f} |")


def steps() -> dict[str, Callable[[], object]]:
    """Give a step of attention, of a session without methods and with some, ready to be made."""
    import reattend as ra

    arrays = make(STEP)
    var = ra.VAR(sink_dims=(SINK_DIM,), tau=20 / 64)
    vhr, act = ra.VHR(layers=tuple(range(NUM_LAYERS))), ra.ACT()
    methods: dict[str, list[ra.Method]] = {
        "session": [], "VAR": [var], "VHR": [vhr], "ACT": [act], "VAR, ACT": [var, act],
        "VAR, VHR, ACT": [var, vhr, act],
    }  # fmt: skip
    query, key, value = arrays.query, arrays.key, arrays.value
    ready: dict[str, Callable[[], object]] = {
        "attention": lambda: ra.attention(query, key, value, causal=True, num_threads=1)
    }
    return ready | {name: step_of(arrays, some) for name, some in methods.items()}


def step_of(arrays: Arrays, methods: list[Any]) -> Callable[[], object]:
    """Read the prompt with methods, and give the step behind it, which can be made again."""
    import reattend as ra

    session = ra.Session(methods, num_layers=NUM_LAYERS)
    query, key, value = arrays.query, arrays.key, arrays.value
    assert arrays.image is not None
    whole = arrays.prompt, *(x[:, :, : STEP.prompt_len] for x in (key, value))
    with session.text_only():
        session.attend(LAYER, *(x[:, :, ~arrays.image[0]] for x in whole))
    generation = session.generation(arrays.image)
    generation.__enter__()
    session.attend(LAYER, *whole, hidden_states=arrays.hidden_states)
    session.attend(LAYER, query, *(x[:, :, :-1] for x in (key, value)), num_threads=1)

    def step(open_: object = generation) -> object:  # it ends when nobody holds it
        session._run.seen.clear()  # or the same row would not be taken again
        return session.attend(LAYER, query, key, value, num_threads=1)

    return step


def repeat(call: Callable[[], object], times: int) -> None:
    """Make a call again and again."""
    for _ in range(times):
        call()


def counted(call: str) -> float:
    """Count a call's instructions: two runs differ by so many calls, and by nothing else."""
    few, many = (_instructions(call, times) for times in (COUNTED, 2 * COUNTED))
    return (many - few) / COUNTED


def _instructions(call: str, times: int) -> int:
    print(f"Counting {times} calls of {call} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "counts")
        subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={file}", sys.executable,
             __file__, "--call", call, "--times", str(times)],
            env={**os.environ, "REATTEND_MAX_ISA": "v3", "OPENBLAS_CORETYPE": "Haswell",
                 "OPENBLAS_NUM_THREADS": "1",  # threads that wait for work would be counted too
                 "PYTHONHASHSEED": "0"},
            check=True, capture_output=True,
        )  # fmt: skip
        totals = re.search(r"^(?:summary|totals): (\d+)", file.read_text(), re.MULTILINE)
    assert totals is not None
    return int(totals[1])


if __name__ == "__main__":
    main()
