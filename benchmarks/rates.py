"""What the machine can do: oneDNN's rate on tiles like attention's, and how fast memory is read.

Measured in the rounds of a case, like a candidate, so that all saw the same machine.
"""

from __future__ import annotations

from functools import cache
from statistics import median

from cases import Case

TILE_ROWS = (64, 128)
TILE_KEYS = 256
SECONDS = 0.05  # of one measurement
MEMORY = 2**28  # bytes, several times the last cache


@cache
def missing() -> tuple[str, ...]:
    """Give the figures that this build of reattend cannot measure."""
    from reattend import _core

    return tuple(name for name in ("matmul_rate", "read_bandwidth") if not hasattr(_core, name))


class Rates:
    """The machine's rates over the rounds of one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.found: dict[str, list[float]] = {}

    def measure(self) -> None:
        """Measure once what bounds the case: its products, or reading its keys and values."""
        from reattend import _core

        if not self.case.decode and "matmul_rate" not in missing():
            depth = self.case.head_dim
            half = self.case.dtype == "bfloat16" and _core.matmul_rate(64, 64, 64, True, 1e-3) > 0
            for rows in TILE_ROWS:
                scores = _core.matmul_rate(rows, TILE_KEYS, depth, half, SECONDS)
                outputs = _core.matmul_rate(rows, depth, TILE_KEYS, half, SECONDS)
                both = 2 / (1 / scores + 1 / outputs)  # half of the work is in each
                self._add(f"{rows} rows, GFLOP/s", both)
        if self.case.decode and "read_bandwidth" not in missing():
            self._add("memory, GB/s", _core.read_bandwidth(MEMORY, SECONDS))
            # Keys and values that fit into a cache are read faster than memory.
            self._add("same size, GB/s", _core.read_bandwidth(self.case.cache_bytes, SECONDS))

    def medians(self) -> dict[str, float]:
        """Give the rates; `tile rate` is that of the faster tile."""
        rates = {name: round(median(values), 2) for name, values in self.found.items()}
        tiles = [rate for name, rate in rates.items() if "rows" in name]
        return {**rates, "tile rate, GFLOP/s": max(tiles)} if tiles else rates

    def _add(self, name: str, rate: float) -> None:
        self.found.setdefault(name, []).append(rate)
