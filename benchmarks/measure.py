"""One case: every candidate is checked, then timed in turns, then asked for its peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import memory
from cases import Arrays, Candidate, Case, make
from expected import TOLERANCE, error
from machine import Bystanders
from peers import PEERS
from rates import Rates
from results import DECODE_CALLS, SLOW_EVERY
from workers import in_turn

WARM_CALLS = 2  # of a decode candidate in front of those that are timed
SLOW = 1000.0  # ms; slower candidates do not have their turn in every round


def measure(
    case: Case, peers: Sequence[str], methods: Sequence[str], repeat: int, threads: int, peaks: bool
) -> dict[str, Any]:
    """Give a row for each candidate: peer, method, error, times in ms, bytes of peak memory."""
    arrays = make(case)
    rows, candidates = [], []
    for peer in peers:
        for method in (each for each in case.methods if each in methods):
            candidate = PEERS[peer].make(case, arrays, method, threads)
            if candidate is not None:
                candidates.append(candidate)
                rows.append(_checked(case, arrays, peer, method, candidate))
    bystanders, rates = Bystanders(), Rates(case)
    for round_ in range(repeat):
        rates.measure()
        for place in in_turn(range(len(rows)), round_):
            times = rows[place]["times"]
            if round_ % SLOW_EVERY == 0 or times[0] < SLOW:
                times += _turn(case, candidates[place])
    others = bystanders.share()
    for row in rows if peaks else []:
        if not PEERS[row["peer"]].compiles:
            row["peak memory"] = memory.measured(case, row["peer"], row["method"], threads)
    return {
        "name": case.name,
        "case": asdict(case),
        "flops": case.flops,
        "cache bytes": case.cache_bytes,
        "rates": rates.medians(),
        "other processes": others,
        "results": rows,
    }


def _checked(
    case: Case, arrays: Arrays, peer: str, method: str, candidate: Candidate
) -> dict[str, Any]:
    if candidate.before is not None:
        candidate.before()
    off = error(case, arrays, method, candidate.run())
    right = off <= TOLERANCE[case.dtype]
    if not right:
        print(f"{case.name}: {peer} {method} is OFF by {off:.2g}", file=sys.stderr)
    return {"peer": peer, "method": method, "error": off, "right": right, "times": []}


def _turn(case: Case, candidate: Candidate) -> list[float]:
    """Time a candidate in ms: once, or a decode step several times.

    In front of timed decode steps run untimed ones of the same candidate, so that nobody pays for
    threads that another one put to sleep; where a step needs another before it, that one does.
    """
    times = []
    if case.decode and candidate.before is None:
        for _ in range(WARM_CALLS):
            candidate.run()
    for _ in range(DECODE_CALLS if case.decode else 1):
        if candidate.before is not None:
            candidate.before()
        begin = time.perf_counter()
        candidate.run()
        times.append(round(1000 * (time.perf_counter() - begin), 4))
    return times
