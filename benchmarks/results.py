"""Reading what run.py wrote: times, ratios, errors and shares of the machine, by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from reattend.whole_file import whole_file

DECODE_CALLS = 4  # timed ones of a decode candidate in its turn: they are short
SLOW_EVERY = 4  # rounds; slower candidates have their turn in the first and then in every fourth

Name = tuple[str, str]  # peer, method


class Measured:
    """One case of a run. What was not measured is None, and so is what follows from it."""

    def __init__(self, case: dict[str, Any], repeat: int) -> None:
        self.repeat = repeat
        self.name: str = case["name"]
        self.fields: dict[str, Any] = case["case"]
        self.flops: int = case["flops"]
        self.cache_bytes: int = case["cache bytes"]
        self.rates: dict[str, float] = case["rates"]
        self.others: float | None = case["other processes"]
        self.rows = {(row["peer"], row["method"]): row for row in case["results"]}
        self.decode = self.fields["query_len"] == 1

    def time(
        self, peer: str = "reattend", method: str = "plain",
        of: Callable[[Sequence[float]], float] = median,
    ) -> float | None:  # fmt: skip
        """Give the median time in ms."""
        times = self.rows.get((peer, method), {}).get("times")
        return of(times) if times else None

    def ratio(self, one: Name, other: Name) -> float | None:
        """Give how many times longer one takes: the median of the ratios round by round.

        What slows the machine for a while slows both, and cancels.
        """
        ones, others = self._turns(one), self._turns(other)
        ratios = [ones[turn] / others[turn] for turn in ones.keys() & others.keys()]
        return median(ratios) if ratios else None

    def _turns(self, name: Name) -> dict[int, float]:
        """Give the time of each turn by its round; of several calls in a turn the median."""
        times = self.rows.get(name, {}).get("times", [])
        calls = DECODE_CALLS if self.decode else 1
        turns = [median(times[at : at + calls]) for at in range(0, len(times), calls)]
        every = 1 if len(turns) == self.repeat else SLOW_EVERY
        return {every * place: time for place, time in enumerate(turns)}

    def error(self, peer: str = "reattend", method: str = "plain") -> float | None:
        """Give the largest error against float64."""
        found: float | None = self.rows.get((peer, method), {}).get("error")
        return found

    def memory(self, peer: str = "reattend", method: str = "plain") -> float | None:
        """Give the peak memory in bytes."""
        found: float | None = self.rows.get((peer, method), {}).get("peak memory")
        return found

    def eager_error(self) -> float | None:
        """Give what ours is held against: NumPy's float32 matrix, or torch in the same 16 bits."""
        if self.fields["dtype"] == "float32":
            return self.error("numpy-eager")
        return self.error("torch-sdpa")

    def rate(self) -> float | None:
        """Give GFLOP/s at prefill, GB/s of keys and values at decode."""
        work = self.cache_bytes if self.decode else self.flops
        return over(work / 1e6, self.time())

    def share(self, of: str | None = None) -> float | None:
        """Give the rate as a part of what the machine can do."""
        return over(self.rate(), self.rates.get(of or self.bound()))

    def bound(self) -> str:
        """Name the rate that bounds the case."""
        return "memory, GB/s" if self.decode else "tile rate, GFLOP/s"


_NOT_RUN = Measured(
    {
        "name": "", "case": {"query_len": 0, "dtype": ""}, "flops": 0, "cache bytes": 0,
        "rates": {}, "other processes": None, "results": [],
    },
    repeat=0,
)  # fmt: skip


def over(one: float | None, other: float | None) -> float | None:
    """Divide, where both were measured."""
    return one / other if one is not None and other else None


class Run:
    """What one command measured: cases by name, in order, and the machine."""

    def __init__(self, path: Path) -> None:
        self.facts: dict[str, Any] = json.loads(path.read_text())
        cases = self.facts.pop("cases")
        rounds = [case.get("repeat", self.facts["repeat"]) for case in cases]
        self.cases = {
            case["name"]: Measured(case, repeat) for case, repeat in zip(cases, rounds, strict=True)
        }
        self.commits = {case.get("commit", self.facts["commit"]): None for case in cases}
        self.rounds = sorted(set(rounds))

    def __getitem__(self, name: str) -> Measured:
        """Give a case; one without results if it was not run."""
        return self.cases.get(name, _NOT_RUN)


class Study:
    """What scaling.py measured: points by sweep and candidate."""

    def __init__(self, path: Path) -> None:
        self.facts: dict[str, Any] = json.loads(path.read_text())
        self.points: list[dict[str, Any]] = self.facts.pop("points")

    def candidates(self, sweep: str) -> list[str]:
        """Name who was measured, in order."""
        return list(dict.fromkeys(row["candidate"] for row in self.points if row["sweep"] == sweep))

    def times(self, sweep: str, candidate: str) -> list[tuple[int, float]]:
        """Give what was varied and the median time in ms."""
        rows = self._rows(sweep, candidate)
        return [(row["x"], median(row["times"])) for row in rows if row["times"]]

    def memory(self, sweep: str, candidate: str) -> list[tuple[int, float]]:
        """Give what was varied and the peak memory in bytes."""
        rows = self._rows(sweep, candidate)
        return [(row["x"], row["peak memory"]) for row in rows if row["peak memory"] is not None]

    def windowed(self, sweep: str) -> dict[int, int]:
        """Give the windows, of points that have one."""
        return {r["x"]: r["window"] for r in self.points if r["sweep"] == sweep and r["window"]}

    def _rows(self, sweep: str, candidate: str) -> list[dict[str, Any]]:
        return [r for r in self.points if (r["sweep"], r["candidate"]) == (sweep, candidate)]


def updated(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Give a file's run with the cases of another in place of its own; each knows its run."""
    cases: dict[str, Any] = {}
    for run in (json.loads(path.read_text()) if path.is_file() else results, results):
        known = {"commit": run["commit"], "repeat": run["repeat"]}
        cases |= {case["name"]: {**known, **case} for case in run["cases"]}
    return {**results, "cases": list(cases.values())}


def write(path: Path, results: dict[str, Any]) -> None:
    """Write a whole file or none: a run that is cut off leaves the last whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(json.dumps(results, indent=1) + "\n")
