"""Figures from the results: time and memory against length, threads and batch, and a roofline.

Run by report.py. The colours are Okabe and Ito's, which colour-blind readers can tell apart;
markers differ too, and each line has its name at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from pathlib import Path
from typing import Any

from results import Measured, Run, Study

LOOKS = {  # colour and marker of a candidate
    "reattend": ("#0072B2", "o"),
    "reattend, VAR": ("#56B4E9", "s"),
    "reattend, column sums": ("#009E73", "^"),
    "torch SDPA": ("#D55E00", "D"),
    "torch eager": ("#555555", "v"),
    "torch eager, VAR": ("#CC79A7", "P"),
}
TYPES = {
    "float32": ("#0072B2", "o"),
    "bfloat16": ("#D55E00", "s"),
    "float16": ("#009E73", "^"),
}
FIGURES = ("length.png", "cores.png", "roofline.png")
Point = tuple[float, float, str, str]  # x, y, name, colour


def draw(run: Run, study: Study | None, folder: Path) -> list[str]:
    """Draw what there are results for; give the files' names."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams |= {
        "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.color": "#e6e6e6", "figure.dpi": 100, "savefig.dpi": 160,
        "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"roofline.png": _roofline(run)}
    if study is not None:
        figures |= {"length.png": _length(study), "cores.png": _cores(study)}
    for name, figure in figures.items():
        figure.savefig(folder / name, bbox_inches="tight", facecolor="white")
        matplotlib.pyplot.close(figure)
    return [name for name in FIGURES if name in figures]


def _length(study: Study) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for column, sweep in enumerate(("prefill", "decode")):
        time, memory = axes[:, column]
        _curves(time, study, sweep, study.times)
        _curves(memory, study, sweep, study.memory, 1e-6)
        time.set(title=f"{sweep}: time of a call", ylabel="ms")
        memory.set(title=f"{sweep}: memory beyond inputs and output", ylabel="MB")
        memory.set_xlabel("rows and keys (causal)" if sweep == "prefill" else "keys")
        memory.set_xlim(time.get_xlim())
        memory.xaxis.set_major_locator(time.xaxis.get_major_locator())
        for x, window in study.windowed(sweep).items():
            time.axvspan(x / 2**0.5, x * 2**0.5, color="#f2f2f2", zorder=0, lw=0)
            time.text(x, time.get_ylim()[0] * 1.3, f"window\n{window}", ha="center", fontsize=8)
    figure.suptitle(f"{study.facts['heads']} heads of 128, float32, {_machine(study.facts)}")
    return figure


def _cores(study: Study) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    titles = {"prefill": ("2,048 rows", "256 rows"), "decode": ("32,768 keys", "4,096 keys")}
    for column, kind in enumerate(("prefill", "decode")):
        for axis, what, size in zip(
            axes[:, column], ("threads", "batch"), titles[kind], strict=True
        ):
            _curves(axis, study, f"{kind}, {what}", study.times)
            axis.set(title=f"{kind}, {size}", ylabel="ms", xlabel=what)
    figure.suptitle(f"{study.facts['heads']} heads of 128, float32, {_machine(study.facts)}")
    return figure


def _curves(axis: Any, study: Study, sweep: str, read: Any, scale: float = 1.0) -> None:
    """Draw every candidate of a sweep, with its name at the line's end."""
    from matplotlib import ticker

    ends, lengths, windows = [], set(), study.windowed(sweep)
    axis.set(xscale="log", yscale="log")
    for name in study.candidates(sweep):
        # What takes no memory at all has no logarithm.
        series = [(x, max(y * scale, 1e-3)) for x, y in read(sweep, name)]
        line = [(x, y) for x, y in series if x not in windows]
        colour, marker = LOOKS[name]
        for x, y in set(series) - set(line):  # another task: not joined to the others
            axis.plot(x, y, color=colour, marker=marker, ms=5.5, mfc="white", ls="")
        if line:
            axis.plot(*zip(*line, strict=True), color=colour, marker=marker, ms=4.5, lw=1.6)
            ends.append((*line[-1], name, colour))
        lengths |= {x for x, _ in series}
    if not ends:
        return
    axis.yaxis.set_major_formatter(lambda y, _: f"{y:,.10g}")
    ticks = sorted(lengths)
    ticks = ticks if len(ticks) < 7 else ticks[::-3]
    axis.xaxis.set_major_locator(ticker.FixedLocator(ticks))
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    (low, high), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    axis.set_xlim(low, high * (high / low) ** 0.5)  # room for the names
    axis.set_ylim(bottom / 1.5, top * 2)
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if top < 50 * bottom else (1,)))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    # Who stops early is the slowest, or takes most: there is room to the left of it.
    last, step = max(x for x, *_ in ends), (high / low) ** 0.06
    early = [end for end in ends if 4 * end[0] <= last]
    _labels(axis, [end for end in ends if end not in early], max(lengths) * step)
    _labels(axis, early, min((x for x, *_ in early), default=1) / step, "right")


