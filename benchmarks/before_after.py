"""Time two trees beside each other, to see whether anything is slower than it was.

python benchmarks/before_after.py BEFORE AFTER             every case, each call that both have
python benchmarks/before_after.py BEFORE AFTER --call plain masked --seconds 60

BEFORE and AFTER are folders that hold `reattend` with its compiled core, such as `python/` of two
checkouts. Each runs in a process of its own, and so does BEFORE once more: what it seems to take
beside itself is what a difference may be by chance. All three read the same arrays and take turns,
in an order that is shuffled anew. Where memory lies is worth several per cent, so processes are
started, and arrays laid, --starts times: a ratio is the median of starts, with the least and the
largest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from cases import CASES, METHODS, Arrays, Candidate, Case, make
from numpy.typing import NDArray
from workers import ask, in_turn, start_script, stop

EXTRA = ("masked", "out", "adaptor")  # what run.py does not time
NAMES = ("before", "before again", "after")
Array = NDArray[np.float64]
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # else the disk's cache holds them
ADAPTOR = "16 tokens of a Llama of 16 layers"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trees", nargs="*", metavar="BEFORE AFTER")
    parser.add_argument("--case", nargs="+", metavar="TEXT", help="cases whose names hold a text")
    parser.add_argument("--call", nargs="+", choices=(*METHODS, *EXTRA), default=("plain", *EXTRA))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each call's turns; 20")
    parser.add_argument("--starts", type=int, default=5, help="of the processes; 5")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        answer()
        return
    if len(options.trees) != 2:
        parser.error("two trees are compared, BEFORE and AFTER")
    trees = dict(zip(NAMES, (options.trees[0], *options.trees), strict=True))
    print("| case | call | after | before again | before, ms |")
    print("| --- | --- | --- | --- | --- |")
    for case in CASES:
        if options.case and not any(text in case.name for text in options.case):
            continue
        calls = [call for call in options.call if call in (*case.methods, "masked", "out")]
        if calls:
            show(case.name, make(case), calls, trees, options)
    if "adaptor" in options.call and not options.case:
        show(ADAPTOR, None, ["adaptor"], trees, options)


def show(
    case: str, arrays: Arrays | None, calls: list[str], trees: dict[str, str], options: Any
) -> None:
    """Let processes take turns in each call, and print what is after beside before."""
    found: dict[str, list[dict[str, Array]]] = {call: [] for call in calls}
    for _ in range(options.starts):
        workers = {
            name: start(name, Path(tree).resolve(), options.threads) for name, tree in trees.items()
        }
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            if arrays is not None:
                lay(arrays, Path(folder))
            request = {"case": case, "folder": folder, "threads": options.threads}
            for call in calls:
                for worker in workers.values():
                    ask(worker, {"ask": "prepare", "call": call, **request})
                found[call].append(turns(workers, options.seconds / options.starts))
        stop(workers.values())
    for call, starts in found.items():
        cells = [case, call]
        for name in ("after", "before again"):
            ratios = sorted(median(each[name] / each["before"]) for each in starts)
            cells.append(f"{median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")
        cells.append(f"{median(median(each['before']) for each in starts):.3g}")
        print(f"| {' | '.join(cells)} |", flush=True)


def turns(workers: dict[str, Any], seconds: float) -> dict[str, Array]:
    """Give the times of each worker's turns, in ms."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["after"]) < 3:
        for name in in_turn(workers, len(times["after"])):
            times[name].append(ask(workers[name], {"ask": "turn"})["ms"])
    return {name: np.array(some) for name, some in times.items()}


def start(name: str, tree: Path, threads: int) -> Any:
    """Start a process that imports the `reattend` of a tree."""
    paths = os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))
    worker = start_script([__file__, "--worker", name], "passive", threads, PYTHONPATH=paths)
    found = Path(ask(worker, {"ask": "where"})["where"])
    if tree not in found.parents:
        raise SystemExit(f"{tree} holds no reattend that can be imported: got {found}")
    return worker


