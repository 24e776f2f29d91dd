"""Measures of hallucination: CHAIR, recall and POPE, with intervals by a bootstrap over scenes.

Every measure here is a ratio of two sums over scenes. That is all a bootstrap needs: a resample
weighs the scenes, and both sums are products with these weights.

    measure = sum_i part_i / sum_i whole_i           i: a scene
    resampled = sum_i w_i part_i / sum_i w_i whole_i   w: how often each scene was drawn again

Runs of `evaluate` take their intervals from scipy.stats (`intervals`), which draws other resamples.
These here stay beside it: the demonstration comes without scipy, and the figures in docs/results
were drawn so. tests/evaluation/test_intervals.py holds both against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from reattend.policy import Array

__all__ = [
    "RESAMPLES",
    "Counts",
    "Estimate",
    "Question",
    "Word",
    "columns",
    "count_description",
    "count_questions",
    "difference",
    "estimate",
    "matched_difference",
    "matched_measure",
    "resample",
]

RESAMPLES = 2000
_TOGETHER = 1 << 22  # numbers of a matrix of resampled words that are held at once

Counts = Mapping[str, Array]  # name -> float64 [n], of each scene

# measure: (part, whole); those of descriptions, then those of questions.
DESCRIPTION_MEASURES: dict[str, tuple[str, str]] = {
    "chair_i": ("made_up", "said"),  # share of the named nouns that are not there
    "chair_s": ("any_made_up", "one"),  # share of descriptions that name such a noun
    "recall": ("found", "there"),
    "f1": ("twice_found", "said_and_there"),  # of the named nouns; weighs both sides
    "nouns": ("said", "one"),  # a description names
    "tokens": ("tokens", "one"),  # a description takes
    "usual": ("usual", "made_up"),  # share of hallucinated nouns that are the removed usual ones
    "usual_by_chance": ("usual_by_chance", "made_up"),  # the same if they were drawn blindly
    "usual_over_chance": ("usual", "usual_by_chance"),
}
QUESTION_MEASURES: dict[str, tuple[str, str]] = {
    "accuracy": ("right", "asked"),
    "precision": ("right_yes", "yes"),
    "recall": ("right_yes", "asked_there"),
    "f1": ("twice_right_yes", "yes_and_there"),
    "yes": ("yes", "asked"),
}


class Estimate(NamedTuple):
    """A number with its 95% interval; NaN where a measure's whole is 0, or of a single scene."""

    value: float
    low: float
    high: float

    def written(self, form: str) -> str:
        """Write the number, with its interval where that is known.

        Parameters
        ----------
        form : str
            Of each number, as `format` takes it.

        Examples
        --------
        >>> Estimate(0.5, 0.25, 0.75).written("+.2f"), Estimate(3, np.nan, np.nan).written(".1f")
        ('+0.50 [+0.25, +0.75]', '3.0')
        """
        value, low, high = (format(each, form) for each in self)
        return value if np.isnan(self.low) or np.isnan(self.high) else f"{value} [{low}, {high}]"


class Word(NamedTuple):
    """A noun that a description names, and how sure the model was of it."""

    noun: int  # its place in the vocabulary
    probability: float


class Question(NamedTuple):
    """A noun that was asked for, and what came."""

    there: bool
    yes: bool


def count_description(
    said: Iterable[int], there: Collection[int], removed: Collection[int] = (), tokens: int = 0,
    *, vocabulary_size: int,
) -> dict[str, float]:  # fmt: skip
    """Count what `DESCRIPTION_MEASURES` need of one description. A noun counts once.

    Parameters
    ----------
    said : iterable of int
        Nouns the description names, in any order.
    there : collection of int
        Nouns that are in the picture.
    removed : collection of int, optional
        Usual ones that are not, because they were taken out.
    tokens : int, optional
        How many tokens the description has.
    vocabulary_size : int
        How many nouns there are.

    Returns
    -------
    dict of str to float

    Examples
    --------
    Four nouns are there; three of them were said, and one that was taken out:

    >>> counts = count_description([1, 2, 3, 9], [1, 2, 3, 4], [9, 10], vocabulary_size=84)
    >>> [counts[name] for name in ("made_up", "said", "found", "there", "usual")]
    [1.0, 4.0, 3.0, 4.0, 1.0]
    >>> counts["usual_by_chance"]  # 2 of the 80 nouns that are not there
    0.025
    """
    named, truth = set(said), set(there)
    found, made_up = len(named & truth), len(named - truth)
    return {
        "one": 1.0,
        "said": float(len(named)),
        "there": float(len(truth)),
        "found": float(found),
        "made_up": float(made_up),
        "any_made_up": float(made_up > 0),
        "twice_found": 2.0 * found,
        "said_and_there": float(len(named) + len(truth)),
        "tokens": float(tokens),
        "usual": float(len((named - truth) & set(removed))),
        "usual_by_chance": made_up * len(removed) / (vocabulary_size - len(truth)),
    }


