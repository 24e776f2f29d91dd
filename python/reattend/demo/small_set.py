"""The numbers of `reattend demo`: POPE, CHAIR and time of each method on a few scenes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reattend.demo.show import table
from reattend.evaluation.datasets import Answer, Case, Dataset, load_dataset
from reattend.evaluation.datasets.counting import summed
from reattend.evaluation.datasets.emoji_world import KINDS, Cell
from reattend.evaluation.loading import PLAIN, Loaded
from reattend.evaluation.metrics.counts import Estimate, estimate, resample
from reattend.evaluation.runner.answerers import VisionLanguageAnswerer
from reattend.optional import demand

METHODS = ("var", "vhr", "act")  # what is shown
LABELS = {PLAIN: "plain", "var": "VAR", "vhr": "VHR", "act": "ACT"}
_TOGETHER = 8  # scenes in a batch: small enough for a bar that moves
_QUESTIONS = {"accuracy": "accuracy", "f1": "F1", "yes": "says yes"}
_DESCRIPTIONS = {
    "chair_s": "CHAIR_s (answers)",
    "chair_i": "CHAIR_i (words)",
    "recall": "recall",
    "nouns": "things named",
}
Row = tuple[str, ...]


@dataclass
class SmallSet:
    """Scenes to describe, and for each kind of absent thing the questions about them."""

    described: Dataset
    asked: dict[str, Dataset]

    @classmethod
    def draw(cls, scenes: int, seed: int, difficulty: str) -> SmallSet:
        """Draw scenes of the split test.

        Parameters
        ----------
        scenes : int
            How many.
        seed : int
            Of the world.
        difficulty : str
            How well they can be seen.
        """
        drawn: dict[str, Any] = {"scenes": scenes, "seed": seed, "cells": [Cell(difficulty)]}
        return cls(
            load_dataset("emoji-world", **drawn),
            {
                kind: load_dataset("emoji-world-questions", sampling=kind, rule="logits", **drawn)
                for kind in KINDS
            },
        )

    def questions(self, groups: Sequence[str]) -> list[Case]:
        """Give the questions about some scenes, each once; what counts is their first token.

        Parameters
        ----------
        groups : sequence of str
            The scenes.
        """
        cases = {case.key: case for data in self.asked.values() for case in data.cases}
        return [replace(c, max_new_tokens=1) for c in cases.values() if c.group in groups]


@dataclass
class Measured:
    """What each setting answered on the same scenes."""

    scenes: list[str] = field(default_factory=list)  # those that all have answered
    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)  # setting -> key -> answer
    seconds: dict[str, float] = field(default_factory=dict)  # to describe them
    interrupted: bool = False


def measure(
    loaded: Loaded,
    names: Sequence[str],
    cases: SmallSet,
    first: int,
    progress: Callable[[Sequence[Any], str], Iterable[Any]],
) -> Measured:
    """Let settings answer the same cases in turn; Ctrl-C ends it with what is there.

    Parameters
    ----------
    loaded : Loaded
        The model.
    names : sequence of str
        Settings.
    cases : SmallSet
        What is asked.
    first : int
        The scene from which on it is.
    progress : callable
        Wraps the sequence that is gone through, as tqdm does; called with a description too.
    """
    answerer = VisionLanguageAnswerer(loaded.model, "demo")
    measured = Measured(answers={n: {} for n in names}, seconds=dict.fromkeys(names, 0.0))
    scenes = cases.described.cases[first:]
    batches = [scenes[at : at + _TOGETHER] for at in range(0, len(scenes), _TOGETHER)]
    turns = [(batch, name) for batch in batches for name in names]
    try:
        for batch, name in progress(turns, "Measuring"):
            methods, answers = loaded.methods(name), measured.answers[name]
            start = time.perf_counter()
            answers |= _by_key(batch, answerer(batch, methods))
            measured.seconds[name] += time.perf_counter() - start
            questions = cases.questions([case.group for case in batch])
            for at in range(0, len(questions), _TOGETHER):
                some = questions[at : at + _TOGETHER]
                answers |= _by_key(some, answerer(some, methods))
            if name == names[-1]:  # they count when all have answered
                measured.scenes += [case.group for case in batch]
    except KeyboardInterrupt:
        measured.interrupted = True
    return measured


def numbers(
    measured: Measured, cases: SmallSet, names: Sequence[str]
) -> dict[str, dict[str, Estimate]]:
    """Give what was measured: of each reading, each setting's estimate.

    Parameters
    ----------
    measured : Measured
        What was answered.
    cases : SmallSet
        What was asked.
    names : sequence of str
        Settings.

    Returns
    -------
    dict
        With 95% intervals, a bootstrap over scenes.
    """
    weights = resample(len(measured.scenes))

    def of(data: Dataset, labels: Mapping[str, str]) -> dict[str, dict[str, Estimate]]:
        some = replace(data, cases=[case for case in data.cases if case.group in measured.scenes])
        sums = {
            name: summed(some, [measured.answers[name][case.key] for case in some.cases])
            for name in names
        }
        found = {}
        for measure_name, label in labels.items():
            part, whole = data.measures[measure_name]
            found[label] = {
                name: estimate(each[part], each[whole], weights) for name, each in sums.items()
            }
        return found

    found: dict[str, dict[str, Estimate]] = {}
    for kind, data in cases.asked.items():
        found |= of(data, {m: f"POPE {kind}, {label}" for m, label in _QUESTIONS.items()})
    return found | of(cases.described, _DESCRIPTIONS)


def show_numbers(measured: Measured, cases: SmallSet, names: Sequence[str], difficulty: str) -> Any:
    """Give a table of what was measured, for a console to print.

    Parameters
    ----------
    measured : Measured
        What was answered.
    cases : SmallSet
        What was asked.
    names : sequence of str
        Settings, in the order of columns; `PLAIN` among them.
    difficulty : str
        Of the scenes.

    Returns
    -------
    rich.console.Group
        Percentages with 95% intervals, a bootstrap over scenes.
    """
    count, text = len(measured.scenes), demand("rich.text").Text
    if not count:
        return text("Interrupted before anything was measured.")
    plainly = {_DESCRIPTIONS[each] for each in cases.described.numbers if each in _DESCRIPTIONS}
    rows: list[Row] = [("", *(LABELS[name] for name in names))]
    for label, found in numbers(measured, cases, names).items():
        write = _plainly if label in plainly else _percent
        rows.append((label, *(write(found[name]) for name in names)))
    base = measured.seconds[PLAIN]
    rows.append(("time, plain = 1", *(f"{measured.seconds[name] / base:.2f}" for name in names)))
    heading = (
        f"{count} more {difficulty} scenes with usual things replaced by others; "
        "in %, 95% intervals in brackets"
    )
    few = "So few scenes show large effects only; reattend evaluate measures as many as you like."
    return demand("rich.console").Group(text(heading, "bold"), table(rows), text(few, "dim"))


def _by_key(cases: Sequence[Case], answers: Sequence[Answer]) -> dict[str, Answer]:
    return {case.key: answer for case, answer in zip(cases, answers, strict=True)}


def _percent(found: Estimate) -> str:
    return "-" if np.isnan(found.value) else Estimate(*(100 * n for n in found)).written(".0f")


def _plainly(found: Estimate) -> str:
    return found.written(".1f")
