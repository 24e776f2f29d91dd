"""The counts of answers, summed by picture."""

from __future__ import annotations

from collections.abc import Sequence

from reattend.evaluation.datasets.dataset import Answer, Case, Dataset
from reattend.evaluation.metrics.counts import columns
from reattend.policy import Array

__all__ = [
    "summed",
]


def summed(
    data: Dataset, answers: Sequence[Answer], cases: Sequence[Case] | None = None
) -> dict[str, Array]:
    """Sum the counts of each picture's cases, by name.

    Parameters
    ----------
    data : Dataset
        What was asked.
    answers : sequence of Answer
        One for each case, in their order.
    cases : sequence of Case, optional
        Those that were answered; all by default.
    """
    cases = data.cases if cases is None else cases
    groups: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        groups.setdefault(case.group, []).append(place)
    rows = []
    for places in groups.values():
        row: dict[str, float] = {}
        for place in places:
            for name, value in data.count(cases[place], answers[place]).items():
                row[name] = row.get(name, 0.0) + value
        if data.count_group is not None:
            some = [cases[place] for place in places], [answers[place] for place in places]
            row |= data.count_group(*some)
        rows.append(row)
    return columns(rows)
