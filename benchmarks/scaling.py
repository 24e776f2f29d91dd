"""How time and memory grow: with length, to 65,536 rows and 262,144 keys, with threads, with batch.

python benchmarks/scaling.py --json FILE           all of it, in about eight minutes
python benchmarks/scaling.py --json FILE --resume  what FILE has not got yet
python benchmarks/scaling.py --quick               short ones, in seconds

Eight heads of 128, float32. A point is timed for about a second, or once if that takes longer;
what would take too long or too much memory is left out, and named. Short points are checked
against the full matrix first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from cases import Arrays, Candidate, Case, make
from run import set_threads

CANDIDATES = {  # a peer and what it does
    "reattend": ("reattend", "plain"),
    "reattend, VAR": ("reattend", "policy"),
    "reattend, column sums": ("reattend", "column_sums"),
    "torch SDPA": ("torch-sdpa", "plain"),
    "torch eager": ("torch-eager", "plain"),
    "torch eager, VAR": ("torch-eager", "VAR"),
}
HEADS = 8
SECONDS, QUICK_SECONDS = 0.7, 0.02  # to time a point for
LONGEST = 20.0  # seconds of one call
MOST_BYTES = 8e9  # of the matrix and what is made of it
CHECKED = 1024  # rows and keys of the longest point that is checked


class Point(NamedTuple):
    sweep: str
    x: int  # what the sweep varies
    case: Case
    threads: int
    memory: bool = False


def prefill(length: int, **more: Any) -> Case:
    """Give a prompt of which up to 576 tokens are an image."""
    image = (36, 36 + min(576, length // 2))
    return Case(
        f"prefill {length}", HEADS, HEADS, length, length, image=image, hidden_size=8, **more
    )


def decode(length: int, **more: Any) -> Case:
    """Give a step behind `length` keys, with an image in the prompt's first half."""
    prompt = min(640, length - 2)
    image = (36, 36 + prompt // 2)
    case = Case(f"decode {length}", HEADS, HEADS, 1, length, prompt_len=prompt, image=image)
    return replace(case, hidden_size=8, **more)


# Memory at lengths 1024, 4096, 16384 ...: each takes a process.
def points(threads: int, quick: bool) -> Iterator[Point]:
    """Give all points, in an order in which each sweep grows."""
    top = 10 if quick else 16  # the longest prompt is 2 ** top
    for power in range(7, top + 1):
        window = 4096 if power == 16 else None
        memory = power >= 10 and power % 2 == 0 and not quick
        yield Point("prefill", 2**power, prefill(2**power, window=window), threads, memory)
    for power in range(7, 11 if quick else 19):
        memory = power >= 10 and power % 2 == 0 and not quick
        yield Point("decode", 2**power, decode(2**power), threads, memory)
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < threads]
    for count in [*counts, threads]:
        yield Point("prefill, threads", count, prefill(256 if quick else 2048), count)
    for count in [*counts, threads]:
        yield Point("decode, threads", count, decode(256 if quick else 32768), count)
    for batch in (1, 2, 4) if quick else (1, 2, 4, 8, 16, 32):
        yield Point("prefill, batch", batch, prefill(256, batch=batch), threads)
    for batch in (1, 2, 4) if quick else (1, 2, 4, 8, 16, 32):
        yield Point("decode, batch", batch, decode(1024 if quick else 4096, batch=batch), threads)


