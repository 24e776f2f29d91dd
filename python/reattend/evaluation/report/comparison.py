"""Two runs compared, pair by pair, and beside what trivial baselines reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reattend.evaluation.metrics.intervals import PERMUTATIONS, p_value
from reattend.evaluation.metrics.measures import Measures
from reattend.evaluation.report.scores import UNSURE, measure
from reattend.policy import Array

NO_DIFFERENCE = "no difference shown"
BASELINES = ("brighten", UNSURE)  # one chooses nothing, the other only says less


def compare(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    setting: str = "plain",
    second_setting: str | None = None,
    *,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> dict[str, Any]:
    """Compare two runs on the same cases, pair by pair.

    Parameters
    ----------
    first, second : mapping
        Of `score`, or read from the JSON of it.
    setting : str, optional
        Which setting of the first run.
    second_setting : str, optional
        Which of the second; the same by default.
    seed : int, optional
        Of the bootstrap and the permutations.
    permutations : int, optional
        Of the test; 0 for none.

    Returns
    -------
    dict
        ``compared``, which settings; ``measures``, by name ``difference``, second - first as
        [value, low, high], ``p`` by a paired permutation test, and ``verdict``: "higher", "lower"
        or "no difference shown", by the interval; ``matched``, the difference of hallucinated
        words at matched recall and length, where their probabilities are known; ``baselines``, how
        far the second is from each trivial baseline that one of the runs holds, as ``measures`` and
        ``matched``; and ``missing``, baselines that neither holds.

    Raises
    ------
    ValueError
        If they are no scores, the runs are of different data, rules or measures, or one of them
        lacks the setting.
    """
    try:
        data = [(run["run"]["data"], run["rules"], run["right"]) for run in (first, second)]
        measures = Measures.from_json(first["measures"])
        held = [run["counts"].keys() for run in (first, second)]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"runs must be scores of an evaluation, by this version, got none: {error!r}"
        ) from error
    if data[0] != data[1]:
        raise ValueError(f"runs must be of the same data and rules, got {data[0]} and {data[1]}")
    if first["measures"] != second["measures"]:
        raise ValueError(
            f"runs must have the same measures, got {first['measures']} and {second['measures']}"
        )
    names = setting, setting if second_setting is None else second_setting
    for name, there in zip(names, held, strict=True):
        if name not in there:
            raise ValueError(f"setting must be one of {', '.join(there)}, got {name!r}")
    ours = second, names[1]
    baselines = {
        name: _compared(measures, (run, name), ours, seed, permutations)
        for name in BASELINES
        for run in (first, second)
        if name in run["counts"] and name != names[1]
    }
    return {
        "compared": list(names),
        **_compared(measures, (first, names[0]), ours, seed, permutations),
        "baselines": baselines,
        "missing": [name for name in BASELINES if not any(name in there for there in held)],
        "numbers": first["numbers"],
    }


def verdict(values: Sequence[float | None]) -> str:
    """Say what a difference shows.

    Parameters
    ----------
    values : (value, low, high)
        With its interval.

    Examples
    --------
    >>> verdict([0.1, 0.05, 0.2]), verdict([0.1, -0.1, 0.2]), verdict([None, None, None])
    ('higher', 'no difference shown', 'no difference shown')
    """
    _, low, high = values
    if low is None or high is None or low <= 0 <= high:
        return NO_DIFFERENCE
    return "higher" if low > 0 else "lower"


def _compared(
    measures: Measures,
    base: tuple[Mapping[str, Any], str],
    ours: tuple[Mapping[str, Any], str],
    seed: int,
    permutations: int,
) -> dict[str, Any]:
    other, own = (
        {name: np.array(values) for name, values in run["counts"][setting].items()}
        for run, setting in (base, ours)
    )
    words = [run["words"].get(setting) for run, setting in (ours, base)]
    pair = None if None in words else (words[0], words[1])
    found = measure(measures, own, other, pair, seed=seed)
    return {
        "measures": {
            name: {
                "difference": values,
                "p": _p_value(measures, name, other, own, seed, permutations),
                "verdict": verdict(values),
            }
            for name, values in found["difference"].items()
        },
        "matched": {
            what: {"difference": values, "verdict": verdict(values)}
            for what, values in found.get("matched", {}).items()
        },
    }


def _p_value(
    measures: Measures, name: str, other: Mapping[str, Array], own: Mapping[str, Array], seed: int,
    permutations: int,
) -> float | None:  # fmt: skip
    if not permutations:
        return None
    needed = dict.fromkeys(measures.counts(name))
    first, second = (np.stack([each[count] for count in needed]) for each in (other, own))

    def of_sums(sums: Array) -> Array:
        return measures.of(name, dict(zip(needed, sums, strict=True)))

    found = p_value(first, second, of_sums, seed, permutations)
    return None if np.isnan(found) else round(found, 4)
