"""Scores of an evaluation, with intervals, and each setting against plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reattend.evaluation.datasets.counting import summed
from reattend.evaluation.datasets.dataset import Answer, Dataset
from reattend.evaluation.metrics.certainty import sure_words, without_unsure
from reattend.evaluation.metrics.counts import Estimate, Word, matched_measure
from reattend.evaluation.metrics.intervals import intervals
from reattend.evaluation.metrics.measures import Measures
from reattend.evaluation.runner.evaluate import Evaluation
from reattend.policy import Array

MATCHED = {"recall": "found", "length": "said"}  # what is matched
UNSURE = "unsure"  # the setting that is the baseline without the words it was unsure of
SURE = 0.5  # probability that a word must have there
_THERE = 1  # stands for any thing that is there

Words = Sequence[Sequence[Sequence[float]]]  # of each picture: [probability, whether it is there]


def score(evaluation: Evaluation, *, baseline: str = "plain", seed: int = 0) -> dict[str, Any]:
    """Score every setting, with 95% intervals by a bootstrap over pictures.

    Of descriptions whose tokens have probabilities two things more are said. ``unsure`` is a
    setting of its own: the baseline without the words that it was unsure of. And as saying less is
    no merit, hallucinated words are compared at matched recall and length (`matched_difference`).

    Parameters
    ----------
    evaluation : Evaluation
        Of `evaluate`.
    baseline : str, optional
        The setting that others are compared with, pair by pair, if it is there.
    seed : int, optional
        Of the bootstrap.

    Returns
    -------
    dict
        As JSON can hold it: ``data``, ``rules``, ``cases``, ``pictures``, ``problems``, ``run``,
        a checksum of what is ``right``, ``measures``, the ``counts`` and ``words`` they come from
        by setting and picture, and ``settings``; of each ``methods``, its ``measures``, their
        ``difference`` from the baseline and its ``matched`` difference of hallucinated words,
        each [value, low, high].
    """
    data = evaluation.dataset
    measures = Measures(data.measures, data.combined)
    answers, methods = dict(evaluation.answers), dict(evaluation.methods)
    words = {name: some for name in answers if (some := _words(data, answers[name])) is not None}
    if baseline in words and UNSURE not in answers:
        answers[UNSURE] = _sure_of(data, answers[baseline])
        words[UNSURE] = _words(data, answers[baseline], SURE) or []
        methods[UNSURE] = [f"{baseline}, words below a probability of {SURE:g} left out"]
    counts = {name: summed(data, some) for name, some in answers.items()}
    pictures = len({case.group for case in data.cases})
    settings: dict[str, Any] = {}
    for name, own in counts.items():
        other = counts.get(baseline) if name != baseline else None
        pair = (words[name], words[baseline]) if {name, baseline} <= words.keys() else None
        found = measure(measures, own, other, pair if other else None, seed=seed)
        settings[name] = {"methods": methods[name], **found}
    return {
        "data": data.name,
        "rules": dict(data.rules),
        "cases": len(data.cases),
        "pictures": pictures,
        "problems": [str(problem) for problem in data.problems],
        "run": evaluation.run,
        "right": data.right(),
        "baseline": baseline,
        "settings": settings,
        "measures": measures.to_json(),
        "numbers": sorted(data.numbers),
        "counts": {
            name: {count: values.tolist() for count, values in own.items()}
            for name, own in counts.items()
        },
        "words": words,
    }


def measure(
    measures: Measures,
    own: Mapping[str, Array],
    other: Mapping[str, Array] | None = None,
    words: tuple[Words, Words] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure counts by picture and, on the same resamples, how far they are from others.

    Parameters
    ----------
    measures : Measures
        What to measure.
    own, other : mapping of str to array [n]
        Counts of a setting, and of the one that it is compared with, if any.
    words : pair of Words, optional
        What both named, for the difference of hallucinated words at matched recall and length.
    seed : int, optional
        Of the resamples.

    Returns
    -------
    dict
        ``measures``, ``difference`` and ``matched``, as for `score`.
    """
    names = measures.names
    pictures = len(next(iter(own.values())))
    matched = {}
    if words is not None:
        named, others = ([[Word(int(w[1]), w[0]) for w in some] for some in w_] for w_ in words)
        for what, by in MATCHED.items():
            matched[what] = matched_measure(named, others, [{_THERE}] * pictures, by=by)

    def all_of(weights: Array) -> Array:
        sums = {name: weights @ values for name, values in own.items()}
        rows = [measures.of(name, sums) for name in names]
        if other is not None:
            base = {name: weights @ values for name, values in other.items()}
            rows += [measures.of(name, sums) - measures.of(name, base) for name in names]
        return np.stack([*rows, *(each(weights) for each in matched.values())])

    found = [_plain(each) for each in intervals(pictures, all_of, seed=seed)]
    entry: dict[str, Any] = {"measures": dict(zip(names, found, strict=False))}
    if other is not None:
        entry["difference"] = dict(zip(names, found[len(names) :], strict=False))
    if matched:
        entry["matched"] = dict(zip(matched, found[2 * len(names) :], strict=True))
    return entry


def _words(
    data: Dataset, answers: Sequence[Answer], probability: float = 0.0
) -> list[list[list[float]]] | None:
    """Give what descriptions name by picture; None if nobody knows how sure they were."""
    if data.naming is None or not any(answer.tokens for answer in answers):
        return None
    found: dict[str, list[list[float]]] = {}
    for case, answer in zip(data.cases, answers, strict=True):
        there = data.naming.there(case)
        said = sure_words(answer.tokens, data.naming.mentions(_said(answer)), probability)
        named = [[round(word.probability, 5), int(word.noun in there)] for word in said]
        found.setdefault(case.group, []).extend(named)
    return [*found.values()]


def _sure_of(data: Dataset, answers: Sequence[Answer]) -> list[Answer]:
    assert data.naming is not None
    mentions = data.naming.mentions
    return [
        answer._replace(text=without_unsure(answer.tokens, mentions(_said(answer)), SURE))
        for answer in answers
    ]


def _said(answer: Answer) -> str:
    return "".join(text for text, _ in answer.tokens)


def _plain(found: Estimate) -> list[float | None]:
    return [None if np.isnan(number) else round(number, 6) for number in found]
