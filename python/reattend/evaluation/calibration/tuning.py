"""Tuning strengths on the frontier of hallucinated words against recall: to say less never wins."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from reattend import __version__
from reattend.evaluation.calibration.significance import FEWEST
from reattend.evaluation.metrics.counts import (
    Estimate,
    Word,
    difference,
    estimate,
    matched_difference,
    resample,
)
from reattend.evaluation.runner.journal import Journal, written_out
from reattend.evaluation.runner.progress import Progress, silent
from reattend.policy import Array

SEARCHES = ("grid", "halving")
_RESAMPLES = 1000
Parameters = Mapping[str, Any]


class Described(NamedTuple):
    """What was said of one sample, and what is there."""

    words: Sequence[tuple[int, float]]  # thing, and its probability: each thing once
    there: Collection[int]


class Describe(Protocol):
    """Describes samples with a method at some strength.

    It may have ``identity()``, which says what decides the descriptions, as JSON can hold it.
    """

    def __call__(self, parameters: Parameters | None, samples: range) -> Sequence[Described]:
        """Describe these samples; None: without the method."""


class Trial(NamedTuple):
    """How one strength did."""

    parameters: dict[str, Any]
    samples: int  # on how many
    hallucinated: Estimate  # share of the things said that are not there
    recall: Estimate  # share of the things there that are said
    excess: Estimate  # hallucinated, above the plain model at the same recall: below 0 is better
    on_frontier: bool  # whether no other strength hallucinates less and finds as much
    out: bool = False  # whether it finds less, and nothing says which words plain would leave out


class Tuning(NamedTuple):
    """What tuning found."""

    best: dict[str, Any] | None  # None: no strength is better than the plain model
    trials: tuple[Trial, ...]  # in the order of the grid
    plain: Trial
    verdict: str  # of the best, if there are `FEWEST` samples: better, or no difference shown


def tune(
    describe: Describe,
    grid: Mapping[str, Iterable[Any]] | Sequence[Parameters],
    samples: int,
    *,
    search: str = "grid",
    keep: float = 1 / 3,
    journal: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    seed: int = 0,
) -> Tuning:
    """Choose the strength at which a method hallucinates least at the recall that it reaches.

    A method that says less hallucinates less, and so does the plain model that leaves out what it
    is least sure of. So strengths are compared with the plain model at their own recall (`excess`):
    both drop the words they are least sure of until they find equally much. What wins is the
    least excess; where that is not below 0, nothing wins. A model whose words have no probabilities
    (all 1) is compared at its recall as it is: one that finds less than the plain model, beyond
    what chance explains, is out.

    Parameters
    ----------
    describe : callable
        Of parameters and a range of samples; gives what was said of each sample. See `Describe`.
    grid : mapping, or sequence of mapping
        Values of each parameter, to be combined; or the combinations themselves.
    samples : int
        How many samples there are.
    search : {"grid", "halving"}, optional
        ``"halving"``: all on a few samples, the best share of them on more, until one round has
        all samples (successive halving).
    keep : float, optional
        Share of strengths that goes on to the next round.
    journal : path, optional
        Where descriptions are kept.
    identity : mapping, optional
        What decides the descriptions, where ``describe.identity()`` does not say all of it.
    progress : callable, optional
        Is told how many strengths of how many are done, over all rounds.
    seed : int, optional
        Of intervals.

    Returns
    -------
    Tuning

    Raises
    ------
    JournalError
        If the journal is of another run.
    ValueError
        If there is nothing to try, no sample, or no such search.

    Examples
    --------
    A method that leaves out all it is unsure of, and one that leaves out what is hallucinated:

    >>> def describe(parameters, samples):
    ...     strength = 0 if parameters is None else parameters["alpha"]
    ...     words = {0: [(0, 0.9), (1, 0.8), (7, 0.6), (8, 0.3)], 1: [(0, 0.9)],
    ...              2: [(0, 0.9), (1, 0.8), (8, 0.3)]}[strength]
    ...     return [Described(words, {0, 1}) for _ in samples]
    >>> found = tune(describe, {"alpha": [1, 2]}, 8)
    >>> found.best, [trial.excess.value for trial in found.trials]
    (None, [0.0, 0.0])
    """
    tried = parameter_grid(grid)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if search not in SEARCHES:
        raise ValueError(f"search must be one of {', '.join(SEARCHES)}, got {search!r}")
    if not 0 < keep < 1:
        raise ValueError(f"keep must be above 0 and below 1, got {keep!r}")
    own = describe.identity() if hasattr(describe, "identity") else None
    if journal is not None and own is None and identity is None:
        raise ValueError("identity must say what decides the descriptions where a journal is kept")
    run = {"reattend": __version__, "tuned": own, "samples": samples,
           **({} if identity is None else {"identity": dict(identity)})}  # fmt: skip
    book = None if journal is None else Journal(Path(journal), run)
    descriptions = _Descriptions(describe, book)
    rounds = _rounds(len(tried), samples, keep) if search == "halving" else [(len(tried), samples)]
    whole, done = sum(count for count, _ in rounds), 0
    trials: dict[int, Trial] = {}
    left = [*range(len(tried))]
    for count, some in rounds:
        left = sorted(left, key=lambda place: _rank(trials[place]))[:count] if trials else left
        plain = descriptions.of(None, some)
        level = _trial({}, plain, plain, seed)
        for place in sorted(left):
            trials[place] = _trial(tried[place], descriptions.of(tried[place], some), plain, seed)
            done += 1
            progress(done, whole, lambda: _so_far(trials))
    finished = [place for place in trials if trials[place].samples == samples]
    best = min(finished, key=lambda place: _rank(trials[place]))
    wins = _rank(trials[best]) < 0
    shown = wins and samples >= FEWEST and trials[best].excess.high < 0
    return Tuning(
        tried[best] if wins else None,
        tuple(_with_frontier([trials[place] for place in sorted(trials)])),
        level._replace(on_frontier=True),
        "better" if shown else "no difference shown",
    )


def parameter_grid(
    grid: Mapping[str, Iterable[Any]] | Sequence[Parameters],
) -> list[dict[str, Any]]:
    """Give the combinations of a grid.

    Parameters
    ----------
    grid : mapping, or sequence of mapping
        Values of each parameter; or the combinations themselves.

    Raises
    ------
    ValueError
        If there are none.

    Examples
    --------
    >>> parameter_grid({"p": [0.6, 0.3], "rho": [0.5]})
    [{'p': 0.6, 'rho': 0.5}, {'p': 0.3, 'rho': 0.5}]
    """
    if isinstance(grid, Mapping):
        names = [*grid]
        found = [dict(zip(names, each, strict=True)) for each in product(*grid.values())]
    else:
        found = [dict(each) for each in grid]
    if not found or found == [{}]:
        raise ValueError("grid must hold at least one strength to try, got none")
    return found


class _Descriptions:
    """Descriptions by strength; those of a longer round go on from those of a shorter one."""

    def __init__(self, describe: Describe, journal: Journal | None) -> None:
        self._describe, self._journal = describe, journal
        self._held: dict[str, list[Described]] = {}

    def of(self, parameters: dict[str, Any] | None, count: int) -> list[Described]:
        held = self._held.setdefault(written_out(parameters), [])
        if len(held) < count:
            held += self._new(parameters, range(len(held), count))
        return held[:count]

    def _new(self, parameters: dict[str, Any] | None, some: range) -> list[Described]:
        key = ["described", parameters, some.start, some.stop]
        if self._journal is not None and key in self._journal:
            kept = self._journal.get(key)
            return [Described([tuple(w) for w in words], there) for words, there in kept]
        found = [
            Described([(int(noun), float(sure)) for noun, sure in words], sorted(map(int, there)))
            for words, there in self._describe(parameters, some)
        ]
        if len(found) != len(some):
            raise ValueError(f"describe must give {len(some)} descriptions, got {len(found)}")
        if self._journal is not None:
            self._journal.add(key, [[[*map(list, each.words)], each.there] for each in found])
        return found


def _trial(
    parameters: dict[str, Any], own: Sequence[Described], plain: Sequence[Described], seed: int
) -> Trial:
    weights = resample(len(own), seed, _RESAMPLES)
    sums, base = _sums(own), _sums(plain)
    recall = estimate(sums["found"], sums["there"], weights)
    there = [set(each.there) for each in plain]
    out = False
    if _sure(own) and _sure(plain):  # no probabilities: nothing says which words would go first
        excess = difference(*_made_up(sums), *_made_up(base), weights)
        less = difference(sums["found"], sums["there"], base["found"], base["there"], weights)
        out = less.high < 0
    else:
        words, others = ([[Word(*w) for w in each.words] for each in some] for some in (own, plain))
        excess = matched_difference(words, others, there, weights, by="found")
    hallucinated = estimate(*_made_up(sums), weights)
    return Trial(parameters, len(own), hallucinated, recall, excess, on_frontier=False, out=out)


def _sums(some: Sequence[Described]) -> dict[str, Array]:
    pairs = [({noun for noun, _ in each.words}, set(each.there)) for each in some]
    return {
        "made_up": np.array([float(len(said - there)) for said, there in pairs]),
        "said": np.array([float(len(said)) for said, _ in pairs]),
        "found": np.array([float(len(said & there)) for said, there in pairs]),
        "there": np.array([float(len(there)) for _, there in pairs]),
    }


def _made_up(sums: Mapping[str, Array]) -> tuple[Array, Array]:
    return sums["made_up"], sums["said"]


def _sure(some: Sequence[Described]) -> bool:
    return all(sure == 1 for each in some for _, sure in each.words)


def _rank(trial: Trial) -> float:
    """What is least wins; where nothing was said there is nothing to win."""
    value = trial.excess.value
    return float("inf") if trial.out or np.isnan(value) else value


def _rounds(count: int, samples: int, keep: float) -> list[tuple[int, int]]:
    """How many strengths are tried on how many samples, in each round."""
    counts = [count]
    while counts[-1] > 1:
        counts.append(max(1, int(counts[-1] * keep)))
    last = len(counts) - 1
    return [
        (each, max(1, round(samples * keep ** (last - place)))) for place, each in enumerate(counts)
    ]


def _with_frontier(trials: Sequence[Trial]) -> list[Trial]:
    def beaten(one: Trial) -> bool:
        return any(
            other.hallucinated.value <= one.hallucinated.value
            and other.recall.value >= one.recall.value
            and (other.hallucinated.value, other.recall.value)
            != (one.hallucinated.value, one.recall.value)
            for other in trials
            if other.samples == one.samples
        )

    return [each._replace(on_frontier=not beaten(each)) for each in trials]


def _so_far(trials: Mapping[int, Trial]) -> str:
    best = min(trials.values(), key=_rank)
    values = ", ".join(f"{name}={value}" for name, value in best.parameters.items())
    return f"best {values}: hallucinated {best.excess.written('+.4f')} at equal recall"
