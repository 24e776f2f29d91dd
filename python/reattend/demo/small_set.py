"""The numbers of `reattend demo`: POPE, CHAIR and time of each method on a few scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from reattend.demo.show import Ink, table
from reattend.evaluation.datasets.emoji_world.cases import (
    Case,
    Cases,
    Record,
    answer_cases,
    count_case,
    encode_cases,
)
from reattend.evaluation.loading import Loaded
from reattend.evaluation.metrics.counts import (
    DESCRIPTION_MEASURES,
    QUESTION_MEASURES,
    Estimate,
    columns,
    estimate,
    resample,
)
from reattend.evaluation.runner.answers import KINDS
from reattend.evaluation.settings import LABELS, PLAIN
from reattend.terminal import progress

_TOGETHER = 8  # scenes in a batch: small enough for a bar that moves
_QUESTIONS = {"accuracy": "accuracy", "f1": "F1", "yes": "says yes"}
_DESCRIPTIONS = {
    "chair_s": "CHAIR_s (answers)",
    "chair_i": "CHAIR_i (words)",
    "recall": "recall",
    "nouns": "things named",
}


@dataclass
class Measured:
    """What each setting answered on the same scenes."""

    cases: list[Case] = field(default_factory=list)
    records: dict[str, list[Record]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # to describe them
    interrupted: bool = False


def measure(loaded: Loaded, names: Sequence[str], cases: Cases, numbers: Sequence[int]) -> Measured:
    """Let settings answer the same cases in turn; Ctrl-C ends it with what is there.

    Parameters
    ----------
    loaded : Loaded
        The model.
    names : sequence of str
        Settings.
    cases : Cases
        Of one cell.
    numbers : sequence of int
        Which of them.
    """
    measured = Measured(records={n: [] for n in names}, seconds=dict.fromkeys(names, 0.0))
    batches = [numbers[at : at + _TOGETHER] for at in range(0, len(numbers), _TOGETHER)]
    turns = [(batch, name) for batch in batches for name in names]
    answered: dict[str, list[Record]] = {}
    try:
        for batch, name in progress(turns, "Measuring"):
            if name == names[0]:
                drawn, answered = [cases.draw(number) for number in batch], {}
                pictures = encode_cases(loaded.model, drawn)
            answered[name], seconds = answer_cases(
                loaded.model, loaded.methods(name), drawn, pictures
            )
            measured.seconds[name] += seconds["describe"]
            if name == names[-1]:  # kept when all have answered
                measured.cases += drawn
                for each, records in answered.items():
                    measured.records[each] += records
    except KeyboardInterrupt:
        measured.interrupted = True
    return measured


def show_numbers(measured: Measured, names: Sequence[str], ink: Ink, difficulty: str) -> str:
    """Write a table of what was measured.

    Parameters
    ----------
    measured : Measured
        What was answered.
    names : sequence of str
        Settings, in the order of columns; `PLAIN` among them.
    ink : Ink
        For headings.
    difficulty : str
        Of the scenes.

    Returns
    -------
    str
        Percentages with 95% intervals, a bootstrap over scenes.
    """
    count = len(measured.cases)
    if not count:
        return "Interrupted before anything was measured."
    weights = resample(count)
    counts = {
        name: [
            count_case(case, record)
            for case, record in zip(measured.cases, measured.records[name], strict=True)
        ]
        for name in names
    }

    def row(label: str, part: str, measures: Mapping[str, tuple[str, str]], name: str) -> Row:
        numerator, denominator = measures[name]
        cells = []
        for setting in names:
            summed = columns([each[part] for each in counts[setting]])
            found = estimate(summed[numerator], summed[denominator], weights)
            cells.append(_plainly(found) if name == "nouns" else _percent(found))
        return (label, *cells)

    rows: list[Row] = [("", *(LABELS[name] for name in names))]
    for kind in KINDS:
        rows += [
            row(f"POPE {kind}, {label}", kind, QUESTION_MEASURES, name)
            for name, label in _QUESTIONS.items()
        ]
    rows += [
        row(label, "description", DESCRIPTION_MEASURES, name)
        for name, label in _DESCRIPTIONS.items()
    ]
    base = measured.seconds[PLAIN]
    rows.append(("time, plain = 1", *(f"{measured.seconds[name] / base:.2f}" for name in names)))
    heading = (
        f"{count} more {difficulty} scenes with usual things replaced by others; "
        "in %, 95% intervals in brackets"
    )
    few = "So few scenes show large effects only; reattend evaluate measures 2,000."
    return f"{ink.strong(heading)}\n{table(rows)}\n{ink.faint(few)}"


Row = tuple[str, ...]


def _percent(found: Estimate) -> str:
    value, low, high = (100 * each for each in found)
    if np.isnan(value):
        return "-"
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def _plainly(found: Estimate) -> str:
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"
