"""Scores by the answers to a data set's cases: of any model that answers, or of our own at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reattend.evaluation.calibration.prompt_scores import PromptBatch, PromptScores
from reattend.evaluation.calibration.search import Heads
from reattend.evaluation.datasets.dataset import Answer, Case, Dataset
from reattend.evaluation.runner.answerers import Answerer, VisionLanguageAnswerer, answers_of
from reattend.evaluation.runner.journal import written_out
from reattend.method import Method
from reattend.policy import Array

Score = Callable[[Case, Answer], float]


def right_log_probability(case: Case, answer: Answer) -> float:
    """Score an answer by the log-probability of the right one, among yes and no.

    Whether an answer is right moves in steps of a whole answer; this moves with every change.

    Parameters
    ----------
    case : Case
        Whose truth is a bool.
    answer : Answer
        With the margin of yes above no.

    Raises
    ------
    ValueError
        If it has none.

    Examples
    --------
    >>> case = Case("1", "Is there a cat?", None, "a.jpg", yes_or_no=True, truth=True)
    >>> round(right_log_probability(case, Answer("Yes", 2.0)), 3)
    -0.127
    """
    if not isinstance(case.truth, (bool, np.bool_)) or answer.margin is None:
        raise ValueError(
            f"case {case.key} must be answered by yes or no, with its margin, to be scored by the "
            "log-probability of the right answer: name a measure of the data set instead"
        )
    return -float(np.logaddexp(0, -answer.margin if case.truth else answer.margin))


class AnswerScores:
    """Scores of answers, for `search_heads` and any model: each candidate answers every case.

    Parameters
    ----------
    dataset : Dataset
        What is asked; a sample is a picture.
    answerer : Answerer
        What answers.
    switch : callable
        From heads to the method that is switched on in them.
    score : callable, or str, optional
        Of a case and its answer, the mean over a picture's cases; or one of the data set's
        measures that is better when larger, of each picture.
    batch : int, optional
        Cases side by side.

    Raises
    ------
    ValueError
        If the data set has no such measure.

    Examples
    --------
    >>> from reattend import HeadMask
    >>> from reattend.evaluation.metrics.pope import POPE_MEASURES, count_yes_no
    >>> from reattend.evaluation.runner.answerers import FunctionAnswerer
    >>> case = Case("1", "Is there a cat?", None, "a.jpg", yes_or_no=True, truth=True)
    >>> data = Dataset("cats", [case], lambda c, a: count_yes_no(c.truth, a.text == "Yes"),
    ...                POPE_MEASURES)
    >>> model = FunctionAnswerer(lambda cases, methods: [Answer("Yes", 1.0)], "always yes")
    >>> scores = AnswerScores(data, model, lambda heads: HeadMask(heads=heads), score="accuracy")
    >>> scores({2: (0,)})
    array([1.])
    """

    def __init__(
        self,
        dataset: Dataset,
        answerer: Answerer,
        switch: Callable[[Heads], Method],
        *,
        score: Score | str = right_log_probability,
        batch: int = 8,
    ) -> None:
        if isinstance(score, str) and score not in dataset.measures:
            raise ValueError(f"score must be one of {', '.join(dataset.measures)}, got {score!r}")
        self._data, self._answerer, self._switch = dataset, answerer, switch
        self._score, self._batch = score, batch
        self._samples = _samples(dataset.cases)

    def identity(self) -> dict[str, Any]:
        """Say what decides the scores."""
        return {
            **_data(self._data),
            "model": self._answerer.identity(),
            "method": written_out(self._switch({})),
            "score": _named(self._score),
            "batch": self._batch,
        }

    def __call__(self, heads: Heads) -> Array:
        """Score with the method in these heads, a number for each picture, float64 [n]."""
        methods, cases = [self._switch(heads)], self._data.cases
        answers = [
            answer
            for at in range(0, len(cases), self._batch)
            for answer in answers_of(self._answerer, cases[at : at + self._batch], methods)
        ]
        if isinstance(self._score, str):
            part, whole = self._data.measures[self._score]
            counts = [self._data.count(*each) for each in zip(cases, answers, strict=True)]
            tops, wholes = ([each[name] for each in counts] for name in (part, whole))
        else:
            tops = [self._score(*each) for each in zip(cases, answers, strict=True)]
            wholes = [1.0] * len(tops)
        sums, parts = (np.bincount(self._samples, each) for each in (tops, wholes))
        return np.divide(sums, parts, out=np.zeros_like(sums), where=parts > 0)


def question_scores(
    dataset: Dataset,
    answerer: VisionLanguageAnswerer,
    switch: Callable[[Heads], Method],
    *,
    batch: int = 16,
    together: int = 64,
) -> PromptScores:
    """Give what `AnswerScores` gives for yes-or-no questions, of our own model and much faster.

    Parameters
    ----------
    dataset : Dataset
        Of questions that are answered by yes or no; the score is `right_log_probability`.
    answerer : VisionLanguageAnswerer
        What answers.
    switch : callable
        From heads to the method that is switched on in them.
    batch, together : int, optional
        Prompts side by side, below and above the layer that is searched.

    Raises
    ------
    ValueError
        If a case is answered by something else, or the tokenizer does not tell yes from no.
    """
    cases = dataset.cases
    batches = []
    for at in range(0, len(cases), batch):
        some = cases[at : at + batch]
        batches.append(PromptBatch(*answerer.embed(some), _right(answerer, some)))
    identity = {
        **_data(dataset), "model": answerer.identity(), "method": written_out(switch({})),
        "score": _named(right_log_probability), "batch": [batch, together],
    }  # fmt: skip
    return PromptScores(
        answerer.model.llama, batches, switch, groups=_samples(cases), together=together,
        identity=identity,
    )  # fmt: skip


def _right(
    answerer: VisionLanguageAnswerer, cases: Sequence[Case]
) -> Callable[[Array, Array], Array]:
    def score(logits: Array, items: Array) -> Array:
        return np.array(
            [
                right_log_probability(cases[item], Answer("", answerer.margin(row)))
                for row, item in zip(logits, items.tolist(), strict=True)
            ]
        )

    return score


def _samples(cases: Sequence[Case]) -> Array:
    """Give the number of each case's picture, from 0 in their order."""
    places = {group: place for place, group in enumerate(dict.fromkeys(c.group for c in cases))}
    return np.array([places[case.group] for case in cases], np.intp)


def _data(dataset: Dataset) -> dict[str, Any]:
    return {
        "data": dataset.identity(), "rules": dict(dataset.rules), "right": dataset.right()
    }  # fmt: skip


def _named(score: Score | str) -> str:
    if isinstance(score, str):
        return score
    name = f"{score.__module__}.{getattr(score, '__qualname__', '<nameless>')}"
    if "<" in name:  # a lambda, or a function within one: another may have the same name
        raise ValueError(
            f"score must be a function of a module, by whose name it is known, where a journal is "
            f"kept, got {name}"
        )
    return name
