"""Cases: scenes of several kinds, each with what stands before its question and what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from reattend.evaluation.datasets.emoji_world.inquiries import (
    Inquiry,
    draw_inquiries,
    popular_nouns,
)
from reattend.evaluation.datasets.emoji_world.sentences import filler
from reattend.evaluation.datasets.emoji_world.world import DIFFICULTIES, Scene, World

_OBJECTS = {False: (3, 6), True: (10, 14)}  # of short and of long descriptions
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

    def _scene(self, number: int, difficulty: str) -> Scene:
        objects = _OBJECTS[self.cells[number % len(self.cells)].long]
        return self.world.scene(number, difficulty=difficulty, conflict=True, objects=objects)
