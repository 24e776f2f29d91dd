"""Sums an evaluation up: every measure with its interval, against plain, in groups of cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reattend.demo.answers import KINDS
from reattend.demo.cases import Case, Record, count_case
from reattend.demo.evaluation import Answers
from reattend.demo.measures import (
    DESCRIPTION_MEASURES,
    QUESTION_MEASURES,
    Estimate,
    Word,
    columns,
    difference,
    estimate,
    matched_difference,
    resample,
)
from reattend.demo.settings import PLAIN, SETTINGS, UNSURE, Strengths
from reattend.demo.world import DIFFICULTIES
from reattend.policy import Array

AGAINST = {"var-ungated": "var", "vhr-one-pass": "vhr", "act-all": "act"}  # also compared
MATCHED = {"matched_recall": "found", "matched_length": "said"}
_PARTS = {"description": DESCRIPTION_MEASURES, **dict.fromkeys(KINDS, QUESTION_MEASURES)}
_LEAST_SCENES = 2
_MATCHED_RESAMPLES = 1000  # each sorts through all words

Group = tuple[str, Callable[[Case], bool]]


def groups(cases: Sequence[Case]) -> list[Group]:
    """Give the groups that are summed up: all, by difficulty, length and filler, and each cell.

    Parameters
    ----------
    cases : sequence of Case
        What there is.

    Returns
    -------
    list of (str, callable)
        A name, and whether a case is in the group; those that hold no or all cases only once.
    """
    found: list[Group] = [("all", lambda case: True)]
    for name in DIFFICULTIES:
        found.append((name, lambda case, name=name: case.cell.difficulty == name))  # type: ignore[misc]
    found += [
        ("short", lambda case: not case.cell.long),
        ("long", lambda case: case.cell.long),
        ("no filler", lambda case: not case.cell.filler),
        ("filler", lambda case: case.cell.filler),
    ]
    for cell in dict.fromkeys(case.cell for case in cases):
        found.append((str(cell), lambda case, cell=cell: case.cell == cell))  # type: ignore[misc]
    return [
        (name, holds)
        for name, holds in found
        if name == "all" or _LEAST_SCENES <= sum(map(holds, cases)) < len(cases)
    ]


def summarise(answers: Answers, strengths: Strengths, *, seed: int = 0) -> dict[str, Any]:
    """Sum an evaluation up.

    Parameters
    ----------
    answers : Answers
        Of `PLAIN` and others. The setting that leaves out unsure words follows from plain's.
    strengths : dict
        Which words those are.
    seed : int, optional
        Of the bootstrap.

    Returns
    -------
    dict
        By group: ``scenes``, ``asked`` and ``settings``; of each setting its measures, their
        ``difference`` from plain and, where it has a counterpart, from that (``against``), the
        difference of CHAIR_i at matched recall and length, each as [value, low, high]; and
        ``time``, plain = 1.
    """
    counted = _Counted(answers, strengths)
    return {
        name: _group(counted, np.flatnonzero([holds(case) for case in answers.cases]), seed)
        for name, holds in groups(answers.cases)
    }


class _Counted:
    """Counts of each setting and case, and the words that were named."""

    def __init__(self, answers: Answers, strengths: Strengths) -> None:
        self.cases = answers.cases
        self.there = [case.scene.nouns for case in answers.cases]
        self.seconds = answers.seconds
        self.counts: dict[str, list[dict[str, Any]]] = {}
        self.words: dict[str, list[tuple[Word, ...]]] = {}
        for name, records in answers.records.items():
            self._add(name, records)
        limits = strengths[UNSURE]
        self._add(UNSURE, answers.records[PLAIN], limits["probability"], limits["margin"])

    def _add(
        self, name: str, records: Sequence[Record], probability: float = 0.0, margin: float = 0.0
    ) -> None:
        self.counts[name] = [
            count_case(case, record, probability=probability, margin=margin)
            for case, record in zip(self.cases, records, strict=True)
        ]
        self.words[name] = [
            tuple(word for word in record.answer.words if word.probability >= probability)
            for record in records
        ]

    def sums(self, name: str, part: str, rows: Array) -> dict[str, Array]:
        """Give the counts of one part as columns, of those rows that have it."""
        some = [self.counts[name][row] for row in rows]
        return columns([counts[part] for counts in some if part in counts])


def _group(counted: _Counted, rows: Array, seed: int) -> dict[str, Any]:
    asked = sum(KINDS[0] in counted.counts[PLAIN][row] for row in rows)
    weights = {len(rows): resample(len(rows), seed)}
    if asked:
        weights.setdefault(asked, resample(asked, seed))
    settings = {}
    for name in SETTINGS:
        if name not in counted.counts:
            continue
        entry: dict[str, Any] = _measures(counted, name, rows, weights)
        if name != PLAIN:
            entry["difference"] = _differences(counted, name, PLAIN, rows, weights)
            for key, by in MATCHED.items():
                entry[key] = _matched(counted, name, rows, weights[len(rows)], by)
        if AGAINST.get(name) in counted.counts:
            entry["against"] = _differences(counted, name, AGAINST[name], rows, weights)
        if name in counted.seconds:
            base = counted.seconds[PLAIN][rows].sum()
            entry["time"] = round(float(counted.seconds[name][rows].sum() / base), 3)
        settings[name] = entry
    return {"scenes": len(rows), "asked": asked, "settings": settings}


def _measures(
    counted: _Counted, name: str, rows: Array, weights: Mapping[int, Array]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part, measures in _PARTS.items():
        if sums := counted.sums(name, part, rows):
            found[part] = {
                measure: _rounded(estimate(sums[top], sums[below], weights[len(sums[below])]))
                for measure, (top, below) in measures.items()
            }
    return found


def _differences(
    counted: _Counted, name: str, other: str, rows: Array, weights: Mapping[int, Array]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part, measures in _PARTS.items():
        if sums := counted.sums(name, part, rows):
            base = counted.sums(other, part, rows)
            found[part] = {
                measure: _rounded(
                    difference(
                        sums[top], sums[below], base[top], base[below], weights[len(sums[below])]
                    )
                )
                for measure, (top, below) in measures.items()
            }
    return found


def _matched(
    counted: _Counted, name: str, rows: Array, weights: Array, by: str
) -> list[float | None]:
    words, plain = ([counted.words[each][row] for row in rows] for each in (name, PLAIN))
    there = [counted.there[row] for row in rows]
    some = weights[:_MATCHED_RESAMPLES]
    return _rounded(matched_difference(words, plain, there, some, by=by))


def _rounded(found: Estimate) -> list[float | None]:
    return [None if np.isnan(number) else round(number, 5) for number in found]