def count_questions(questions: Iterable[Question]) -> dict[str, float]:
    """Count what `QUESTION_MEASURES` need of the questions about one scene.

    Parameters
    ----------
    questions : iterable of Question
        What was asked and answered.

    Returns
    -------
    dict of str to float

    Examples
    --------
    >>> right = [Question(there=True, yes=True), Question(there=False, yes=False)]
    >>> counts = count_questions([*right, Question(there=False, yes=True)])
    >>> counts["right"], counts["yes"], counts["right_yes"], counts["asked"]
    (2.0, 2.0, 1.0, 3.0)
    """
    asked = list(questions)
    yes, there = sum(q.yes for q in asked), sum(q.there for q in asked)
    right_yes = sum(q.yes and q.there for q in asked)
    return {
        "asked": float(len(asked)),
        "asked_there": float(there),
        "yes": float(yes),
        "right": float(sum(q.yes == q.there for q in asked)),
        "right_yes": float(right_yes),
        "twice_right_yes": 2.0 * right_yes,
        "yes_and_there": float(yes + there),
    }


def columns(rows: Sequence[Mapping[str, float]]) -> dict[str, Array]:
    """Turn the counts of scenes into one array for each name.

    Parameters
    ----------
    rows : sequence of n mappings
        Counts of each scene, all with the same names.

    Returns
    -------
    dict of str to float64 array [n]

    Examples
    --------
    >>> columns([{"said": 3.0}, {"said": 4.0}])
    {'said': array([3., 4.])}
    """
    return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def resample(scenes: int, seed: int = 0, resamples: int = RESAMPLES) -> Array:
    """Draw scenes again, with replacement: how often each is in each resample.

    Two settings that are compared are measured on the same resamples, so that what makes a scene
    easy or hard for both cancels: the bootstrap is paired.

    Parameters
    ----------
    scenes : int
        How many there are, at least one.
    seed : int, optional
        The same seed gives the same resamples.
    resamples : int, optional
        How many.

    Returns
    -------
    float64 array [resamples, scenes]

    Raises
    ------
    ValueError
        If there are no scenes.

    Examples
    --------
    >>> resample(3, resamples=2).sum(axis=1)
    array([3., 3.])
    """
    if scenes < 1:
        raise ValueError(f"scenes must be at least 1, got {scenes}")
    rng = np.random.default_rng(seed)
    return rng.multinomial(scenes, np.full(scenes, 1 / scenes), size=resamples).astype(np.float64)


def estimate(part: Array, whole: Array, weights: Array) -> Estimate:
    """Measure a ratio of sums, with its interval.

    Parameters
    ----------
    part, whole : array [n]
        What is summed, of each scene.
    weights : array [R, n]
        Of `resample`.

    Returns
    -------
    Estimate

    Examples
    --------
    >>> made_up, said = np.array([0.0, 2.0, 0.0, 1.0]), np.array([3.0, 4.0, 3.0, 2.0])
    >>> estimate(made_up, said, resample(4)).value
    0.25
    """
    drawn = _ratio(weights @ part, weights @ whole)
    return _with_interval(_ratio(part.sum(), whole.sum()), drawn, len(part))


def difference(
    part: Array, whole: Array, plain_part: Array, plain_whole: Array, weights: Array
) -> Estimate:
    """Measure how far a ratio of sums is above that of another setting on the same scenes.

    Parameters
    ----------
    part, whole : array [n]
        What is summed, of each scene.
    plain_part, plain_whole : array [n]
        The same of what it is compared with.
    weights : array [R, n]
        Of `resample`.

    Returns
    -------
    Estimate
        Below 0 where the measure became less.

    Examples
    --------
    >>> said = np.array([2.0, 2.0])
    >>> difference(np.array([0.0, 1.0]), said, np.array([1.0, 2.0]), said, resample(2))
    Estimate(value=-0.5, low=-0.5, high=-0.5)
    """
    value = _ratio(part.sum(), whole.sum()) - _ratio(plain_part.sum(), plain_whole.sum())
    drawn = _ratio(weights @ part, weights @ whole)
    plain = _ratio(weights @ plain_part, weights @ plain_whole)
    return _with_interval(value, drawn - plain, len(part))