def main() -> int:
    """Run the command line; the exit status is 1 if a result was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times to FILE")
    parser.add_argument("--resume", action="store_true", help="keep what FILE has already")
    parser.add_argument("--quick", action="store_true", help="short points only")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="at most")
    options = parser.parse_args()
    set_threads(options.threads)
    import machine
    from peers import PEERS
    from results import write

    study: dict[str, Any] = {**machine.described(options.threads), "heads": HEADS, "points": []}
    if options.resume and options.json and options.json.exists():
        study["points"] = json.loads(options.json.read_text())["points"]
    missing = {peer for peer, _ in CANDIDATES.values() if PEERS[peer].missing}
    for peer in sorted(missing):
        print(f"{peer} is skipped: not installed", file=sys.stderr)
    found = {(row["sweep"], row["x"], row["candidate"]): row for row in study["points"]}
    for point in points(options.threads, options.quick):
        wanted = [
            name
            for name, (peer, _) in CANDIDATES.items()
            if peer not in missing and (point.sweep, point.x, name) not in found
        ]
        arrays = make(point.case) if wanted else None
        for name in wanted:
            assert arrays is not None
            before = [row for row in study["points"] if _leads_to(row, point, name)]
            seconds = QUICK_SECONDS if options.quick else SECONDS
            row = _measured(point, name, arrays, before[-1] if before else None, seconds)
            study["points"].append(row)
            print(_line(row), file=sys.stderr, flush=True)
        if options.json:
            write(options.json, study)
    return 1 if any(row.get("right") is False for row in study["points"]) else 0


def _leads_to(row: dict[str, Any], point: Point, name: str) -> bool:
    return row["sweep"] == point.sweep and row["candidate"] == name and bool(row["times"])


def _measured(
    point: Point, name: str, arrays: Arrays, before: dict[str, Any] | None, seconds: float
) -> dict[str, Any]:
    """Time a candidate at a point, check it where that is quick, and ask for its memory."""
    import memory
    from expected import TOLERANCE, error
    from peers import PEERS

    case = point.case
    peer, method = CANDIDATES[name]
    row: dict[str, Any] = {
        "sweep": point.sweep, "x": point.x, "candidate": name, "window": case.window,
        "work": case.flops, "times": [], "peak memory": None, "skipped": None,
    }  # fmt: skip
    row["skipped"] = _too_much(point, name, before)
    if row["skipped"]:
        return row
    candidate = PEERS[peer].make(case, arrays, method, point.threads)
    if candidate is None:
        return {**row, "skipped": "has no window" if case.window else "does not do this"}
    begin = time.perf_counter()
    out = candidate.run()
    first = time.perf_counter() - begin
    if max(case.key_len, case.query_len) <= CHECKED:
        off = error(case, arrays, method, out)
        row |= {"error": off, "right": off <= TOLERANCE[case.dtype]}
    row["times"] = _times(candidate, first, seconds)
    if point.memory:
        row["peak memory"] = memory.measured(case, peer, method, point.threads)
    return row


def _too_much(point: Point, name: str, before: dict[str, Any] | None) -> str | None:
    """Say why a candidate is left out of a point, judging by the point before."""
    case = point.case
    matrix = 4 * case.batch * case.num_heads * case.query_len * case.key_len
    if "eager" in name and 3 * matrix > MOST_BYTES:
        return f"about {3 * matrix / 1e9:.0f} GB"
    if before is not None and "threads" not in point.sweep:
        seconds = median(before["times"]) / 1000 * case.flops / before["work"]
        if seconds > LONGEST:
            return f"about {seconds:.0f} s"
    return None


def _times(candidate: Candidate, first: float, seconds: float) -> list[float]:
    """Time calls in ms until the seconds are over; a first one of more than three must do."""
    if first > 3:
        return [round(1000 * first, 4)]
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 1000 * seconds and len(times) < 100):
        begin = time.perf_counter()
        candidate.run()
        times.append(round(1000 * (time.perf_counter() - begin), 4))
    return times


def _line(row: dict[str, Any]) -> str:
    text = f"{row['sweep']} {row['x']}: {row['candidate']} "
    if row["skipped"]:
        return f"{text}is left out: {row['skipped']}"
    peak = row["peak memory"]
    wrong = "" if row.get("right", True) else f"  WRONG, off by {row['error']:.0e}"
    memory = "" if peak is None else f", {peak / 1e6:.1f} MB"
    return f"{text}{median(row['times']):.3f} ms{memory}{wrong}"


if __name__ == "__main__":
    sys.exit(main())