def _labels(axis: Any, points: Sequence[Point], column: float, align: str = "left") -> None:
    """Write the points' names below one another at x = column, as near to their heights as fits."""
    if not points:
        return
    low, high = map(log, axis.get_ylim())
    gap = 13 / (axis.figure.get_figheight() * 72 * axis.get_position().height) * (high - low)
    points = sorted(points, key=lambda point: point[1])
    groups: list[list[float]] = []  # heights that names want, of those that touch one another
    for _, y, _, _ in points:
        groups.append([log(y)])
        while len(groups) > 1 and _bottom(groups[-1], gap) < _top(groups[-2], gap) + gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    heights = [_bottom(group, gap) + i * gap for group in groups for i in range(len(group))]
    over = max(0.0, heights[-1] - high) + min(0.0, heights[0] - low - gap)
    line: dict[str, Any] = {"arrowstyle": "-", "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
    line["relpos"] = (0 if align == "left" else 1, 0.5)
    for (x, y, name, colour), height in zip(points, heights, strict=True):
        axis.annotate(
            name, (x, y), (column, exp(height - over)), color=colour, va="center", ha=align,
            fontsize=9, annotation_clip=False, bbox={"color": "white", "pad": 0.5},
            arrowprops={**line, "color": colour},
        )  # fmt: skip


def _bottom(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: list[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2


def _roofline(run: Run) -> Any:
    from matplotlib import pyplot, ticker

    figure, axis = pyplot.subplots(figsize=(11, 6), layout="constrained")
    axis.set(xscale="log", yscale="log", xlim=(0.3, 8000))
    cases = [case for case in run.cases.values() if case.time() is not None]
    points = []
    for case in cases:
        colour, marker = TYPES[case.fields["dtype"]]
        x, y = _intensity(case), case.flops / 1e6 / (case.time() or 1)
        axis.plot(x, y, marker, color=colour, ms=7)
        points.append((x, y, _short(case), colour))
    if not points:
        return figure
    top = max(y for _, y, _, _ in points)
    axis.set_ylim(min(y for _, y, _, _ in points) / 2, top * 2.2)
    bandwidths = [rate for case in cases if (rate := case.rates.get("memory, GB/s"))]
    for dtype, (colour, marker) in TYPES.items():
        of_type = [case for case in cases if case.fields["dtype"] == dtype]
        tiles = [rate for case in of_type if (rate := case.rates.get("tile rate, GFLOP/s"))]
        axis.plot([], [], marker, color=colour, label=dtype)
        if tiles and dtype != "float16":  # which is computed in float32
            axis.axhline(max(tiles), color=colour, lw=1.2, ls="--")
            text = f"oneDNN's tiles, {dtype}: {max(tiles):.0f} GFLOP/s"
            axis.text(0.32, max(tiles) * 1.05, text, color=colour, fontsize=9)
    if bandwidths:
        speed, height = max(bandwidths), axis.get_ylim()[1] / 1.15
        axis.plot([0.3, 4000], [0.3 * speed, 4000 * speed], color="#555555", lw=1.2, ls="--")
        text = f"  memory: {speed:.0f} GB/s"
        axis.text(height / speed, height, text, color="#555555", fontsize=9, va="center")
    _labels(axis, [point for point in points if point[2].startswith("decode")], 8)
    _labels(axis, [point for point in points if point[2].startswith("prefill")], 1000)
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.10g}")
    axis.yaxis.set_major_formatter(lambda y, _: f"{y:,.10g}")
    axis.set(xlabel="FLOP for each byte of query, key, value and output", ylabel="GFLOP/s")
    axis.set_title(f"reattend on {_machine(run.facts)}")
    axis.legend(loc="lower right", frameon=False)
    return figure


def _intensity(case: Measured) -> float:
    """Give FLOP for each byte that must be read or written."""
    fields = case.fields
    item = 4 if fields["dtype"] == "float32" else 2
    rows = 2 * fields["batch"] * fields["num_heads"] * fields["query_len"] * fields["head_dim"]
    return case.flops / (case.cache_bytes + rows * item)


def _short(case: Measured) -> str:
    fields = case.fields
    length = f"{fields['key_len']:,}"
    heads = f"{fields['num_heads']} of {fields['num_kv_heads']} heads"
    if case.decode:
        return f"decode {length}, {heads}"
    return f"prefill {length}, {heads}"


def _machine(facts: dict[str, Any]) -> str:
    return f"{facts['cpu']}, {facts['instruction set']}, {facts['threads']} threads"