def matched_difference(
    words: Sequence[Sequence[Word]],
    plain_words: Sequence[Sequence[Word]],
    there: Sequence[Collection[int]],
    weights: Array,
    *,
    by: str,
) -> Estimate:
    """Measure how far CHAIR_i is above plain's where both name equally many (right) nouns.

    A setting that says less makes less up: that alone is no merit, for plain can do it too, by
    leaving out the words that it is least sure of. So both drop words, those of least probability
    over all scenes first, as long as what is left reaches what the lesser of the two reaches in
    all: right nouns (``by="found"``: recall is matched) or nouns (``by="said"``: length is
    matched). What is left of the difference is not due to saying less. The match is made anew in
    each resample. The last words count in part, those of one probability alike, so that both are
    level exactly.

    Parameters
    ----------
    words, plain_words : sequence of n sequences of Word
        Of each scene's description, a noun at most once.
    there : sequence of n collections of int
        Nouns that are in the pictures.
    weights : array [R, n]
        Of `resample`.
    by : {"found", "said"}
        What is matched.

    Returns
    -------
    Estimate
        Below 0 where less is hallucinated than by plain at the same recall or length.

    Raises
    ------
    ValueError
        If ``by`` is neither.

    Examples
    --------
    One picture of 0 and 1. Plain finds both and hallucinates two objects; the other finds 0 and
    hallucinates one. With recall matched, plain keeps the one word that it is surest of, which is
    there, and of the other's two one is hallucinated:

    >>> plain = [[Word(0, 0.9), Word(1, 0.8), Word(2, 0.3), Word(3, 0.2)]]
    >>> other = [[Word(2, 0.9), Word(0, 0.6)]]
    >>> matched_difference(other, plain, [{0, 1}], np.ones((1, 1)), by="found").value
    0.5
    """
    measure = matched_measure(words, plain_words, there, by=by)
    size = max(sum(map(len, words)), sum(map(len, plain_words)), 1)
    parts = max(1, weights.shape[0] * size // _TOGETHER)
    drawn = [measure(some) for some in np.array_split(weights, parts)]
    value = measure(np.ones((1, weights.shape[1])))[0]
    return _with_interval(value, np.concatenate(drawn), weights.shape[1])


def matched_measure(
    words: Sequence[Sequence[Word]],
    plain_words: Sequence[Sequence[Word]],
    there: Sequence[Collection[int]],
    *,
    by: str,
) -> Callable[[Array], Array]:
    """Give the difference of `matched_difference` as a function of weights [R, n], array [R].

    Parameters
    ----------
    words, plain_words, there, by
        As there.

    Raises
    ------
    ValueError
        If ``by`` is neither.
    """
    if by not in ("found", "said"):
        raise ValueError(f"by must be 'found' or 'said', got {by!r}")
    ours, theirs = (_Sorted(each, there) for each in (words, plain_words))
    return lambda weights: _matched(ours, theirs, weights, by)


class _Sorted:
    """The words of all scenes, the surest first."""

    def __init__(self, words: Sequence[Sequence[Word]], there: Sequence[Collection[int]]) -> None:
        flat = [
            (-word.probability, scene, word.noun in truth)
            for scene, (some, truth) in enumerate(zip(words, there, strict=True))
            for word in some
        ]
        flat.sort()
        unsure = np.array([each for each, *_ in flat])
        if np.isnan(unsure).any():
            raise ValueError("words must have probabilities, got nan")
        self.scene = np.array([scene for _, scene, _ in flat], dtype=np.intp)
        self.found = np.array([found for *_, found in flat], dtype=np.float64)
        # Where words of one probability end: they go together, for no order among them is meant.
        self.ends = np.flatnonzero(np.diff(unsure, append=np.inf)) + 1


def _matched(ours: _Sorted, theirs: _Sorted, weights: Array, by: str) -> Array:
    """Difference of CHAIR_i at the level that both reach, in each resample [R]."""
    sums = []
    for words in (ours, theirs):
        drawn = weights[:, words.scene]  # [R, W]
        said, found = (
            np.pad(np.cumsum(each, axis=1), ((0, 0), (1, 0)))[:, np.r_[0, words.ends]]
            for each in (drawn, drawn * words.found)
        )
        sums.append((found if by == "found" else said, said, found))
    level = np.minimum(sums[0][0][:, -1], sums[1][0][:, -1])  # [R]
    ours_left, theirs_left = (_chair_at(level, *each) for each in sums)
    return np.asarray(ours_left - theirs_left)


def _chair_at(level: Array, reached: Array, said: Array, found: Array) -> Array:
    """CHAIR_i [R] of the words that are left when ``reached`` [R, ends] has come down to level."""
    rows = np.arange(len(level))
    # The fewest words that reach it: hallucinated ones behind the last that counts go as well.
    at = np.array([np.searchsorted(r, goal) for r, goal in zip(reached, level, strict=True)])
    before = np.maximum(at - 1, 0)
    missing, step = level - reached[rows, before], reached[rows, at] - reached[rows, before]
    share = np.divide(missing, step, out=np.zeros_like(missing), where=step > 0)
    named, right = (
        each[rows, before] + share * (each[rows, at] - each[rows, before]) for each in (said, found)
    )
    return _ratio(named - right, named)


def _ratio(part: Array, whole: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, np.asarray(part, np.float64) / whole, np.nan)


def _with_interval(value: Array, drawn: Array, scenes: int) -> Estimate:
    drawn = drawn[~np.isnan(drawn)]
    known = drawn.size and scenes > 1  # a single scene is the same in every resample
    low, high = np.quantile(drawn, (0.025, 0.975)) if known else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high))
