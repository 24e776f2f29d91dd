"""Write the tables and figures of both READMEs from results.

python benchmarks/report.py                    from benchmarks/results/
python benchmarks/report.py --results FOLDER   from speed*.json and scaling.json there

Each README keeps what it says outside of its `<!-- speed -->` markers.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import plots
from goals import GOALS, PLAIN
from results import Measured, Run, Study

HERE = Path(__file__).resolve().parent
PEERS = {  # columns of the README's table
    "torch-sdpa": "torch SDPA",
    "torch-flex": "FlexAttention",
    "torch-eager": "torch eager",
    "numpy-eager": "NumPy",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "llama.cpp": "llama.cpp",
    "vllm": "vLLM",
    "zentorch": "zentorch",
}
IN_README = (  # the others are in benchmarks/README.md
    "llava-1.5-7b prefill 640",
    "llava-1.5-7b prefill 2048",
    "smollm2-135m prefill 512",
    "llava-1.5-7b decode 4096",
    "llama3-llava-next-8b decode 4096",
    "smollm2-135m decode 64",
    "llava-1.5-7b prefill 2048 bfloat16",
    "llava-1.5-7b decode 4096 bfloat16",
)
METHODS = ("VAR", "VHR", "ACT", "ACT-10%", "policy", "masses", "column_sums")
MATRIX_METHODS = {  # what peers do in their own way
    ("torch-eager", "VAR"): "eager torch, VAR",
    ("torch-eager", "column_sums"): "eager torch, column sums",
    ("torch-one-hot", "masses"): "one-hot SDPA, masses",
}
INTRO = """\
`2.0x`: a peer takes twice as long as reattend on the same arrays, in the same run. *Of the
machine*: a prefill's share of oneDNN's own rate on tiles of that size, a decode's of the measured
read bandwidth; more than 100% where a cache holds keys and values. *Error*: the largest against
float64; in brackets NumPy's float32 matrix, or torch SDPA's in the same 16 bits."""
COMMANDS = """\
`python benchmarks/run.py --json benchmarks/results/speed.json` (extra `reattend[peers]`) \
measures, `python benchmarks/report.py` writes this."""
OTHER_CPUS = {  # files of a run on another machine, and their headings
    "speed-amx.json": "An Intel CPU with AMX",
    "speed-amx-v3.json": "The Intel CPU, held to AVX2",
    "speed-avx2.json": "A CPU that has AVX2 alone",
}
GOALS_OF = {  # files of runs with methods, and their columns
    "speed.json": "AMD, AVX-512",
    "speed-v3.json": "AMD, held to AVX2",
    "speed-amx.json": "Intel, AMX",
    "speed-amx-v3.json": "Intel, held to AVX2",
}
ALT = {
    "length.png": "Time and memory of a call against length",
    "cores.png": "Time of a call against threads and batch",
    "roofline.png": "Rates reached, beside what the machine can do",
}


def main() -> int:
    """Run the command line; the exit status is 1 if there are no results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER")
    parser.add_argument("--root", type=Path, default=HERE.parent, help="where the READMEs are")
    options = parser.parse_args()
    run = _read(Run, options.results / "speed.json")
    if run is None:
        return 1
    narrow = _read(Run, options.results / "speed-v3.json")
    others = {name: _read(Run, options.results / name) for name in OTHER_CPUS}
    study = _read(Study, options.results / "scaling.json")
    figures = plots.draw(run, study, options.root / "benchmarks" / "figures")

    def picture(name: str, folder: str) -> str:
        return f"![{ALT[name]}]({folder}figures/{name})"

    short = [INTRO, speed_table(run, None, IN_README), f"{_described(run)} {COMMANDS}"]
    short.append(goals_line(run, study))
    short += [picture(name, "benchmarks/") for name in figures if name == "length.png"]
    _put(options.root / "README.md", short)
    runs = {"speed.json": run, "speed-v3.json": narrow, **others}
    columns = {GOALS_OF[name]: each for name, each in runs.items() if each and name in GOALS_OF}
    long = [_described(run), "### Goals", goals_table(columns, study), "### What methods add"]
    long += [
        methods_table(run),
        "### Against peers",
        speed_table(run, narrow),
        "### Accuracy and milliseconds",
        times_table(run),
    ]
    if narrow is not None:
        long += ["### Held to AVX2", _described(narrow), times_table(narrow), methods_table(narrow)]
    for name, other in others.items():
        if other is not None:
            long += [f"### {OTHER_CPUS[name]}", _described(other), speed_table(other, None)]
            long += [methods_table(other)] if name in GOALS_OF else []
    long += ["### Figures", *(picture(name, "") for name in figures)] if figures else []
    _put(options.root / "benchmarks" / "README.md", long)
    return 0


def speed_table(run: Run, narrow: Run | None, names: Collection[str] = ()) -> str:
    """Give ours in ms, its share of the machine, each peer's time in ours, and errors."""
    peers = [peer for peer in PEERS if peer != "numpy-eager"]  # it is in the longer table
    heading = ["case", "reattend, ms", "of the machine", *(PEERS[peer] for peer in peers), "error"]
    lines = [[*heading, "AVX2: reattend, ms", "torch SDPA"] if narrow else heading]
    for case in run.cases.values():
        if names and case.name not in names:
            continue
        ours = case.time()
        line = [case.name, f"**{_short(ours)}**", _percent(case.share())]
        line += [_times(case.ratio((peer, "plain"), PLAIN)) for peer in peers]
        eager = case.eager_error()
        line.append(_error(case.error()) + ("" if eager is None else f" ({_error(eager)})"))
        if narrow:
            same = narrow[case.name]
            line += [_short(same.time()), _times(same.ratio(("torch-sdpa", "plain"), PLAIN))]
        lines.append(line)
    return _table(lines)


