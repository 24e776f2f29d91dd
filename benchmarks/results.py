"""Reading what run.py wrote: times, ratios, errors and shares of the machine, by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any


class Measured:
    """One case of a run. What was not measured is None, and so is what follows from it."""

    def __init__(self, case: dict[str, Any]) -> None:
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


def over(one: float | None, other: float | None) -> float | None:
    """Divide, where both were measured."""
    return one / other if one is not None and other else None


def read(path: Path) -> dict[str, Any]:
    """Read a run; its cases become `Measured`, by name."""
    run: dict[str, Any] = json.loads(path.read_text())
    return {**run, "cases": {case["name"]: Measured(case) for case in run["cases"]}}


def write(path: Path, results: dict[str, Any]) -> None:
    """Write a whole file or none: a run that is cut off leaves the last whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(part, path)
