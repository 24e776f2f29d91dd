"""Cases: scenes with what is asked about them, the records of a setting's answers, their counts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from reattend.evaluation.datasets.emoji_world.sentences import filler
from reattend.evaluation.datasets.emoji_world.world import DIFFICULTIES, NOUNS, Scene, World
from reattend.evaluation.metrics.counts import Question, Word, count_description, count_questions
from reattend.evaluation.runner.answers import (
    KINDS,
    Answer,
    Inquiry,
    describe_scenes,
    draw_inquiries,
    margins,
    popular_nouns,
)
from reattend.method import Method
from reattend.models import VisionLanguage
from reattend.policy import Array

_OBJECTS = {False: (3, 6), True: (10, 14)}  # of short and of long descriptions
_LONGEST = {False: 48, True: 96}  # tokens
_FILLER_WORDS = (85, 165)  # about 100 to 200 tokens
_POPULAR_AMONG = 600  # scenes whose nouns are counted


class Cell(NamedTuple):
    """A kind of case."""

    difficulty: str
    long: bool = False  # whether 10 to 14 things are there, not 3 to 6
    filler: bool = False  # whether 100 to 200 tokens of other text stand before the question

    def __str__(self) -> str:
        text = f"{self.difficulty}, {'long' if self.long else 'short'}"
        return f"{text}, filler" if self.filler else text


CELLS = tuple(Cell(*each) for each in product(DIFFICULTIES, (False, True), (False, True)))


@dataclass(frozen=True, eq=False)
class Case:
    """A scene, the text before its question, and the nouns to ask for."""

    number: int
    cell: Cell
    scene: Scene
    before: str | None
    inquiries: tuple[Inquiry, ...]  # empty: it is only described


class Record(NamedTuple):
    """What one setting answered in one case."""

    number: int
    answer: Answer
    margins: tuple[float, ...]  # of each inquiry: Yes above No


class Cases:
    """Conflict scenes by number, spread evenly over cells: number n is of cell n % len(cells).

    Parameters
    ----------
    split : str
        Of the world.
    seed : int
        Of the world.
    cells : sequence of Cell
        Kinds of cases, in turn.
    asked : int
        How many cases, the first ones, are asked about as well as described.

    Examples
    --------
    >>> case = Cases("tune", cells=CELLS, asked=24).draw(15)
    >>> str(case.cell), len(case.inquiries)
    ('clear, long, filler', 4)
    """

    def __init__(
        self, split: str = "test", seed: int = 0, *, cells: Sequence[Cell] = CELLS, asked: int = 0
    ) -> None:
        self.world = World(seed, split)
        self.cells = tuple(cells)
        self.asked = asked
        some = range(min(asked, _POPULAR_AMONG))
        self.popular = popular_nouns(self._scene(number, "clear") for number in some)

    def draw(self, number: int) -> Case:
        """Draw a case.

        Parameters
        ----------
        number : int
            From 0.

        Examples
        --------
        See the example of the class.
        """
        cell = self.cells[number % len(self.cells)]
        scene = self._scene(number, cell.difficulty)
        rng = np.random.default_rng([self.world.seed, number])
        before = filler(rng, int(rng.integers(*_FILLER_WORDS))) if cell.filler else None
        inquiries: tuple[Inquiry, ...] = ()
        if number < self.asked:
            inquiries = tuple(draw_inquiries(scene, self.popular, (self.world.seed, number)))
        return Case(number, cell, scene, before, inquiries)

    def only_described(self) -> Cases:
        """Give the same cases without questions."""
        return Cases(self.world.split, self.world.seed, cells=self.cells)

    def _scene(self, number: int, difficulty: str) -> Scene:
        objects = _OBJECTS[self.cells[number % len(self.cells)].long]
        return self.world.scene(number, difficulty=difficulty, conflict=True, objects=objects)


def encode_cases(model: VisionLanguage, cases: Sequence[Case]) -> Array:
    """Encode the pictures of cases once, for all that is asked about them.

    Parameters
    ----------
    model : VisionLanguage
        What sees.
    cases : sequence of B Case
        Whose pictures.

    Returns
    -------
    float32 array [B, 100, C]
    """
    return model.encode(np.stack([case.scene.pixels for case in cases]))


def answer_cases(
    model: VisionLanguage, methods: Sequence[Method], cases: Sequence[Case], pictures: Array
) -> tuple[list[Record], dict[str, float]]:
    """Describe cases of one cell side by side, and answer what is asked about them.

    Parameters
    ----------
    model : VisionLanguage
        What answers.
    methods : sequence of Method
        At work in its attention.
    cases : sequence of Case
        All of one cell.
    pictures : float32 array [B, 100, C]
        Of `encode_cases`.

    Returns
    -------
    list of Record
        One for each case.
    dict of str to float
        Seconds that it took to ``describe`` and to ``ask``.
    """
    before = [case.before for case in cases]
    start = time.perf_counter()
    answers = describe_scenes(
        model, methods, pictures, before, max_new_tokens=_LONGEST[cases[0].cell.long]
    )
    described = time.perf_counter()
    found: list[list[float]] = [[] for _ in cases]
    for place in range(len(KINDS) + 1):  # a batch for each, as large as that of the descriptions
        rows = [row for row, case in enumerate(cases) if place < len(case.inquiries)]
        if rows:
            nouns = [cases[row].inquiries[place].noun for row in rows]
            said = margins(model, methods, pictures[rows], nouns, [before[row] for row in rows])
            for row, margin in zip(rows, said.tolist(), strict=True):
                found[row].append(margin)
    seconds = {"describe": described - start, "ask": time.perf_counter() - described}
    records = [
        Record(case.number, answer, tuple(some))
        for case, answer, some in zip(cases, answers, found, strict=True)
    ]
    return records, seconds


def count_case(
    case: Case, record: Record, *, probability: float = 0.0, margin: float = 0.0
) -> dict[str, Any]:
    """Count what the measures need of one case.

    Parameters
    ----------
    case : Case
        What was asked.
    record : Record
        What was answered.
    probability : float, optional
        Nouns of which the model was less sure are left out.
    margin : float, optional
        A yes must be above it.

    Returns
    -------
    dict
        ``"description"``: its counts; of a case that was asked about also each of `KINDS`: counts
        of the question for a noun that is there and of the one for an absent noun of the kind.
    """
    said = [word.noun for word in record.answer.words if word.probability >= probability]
    scene = case.scene
    described = count_description(
        said, scene.nouns, scene.removed, record.answer.tokens, vocabulary_size=len(NOUNS)
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


def to_json(record: Record) -> list[Any]:
    """Write a record as JSON's lists.

    Parameters
    ----------
    record : Record
        What to write.

    Examples
    --------
    >>> to_json(Record(7, Answer("A cow.", (Word(14, 0.912345),), 3), (1.5,)))
    [7, 'A cow.', [[14, 0.91234]], 3, [1.5]]
    """
    answer = record.answer
    words = [[word.noun, round(word.probability, 5)] for word in answer.words]
    return [record.number, answer.text, words, answer.tokens, [round(m, 4) for m in record.margins]]


def from_json(values: Sequence[Any]) -> Record:
    """Read what `to_json` wrote.

    Parameters
    ----------
    values : sequence
        What to read.

    Examples
    --------
    >>> from_json([7, "A cow.", [[14, 0.91234]], 3, [1.5]]).answer.words
    (Word(noun=14, probability=0.91234),)
    """
    number, text, words, tokens, margins_ = values
    return Record(
        number, Answer(text, tuple(Word(*word) for word in words), tokens), tuple(margins_)
    )