def goals_table(runs: Mapping[str, Run], study: Study | None) -> str:
    """Give each goal, and what each run came to; the study belongs to the first of them."""
    lines = [["goal", "case", "is to be", *runs]]
    for goal in GOALS:
        line = [goal.what, goal.case, f"{goal.sign} {goal.number(goal.bound)}"]
        for number, run in enumerate(runs.values()):
            value = goal.value(run, None if number else study)
            line.append("" if value is None else f"{goal.number(value)}, {_met(goal, value)}")
        lines.append(line)
    return _table(lines)


def goals_line(run: Run, study: Study | None) -> str:
    """Count the goals that are met."""
    values = [(goal, goal.value(run, study)) for goal in GOALS]
    met = [goal for goal, value in values if value is not None and goal.met(value)]
    missing = sum(value is None for _, value in values)
    text = f"Of {len(GOALS)} goals {len(met)} are met"
    text += f", {missing} not measured" if missing else ""
    link = "[all of them](benchmarks/README.md#goals)"
    return f"{text} on this CPU: {link}, on other CPUs too, and what methods add."


def methods_table(run: Run) -> str:
    """Give what each method adds to our plain attention, and the same by other means."""
    heading = ["case", "plain, ms", *(f"+ {method.replace('_', ' ')}" for method in METHODS)]
    lines = [[*heading, *MATRIX_METHODS.values(), "peak memory, MB"]]
    for case in run.cases.values():
        line = [case.name, _short(case.time())]
        line += [_added(case.ratio(("reattend", each), PLAIN)) for each in METHODS]
        for peer, method in MATRIX_METHODS:
            line.append(_times(case.ratio((peer, method), ("reattend", method))))
        peaks = [peak for each in ("plain", *METHODS) if (peak := case.memory("reattend", each))]
        lines.append([*line, f"{max(peaks) / 1e6:.1f}" if peaks else ""])
    return _table(lines)


def times_table(run: Run) -> str:
    """Give every peer's ms and error, plain, and what rates bound the case."""
    peers = [
        peer for peer in ("reattend", *PEERS) if any(case.time(peer) for case in run.cases.values())
    ]
    lines = [["case", *(PEERS.get(peer, peer) for peer in peers), "rate", "the machine's"]]
    for case in run.cases.values():
        line = [case.name]
        for peer in peers:
            time = case.time(peer)
            line.append("" if time is None else f"{_short(time)} ({_error(case.error(peer))})")
        lines.append([*line, _rate(case), _bounds(case)])
    return _table(lines)


def _read(kind: Any, path: Path) -> Any:
    if path.exists():
        return kind(path)
    print(f"{path} is not there: what needs it is left out", file=sys.stderr)
    return None


def _put(path: Path, parts: Sequence[str]) -> None:
    """Replace what stands between the markers."""
    text, found = re.subn(
        r"(?<=<!-- speed -->\n).*?(?=<!-- /speed -->)",
        lambda _: "\n\n".join(parts) + "\n",
        path.read_text(),
        flags=re.DOTALL,
    )
    if found != 1:
        sys.exit(f"{path} must have one pair of <!-- speed --> markers, has {found}")
    path.write_text(text)


def _described(run: Run) -> str:
    facts, commits = run.facts, ", ".join(run.commits)
    rounds = " to ".join(str(each) for each in dict.fromkeys((run.rounds[0], run.rounds[-1])))
    machine = f"{facts['cpu']}, {facts['instruction set']}, {facts['threads']} threads"
    versions = ", ".join(f"{name} {each}" for name, each in facts["versions"].items() if each)
    return f"Medians of {rounds} rounds; {machine}; {versions}; commit {commits}."


def _table(lines: list[list[str]]) -> str:
    filled = [index for index, column in enumerate(zip(*lines, strict=True)) if any(column[1:])]
    rows = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(row[index] for index in filled)} |" for row in rows)


def _met(goal: Any, value: float) -> str:
    return "yes" if goal.met(value) else "**no**"


def _short(milliseconds: float | None) -> str:
    if milliseconds is None:
        return ""
    return f"{milliseconds:.3g}" if milliseconds < 1000 else f"{milliseconds:.0f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}x"


def _added(ratio: float | None) -> str:
    return "" if ratio is None else f"{100 * (ratio - 1):+.1f}%"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.0e}".replace("e-0", "e-")


def _rate(case: Measured) -> str:
    rate = case.rate()
    return "" if rate is None else f"{rate:.3g} {'GB/s' if case.decode else 'GFLOP/s'}"


def _bounds(case: Measured) -> str:
    names = ("tile rate, GFLOP/s", "memory, GB/s", "same size, GB/s")
    return ", ".join(f"{n.split(',')[0]} {case.rates[n]:.3g}" for n in names if n in case.rates)


if __name__ == "__main__":
    sys.exit(main())
