"""The evaluation: every setting on the same cases, batch by batch, into a journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from reattend.evaluation.baselines import OnePassVHR
from reattend.evaluation.datasets.emoji_world.cases import (
    Case,
    Cases,
    Record,
    encode_cases,
    from_json,
)
from reattend.evaluation.datasets.emoji_world.sentences import DESCRIBE
from reattend.evaluation.loading import Loaded
from reattend.evaluation.runner.answers import new_session
from reattend.evaluation.runner.journal import Journal
from reattend.evaluation.runner.workers import Answerer, Piece, answer_side_by_side
from reattend.method import Method
from reattend.methods import VHR
from reattend.policy import Array


class Answers(NamedTuple):
    """What settings answered: all of them the same cases, in the same order."""

    cases: list[Case]
    records: dict[str, list[Record]]
    seconds: dict[str, Array]  # of each case: its share of what its batch took to be described


def batches(count: int, cells: int, together: int) -> list[range]:
    """Cut cases into batches of one cell, in an order that keeps cells level.

    Parameters
    ----------
    count : int
        How many cases: number n is of cell n % cells.
    cells : int
        How many cells there are.
    together : int
        How many cases a batch has at most.

    Returns
    -------
    list of range
        The numbers of each batch.

    Examples
    --------
    >>> batches(7, 2, 2)
    [range(0, 4, 2), range(1, 5, 2), range(4, 8, 2), range(5, 7, 2)]
    """
    found = []
    for cell in range(min(cells, count)):
        numbers = range(cell, count, cells)
        found += [numbers[at : at + together] for at in range(0, len(numbers), together)]
    return sorted(found, key=lambda numbers: numbers[0])


def run_settings(
    loaded: Loaded,
    settings: Mapping[str, Sequence[Method]],
    cases: Cases,
    todo: Sequence[range],
    journal: Journal,
    progress: Callable[[int, int], None] = lambda done, whole: None,
) -> None:
    """Let every setting answer every batch; what the journal has is not done again.

    Settings take turns within a batch: what slows the machine for a while slows all of them.

    Parameters
    ----------
    loaded : Loaded
        The model; its workers answer side by side.
    settings : mapping of str to sequence of Method
        What is at work in each.
    cases : Cases
        What is drawn from.
    todo : sequence of range
        Of `batches`.
    journal : Journal
        Where answers go.
    progress : callable, optional
        Called with how many of how many pieces are done.
    """
    whole = [(name, numbers) for numbers in todo for name in settings]
    left = [(name, numbers) for name, numbers in whole if [name, numbers[0]] not in journal]
    answered: Iterable[tuple[Piece, dict[str, Any]]]
    if loaded.workers is None or len(left) < 2:
        answer = Answerer(loaded.model, settings, cases)
        answered = ((piece, answer(piece)) for piece in left)
    else:
        answered = answer_side_by_side(loaded.workers, settings, cases, left)
    for done, ((name, numbers), entry) in enumerate(answered, len(whole) - len(left) + 1):
        journal.add([name, numbers[0]], entry)
        progress(done, len(whole))


def collect(
    journal: Journal, settings: Iterable[str], cases: Cases, done: Sequence[range]
) -> Answers:
    """Read answers back from a journal.

    Parameters
    ----------
    journal : Journal
        Where they are.
    settings : iterable of str
        Whose.
    cases : Cases
        What was drawn from.
    done : sequence of range
        Of `batches`; those that a setting has not answered are left out.
    """
    names = [*settings]
    found: dict[str, list[Record]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    drawn: list[Case] = []
    for numbers in done:
        if any([name, numbers[0]] not in journal for name in names):
            continue
        drawn += [cases.draw(number) for number in numbers]
        for name in names:
            entry = journal.get([name, numbers[0]])
            found[name] += [from_json(values) for values in entry["records"]]
            seconds[name] += [entry["seconds"]["describe"] / len(numbers)] * len(numbers)
    return Answers(drawn, found, {name: np.array(each) for name, each in seconds.items()})


def head_agreement(loaded: Loaded, cases: Sequence[Case]) -> Array:
    """Compare the heads that VHR chooses by its text-only run and by the one-pass shortcut.

    Nothing is reinforced, so that both see the same.

    Parameters
    ----------
    loaded : Loaded
        The model.
    cases : sequence of B Case
        Of one cell.

    Returns
    -------
    float64 array [B, 3]
        Heads that both choose, that the first chooses, and that both would if the second chose as
        many in each layer blindly; the sum over VHR's layers.
    """
    model = loaded.model
    prompts = [model.prompt(DESCRIBE, case.before) for case in cases]
    pictures = encode_cases(model, cases)
    chosen = []
    for method in (VHR(alpha=1.0), OnePassVHR(alpha=1.0)):
        session = new_session(model, method)
        model.next_logits(session, prompts, pictures)
        layers = method.layers_for(session.num_layers)
        found = {each.layer: each.found["chosen"] for each in session.report().readings}
        chosen.append(np.stack([found[layer] for layer in layers], axis=1))  # [B, layers, H]
    ours, theirs = chosen
    chance = ours.sum(-1) * theirs.sum(-1) / ours.shape[-1]
    return np.stack([(ours & theirs).sum((1, 2)), ours.sum((1, 2)), chance.sum(1)], axis=1)


class Clock:
    """Says how long something still takes.

    Parameters
    ----------
    now : callable, optional
        Gives seconds.

    Examples
    --------
    >>> ticks = iter([0.0, 60.0, 120.0])
    >>> clock = Clock(lambda: next(ticks))
    >>> clock.left(1, 10), clock.left(2, 10)
    ('9 min', '8 min')
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._start = now, now()
        self._first: int | None = None

    def left(self, done: int, whole: int) -> str:
        """Give the time left, from the rate since the first piece that this run did.

        Parameters
        ----------
        done, whole : int
            Pieces.

        Examples
        --------
        See the example of the class.
        """
        if self._first is None:
            self._first = done - 1
        each = (self._now() - self._start) / (done - self._first)
        minutes = round(each * (whole - done) / 60)
        return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
