"""Results as text for the terminal: all candidates of a case."""

from __future__ import annotations

from typing import Any

from results import Measured, over

BASE = "torch-sdpa"  # what every candidate is compared with


def case_table(case: dict[str, Any], repeat: int) -> str:
    """Write what was measured of one case, a line for each candidate."""
    measured = Measured(case, repeat)
    heading = "candidate", "min ms", "median", "vs torch", "(minima)", "vs plain", "(minima)"
    lines: list[tuple[str, ...]] = [(*heading, "error", "MB")]
    for (peer, method), row in measured.rows.items():
        if not row["times"]:
            continue
        best, own = measured.time(peer, method, min), measured.time(peer, method)
        of_plain = ("", "")
        if method != "plain":
            plain = (peer, "plain")
            least = over(best, measured.time(*plain, min))
            of_plain = (_added(measured.ratio((peer, method), plain)), _added(least))
        lines.append(
            (
                f"{peer} {method}" + ("" if row["right"] else "  WRONG"),
                f"{best:.3f}",
                f"{own:.3f}",
                _times(measured.ratio((BASE, "plain"), (peer, method))),
                _times(over(measured.time(BASE, of=min), best)),
                *of_plain,
                f"{row['error']:.0e}",
                f"{row['peak memory'] / 1e6:.1f}" if row.get("peak memory") is not None else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    others = measured.others
    noise = "" if others is None else f"   (other processes took {others:.0%} of the CPUs)"
    return "\n".join([case["name"] + noise, *(f"  {line}" for line in text), *_shares(measured)])


def _shares(case: Measured) -> list[str]:
    """Say what part of the machine's rates ours is."""
    rate, unit = case.rate(), "GB/s" if case.decode else "GFLOP/s"
    if rate is None or not case.rates:
        return []
    parts = [f"{case.share(of):.0%} of {name}" for name, of in _bounds(case)]
    return [f"  reattend plain: {rate:.4g} {unit}, {', '.join(parts)}"]


def _bounds(case: Measured) -> list[tuple[str, str]]:
    rates = [name for name in case.rates if "rows" not in name]
    return [(f"{name.split(',')[0]} ({case.rates[name]:.4g})", name) for name in rates]


def _added(ratio: float | None) -> str:
    return "" if ratio is None else f"{100 * (ratio - 1):+.1f}%"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"
