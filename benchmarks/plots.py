"""Figures from the results: time and memory against length, threads and batch, and a roofline.

Run by report.py. The colours are Okabe and Ito's, which colour-blind readers can tell apart;
markers differ too, and each line has its name at its end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reattend.plot import roofline, scaling
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
    curves = {  # what takes no memory at all has no logarithm
        name: [(x, max(y * scale, 1e-3)) for x, y in read(sweep, name)]
        for name in study.candidates(sweep)
    }
    scaling(curves, xlabel="", alone=study.windowed(sweep), looks=LOOKS, ax=axis)


def _roofline(run: Run) -> Any:
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(11, 6), layout="constrained")
    cases = [(case, time) for case in run.cases.values() if (time := case.time()) is not None]
    if not cases:
        return figure
    points = [
        (_intensity(case), case.flops / 1e6 / time, _short(case), case.fields["dtype"])
        for case, time in cases
    ]
    peaks: dict[str, float] = {}
    for case, _ in cases:
        dtype, rate = case.fields["dtype"], case.rates.get("tile rate, GFLOP/s")
        if rate and dtype != "float16":  # which is computed in float32
            peaks[dtype] = max(rate, peaks.get(dtype, 0))
    speeds = [rate for case, _ in cases if (rate := case.rates.get("memory, GB/s"))]
    roofline(points, bandwidth=max(speeds, default=None), peaks=peaks, looks=TYPES,
             title=f"reattend on {_machine(run.facts)}", ax=axis)  # fmt: skip
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