def lay(arrays: Arrays, folder: Path) -> None:
    """Write a case's arrays where every worker maps the same memory."""
    for name, array in arrays._asdict().items():
        if array is not None:
            bits = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
            np.save(folder / f"{name}.npy", bits)


def answer() -> None:
    """Be a worker: prepare what is asked for, and time a turn of it."""
    import reattend

    candidate, open_ = Candidate(lambda: None), ExitStack()
    calls = 1
    for line in sys.stdin:
        request = json.loads(line)
        if request["ask"] == "where":
            reply: dict[str, Any] = {"where": reattend.__file__}
        elif request["ask"] == "prepare":
            open_.close()
            candidate = prepared(request, open_)
            calls = calls_in_a_turn(candidate)
            reply = {}
        else:
            reply = {"ms": turn(candidate, calls)}
        print(json.dumps(reply), flush=True)


def prepared(request: dict[str, Any], open_: ExitStack) -> Candidate:
    """Make a call of a case ready, on arrays that are mapped."""
    import reattend as ra
    from ours import reattend as ours

    if request["call"] == "adaptor":
        return Candidate(open_.enter_context(attached_llama()))
    case = next(case for case in CASES if case.name == request["case"])
    arrays = mapped(case, Path(request["folder"]))
    call = partial(
        ra.attention, *arrays[:3], causal=True, window=case.window, num_threads=request["threads"]
    )
    if request["call"] == "masked":
        mask = np.ones((case.batch, case.key_len), bool)
        mask[:, :5] = False  # padding at the left
        return Candidate(partial(call, key_mask=mask))
    if request["call"] == "out":
        return Candidate(partial(call, out=np.empty(arrays.query.shape, arrays.query.dtype)))
    candidate = ours(case, arrays, request["call"], request["threads"])
    assert candidate is not None
    return candidate


def mapped(case: Case, folder: Path) -> Arrays:
    """Map a case's arrays; what is mapped can't be written."""
    arrays: dict[str, Any] = {}
    for name in Arrays._fields:
        path = folder / f"{name}.npy"
        array = np.asarray(np.load(path, mmap_mode="r")) if path.exists() else None
        if array is not None and array.dtype == np.uint16:
            import ml_dtypes

            array = array.view(ml_dtypes.bfloat16)
        arrays[name] = array
    return Arrays(**arrays)


@contextmanager
def attached_llama() -> Iterator[Callable[[], object]]:
    """Give 16 tokens of a Llama of 16 layers that are little else than attention, attached."""
    import torch
    import transformers as hf
    from reattend.adaptors.transformers import attached

    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=64, hidden_size=36, intermediate_size=36, num_hidden_layers=16, head_dim=64,
        num_attention_heads=9, num_key_value_heads=3,
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config).eval()
    prompt = torch.arange(64)[None]
    with attached(model, []):
        yield partial(
            model.generate, prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
            min_new_tokens=16, max_new_tokens=16, pad_token_id=0,
        )  # fmt: skip


def calls_in_a_turn(candidate: Candidate) -> int:
    """Give how many calls take some 5 ms; a call that needs another before it is one of four."""
    if candidate.before is not None:
        return 4
    for _ in range(2):
        begin = time.perf_counter()
        candidate.run()
        once = time.perf_counter() - begin
    return max(1, min(500, int(5e-3 / once)))


def turn(candidate: Candidate, calls: int) -> float:
    """Time a turn in ms a call, behind a call that wakes threads and is not timed."""
    elapsed = 0.0
    if candidate.before is None and calls > 1:
        candidate.run()
    for _ in range(calls):
        if candidate.before is not None:
            candidate.before()
        begin = time.perf_counter()
        candidate.run()
        elapsed += time.perf_counter() - begin
    return 1000 * elapsed / calls


if __name__ == "__main__":
    main()
