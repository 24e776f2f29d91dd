"""What an evaluation has found so far, for whoever waits for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reattend.evaluation.datasets.counting import summed
from reattend.evaluation.datasets.dataset import Answer, Case, Dataset
from reattend.evaluation.metrics.counts import Estimate
from reattend.evaluation.metrics.intervals import intervals
from reattend.evaluation.metrics.measures import Measures
from reattend.policy import Array

_HEADLINES = ("chair_i", "chair", "f1")  # what a line has room for, if the data set measures it


def running_estimate(data: Dataset, answered: Mapping[str, Sequence[tuple[Case, Answer]]]) -> str:
    """Say what one measure is so far in each setting, with its 95% interval.

    Parameters
    ----------
    data : Dataset
        What is asked.
    answered : mapping of str to sequence of (Case, Answer)
        Of each setting what it has answered.

    Returns
    -------
    str
        Of CHAIR_i or F1, or else the data set's first measure, such as
        ``"f1: plain 71.2 [60.0, 80.1], var 73.0 [61.9, 82.0]"``.
    """
    name = next((each for each in _HEADLINES if each in data.measures), next(iter(data.measures)))
    measures, unit = Measures(data.measures, {}), 1 if name in data.numbers else 100
    told = []
    for setting, some in answered.items():
        if not some:
            continue
        sums = summed(data, [answer for _, answer in some], [case for case, _ in some])
        pictures = len(next(iter(sums.values())))

        def measure(weights: Array, sums: Mapping[str, Array] = sums) -> Array:
            needed = {count: weights @ sums[count] for count in measures.counts(name)}
            return measures.of(name, needed)[None]

        (found,) = intervals(pictures, measure)
        if np.isnan(found.value):
            continue
        told.append(f"{setting} {Estimate(*(unit * each for each in found)).written('.1f')}")
    return f"{name}: {', '.join(told)}" if told else ""
