"""Reads the journals of the models that described 2,000 scenes each, and counts what they hold.

A line is a setting's answers to a batch of scenes of one kind: of each scene its number, its
description, the nouns that this names with their probabilities, how many tokens it took, and by how
much Yes was above No in each question; and the seconds that the batch took.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from reattend.evaluation.datasets.emoji_world import KINDS, NOUNS
from reattend.evaluation.datasets.emoji_world.cases import CELLS, Case, Cases
from reattend.evaluation.metrics.counts import Question, Word, count_description, count_questions
from reattend.evaluation.runner.journal import Journal, differences

PLAIN, UNSURE = "plain", "unsure"
LABELS = {
    PLAIN: "plain",
    "var": "VAR",
    "var-ungated": "VAR without its rho gate",
    "vhr": "VHR",
    "vhr-one-pass": "VHR in one pass",
    "act": "ACT, searched heads",
    "act-all": "ACT, all heads",
    "brighten": "image keys raised in all heads",
    UNSURE: "words below a probability left out",
}
_DECIDE_CASES = ("world", "seed", "asked")  # of a run

Strengths = Mapping[str, Mapping[str, Any]]  # setting -> its method's parameters


class Record(NamedTuple):
    """What one setting answered about one scene."""

    number: int
    words: tuple[Word, ...]  # the nouns that it names, in order
    tokens: int
    margins: tuple[float, ...]  # of each inquiry: Yes above No


class Answers(NamedTuple):
    """What settings answered: all of them the same cases, in the same order."""

    cases: list[Case]
    records: dict[str, list[Record]]
    seconds: dict[str, np.ndarray]  # of each case: its share of what its batch took


def read_journal(path: Path, settings: Iterable[str]) -> tuple[Answers, dict[str, Any]]:
    """Read what settings answered, and what the run was; batches that some lack are left out."""
    journal = Journal(path)
    run = journal.run
    if run.get("split") != "test" or "strengths" not in run:
        raise SystemExit(f"{path} must be the journal of an evaluation of scenes")
    cases = Cases(run["split"], run["seed"], cells=CELLS, asked=run["asked"])
    begun = {name for name, _ in journal}
    names = [name for name in LABELS if name in {*settings, PLAIN} - {UNSURE} and name in begun]
    answers = _collect(journal, names, cases, batches(run["scenes"], len(CELLS), run["batch"]))
    if not answers.cases:
        raise SystemExit(f"{path} holds no scenes yet that {', '.join(names)} all described")
    return answers, run


def check_same(path: Path, run: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Refuse a journal of other scenes than the first one's."""
    own, theirs = ({name: each[name] for name in _DECIDE_CASES} for each in (run, first))
    if differs := differences(own, theirs):
        raise SystemExit(f"{path} has other scenes than the first journal: {differs}")


def batches(count: int, cells: int, together: int) -> list[range]:
    """Cut cases into batches of one cell, in an order that keeps cells level.

    >>> batches(7, 2, 2)
    [range(0, 4, 2), range(1, 5, 2), range(4, 8, 2), range(5, 7, 2)]
    """
    found = []
    for cell in range(min(cells, count)):
        numbers = range(cell, count, cells)
        found += [numbers[at : at + together] for at in range(0, len(numbers), together)]
    return sorted(found, key=lambda numbers: numbers[0])


def count_case(
    case: Case, record: Record, *, probability: float = 0.0, margin: float = 0.0
) -> dict[str, Any]:
    """Count what the measures need of one case.

    Nouns below ``probability`` are left out, and a yes must be above ``margin``. The counts of
    its description are in ``"description"``; of a case that was asked about also each of `KINDS`:
    of the question for a noun that is there and of the one for an absent noun of the kind.
    """
    said = [word.noun for word in record.words if word.probability >= probability]
    scene = case.scene
    described = count_description(
        said, scene.nouns, scene.removed, record.tokens, vocabulary_size=len(NOUNS)
    )
    counts = {"description": described}
    yes = {
        each.kind: value > margin
        for each, value in zip(case.inquiries, record.margins, strict=True)
    }
    for kind in yes.keys() & set(KINDS):
        pair = Question(True, yes["there"]), Question(False, yes[kind])
        counts[kind] = count_questions(pair)
    return counts


def _collect(
    journal: Journal, names: Sequence[str], cases: Cases, done: Sequence[range]
) -> Answers:
    found: dict[str, list[Record]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    drawn: list[Case] = []
    for numbers in done:
        if any([name, numbers[0]] not in journal for name in names):
            continue
        drawn += [cases.draw(number) for number in numbers]
        for name in names:
            entry = journal.get([name, numbers[0]])
            found[name] += [_record(values) for values in entry["records"]]
            seconds[name] += [entry["seconds"]["describe"] / len(numbers)] * len(numbers)
    return Answers(drawn, found, {name: np.array(each) for name, each in seconds.items()})


def _record(values: Sequence[Any]) -> Record:
    number, _, words, tokens, margins = values
    return Record(number, tuple(Word(*word) for word in words), tokens, tuple(margins))
