"""Sums an evaluation up: every measure with its interval, against plain, in groups of cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from reattend.evaluation.datasets.emoji_world import DIFFICULTIES, KINDS
from reattend.evaluation.datasets.emoji_world.cases import Case
from reattend.evaluation.metrics.counts import (
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
from reattend.policy import Array

from hallucination.journals import LABELS, PLAIN, UNSURE, Answers, Record, Strengths, count_case

AGAINST = {"var-ungated": "var", "vhr-one-pass": "vhr", "act-all": "act"}  # also compared
MATCHED = {"matched_recall": "found", "matched_length": "said"}
_PARTS = {"description": DESCRIPTION_MEASURES, **dict.fromkeys(KINDS, QUESTION_MEASURES)}
_LEAST_SCENES = 2
_MATCHED_RESAMPLES = 1000  # each sorts through all words

Group = tuple[str, Callable[[Case], bool]]
Run = tuple[Answers, Strengths]  # what a model answered, and how strongly settings were at work


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


def summarise(runs: Sequence[Run], *, seed: int = 0, only: str | None = None) -> dict[str, Any]:
    """Sum evaluations up, those of several models as one.

    Scenes are what is drawn again in the bootstrap: one that several models described stands for
    all that they said.

    Parameters
    ----------
    runs : sequence of (Answers, Strengths)
        What each model answered, `PLAIN` among its settings; settings that not all have are left
        out. The one that leaves out unsure words follows from plain's, and from the strengths,
        which say which words those are.
    seed : int, optional
        Of the bootstrap.
    only : str, optional
        The one group to sum up.

    Returns
    -------
    dict
        By group: ``scenes`` and ``asked``, how many were described and asked about, by each model
        anew; and ``settings``; of each setting its measures, their
        ``difference`` from plain and, where it has a counterpart, from that (``against``), the
        difference of CHAIR_i at matched recall and length, each as [value, low, high]; and
        ``time`` to describe, plain = 1.
    """
    counted = _Counted(runs)
    return {
        name: _group(counted, np.flatnonzero([holds(case) for case in counted.cases]), seed)
        for name, holds in groups(counted.cases)
        if only in (None, name)
    }


class _Counted:
    """Counts of each setting and case, and the words that were named; runs one after another."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.cases = [case for answers, _ in runs for case in answers.cases]
        self.there = [case.scene.nouns for case in self.cases]
        first = runs[0][0].records
        names = [name for name in first if all(name in answers.records for answers, _ in runs)]
        self.seconds = {
            name: np.concatenate([answers.seconds[name] for answers, _ in runs]) for name in names
        }
        self.counts: dict[str, list[dict[str, Any]]] = {name: [] for name in (*names, UNSURE)}
        self.words: dict[str, list[tuple[Word, ...]]] = {name: [] for name in (*names, UNSURE)}
        for answers, strengths in runs:
            for name in names:
                self._add(name, answers.cases, answers.records[name])
            limits = strengths[UNSURE]["probability"], strengths[UNSURE]["margin"]
            self._add(UNSURE, answers.cases, answers.records[PLAIN], *limits)

    def _add(
        self, name: str, cases: Sequence[Case], records: Sequence[Record],
        probability: float = 0.0, margin: float = 0.0,
    ) -> None:  # fmt: skip
        self.counts[name] += [
            count_case(case, record, probability=probability, margin=margin)
            for case, record in zip(cases, records, strict=True)
        ]
        self.words[name] += [
            tuple(word for word in record.words if word.probability >= probability)
            for record in records
        ]

    def sums(self, name: str, part: str, rows: Array) -> dict[str, Array]:
        """Give the counts of one part as columns, of those rows that have it."""
        some = [self.counts[name][row] for row in rows]
        return columns([counts[part] for counts in some if part in counts])


def _group(counted: _Counted, rows: Array, seed: int) -> dict[str, Any]:
    numbers = np.array([counted.cases[row].number for row in rows])
    asked = np.array([KINDS[0] in counted.counts[PLAIN][row] for row in rows])
    described = _weights(numbers, seed)
    weights = {"description": described}
    if asked.any():
        questions = described if asked.all() else _weights(numbers[asked], seed)
        weights |= dict.fromkeys(KINDS, questions)
    settings = {}
    for name in LABELS:
        if name not in counted.counts:
            continue
        entry: dict[str, Any] = _measures(counted, name, rows, weights)
        if name != PLAIN:
            entry["difference"] = _differences(counted, name, PLAIN, rows, weights)
            for key, by in MATCHED.items():
                entry[key] = _matched(counted, name, rows, described, by)
        if AGAINST.get(name) in counted.counts:
            entry["against"] = _differences(counted, name, AGAINST[name], rows, weights)
        if name in counted.seconds:
            # Batch by batch, so that what slows the machine for a while counts for little.
            ratios = counted.seconds[name][rows] / counted.seconds[PLAIN][rows]
            entry["time"] = round(float(np.median(ratios)), 3)
        settings[name] = entry
    return {"scenes": len(rows), "asked": int(asked.sum()), "settings": settings}


def _weights(numbers: Array, seed: int) -> Array:
    """Draw scenes again: cases [n] of one scene, by different models, are drawn together."""
    scenes, places = np.unique(numbers, return_inverse=True)
    return resample(len(scenes), seed)[:, places]


def _measures(
    counted: _Counted, name: str, rows: Array, weights: Mapping[str, Array]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part, measures in _PARTS.items():
        if sums := counted.sums(name, part, rows):
            found[part] = {
                measure: _rounded(estimate(sums[top], sums[below], weights[part]))
                for measure, (top, below) in measures.items()
            }
    return found


def _differences(
    counted: _Counted, name: str, other: str, rows: Array, weights: Mapping[str, Array]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part, measures in _PARTS.items():
        if sums := counted.sums(name, part, rows):
            base = counted.sums(other, part, rows)
            found[part] = {
                measure: _rounded(
                    difference(sums[top], sums[below], base[top], base[below], weights[part])
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
