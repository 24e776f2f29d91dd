"""Results as text: all candidates of a case, and the README's table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

BASE = ("torch-sdpa", "plain")  # what every candidate is compared with
PEER_COLUMNS = ("torch-sdpa", "torch-eager", "onnxruntime", "openvino")
METHOD_COLUMNS = ("VAR", "VHR", "ACT", "ACT-10%")


def case_table(case: dict[str, Any]) -> str:
    """Write what was measured of one case, a line for each candidate."""
    times = _times(case)
    heading = "candidate", "min ms", "median", "vs torch", "(minima)", "vs plain", "(minima)"
    lines: list[tuple[str, ...]] = [(*heading, "error", "MB")]
    for row in case["results"]:
        own = row["peer"], row["method"]
        base, plain = times.get(BASE), times.get((row["peer"], "plain"))
        if not row["times"]:
            continue
        lines.append(
            (
                f"{row['peer']} {row['method']}" + ("" if row["right"] else "  WRONG"),
                f"{min(times[own]):.3f}",
                f"{median(times[own]):.3f}",
                f"{median(base) / median(times[own]):.2f}x" if base else "",
                f"{min(base) / min(times[own]):.2f}x" if base else "",
                _cost(times[own], plain) if plain and row["method"] != "plain" else "",
                _cost(times[own], plain, min) if plain and row["method"] != "plain" else "",
                f"{row['error']:.0e}",
                _megabytes([row]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    others = case.get("other processes")
    noise = "" if others is None else f"   (other processes took {others:.0%} of the CPUs)"
    return "\n".join([case["name"] + noise, *(f"  {line}" for line in text)])


def markdown(results: dict[str, Any]) -> str:
    """Write the README's table: medians in ms, their ratio to ours, what methods add to ours.

    Peak memory is ours, of the method that takes most.
    """
    columns = ["case", "reattend", *PEER_COLUMNS, "eager + VAR"]
    columns += [f"+ {method}" for method in METHOD_COLUMNS] + ["peak memory"]
    lines = [columns, ["---"] * len(columns)]
    for case in results["cases"]:
        times = _times(case)
        ours = times.get(("reattend", "plain"))
        if ours is None:
            continue
        others = [times.get((peer, "plain")) for peer in PEER_COLUMNS]
        others.append(times.get(("torch-eager", "VAR")))
        line = [case["name"], f"**{_short(median(ours))}**"]
        for other in others:
            ratio = f" ({median(other) / median(ours):.1f}x)" if other else ""
            line.append(_short(median(other)) + ratio if other else "")
        for method in METHOD_COLUMNS:
            other = times.get(("reattend", method))
            line.append(_cost(other, ours) if other else "")
        line.append(
            _megabytes([row for row in case["results"] if row["peer"] == "reattend"], " MB")
        )
        lines.append(line)
    machine = f"{results['cpu']}, {results['instruction set']}, {results['threads']} threads"
    versions = ", ".join(f"{name} {each}" for name, each in results["versions"].items() if each)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\nMedians in ms, float32; {machine}; {versions}; commit {results['commit']}."


def _times(case: dict[str, Any]) -> dict[tuple[str, str], list[float]]:
    return {(r["peer"], r["method"]): r["times"] for r in case["results"] if r["times"]}


def _cost(
    times: Sequence[float],
    plain: Sequence[float],
    of: Callable[[Sequence[float]], float] = median,
) -> str:
    return f"{100 * (of(times) / of(plain) - 1):+.1f}%"


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.3g}" if milliseconds < 1000 else f"{milliseconds:.0f}"


def _megabytes(rows: list[dict[str, Any]], unit: str = "") -> str:
    peaks = [row["peak memory"] for row in rows if row.get("peak memory") is not None]
    return f"{max(peaks) / 1e6:.1f}{unit}" if peaks else ""
