"""Holds a part of a data set out: what chose heads or strengths cannot say what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reattend.evaluation.datasets.dataset import Case, Dataset


def hold_out(dataset: Dataset, share: float = 0.5, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Part a data set by pictures, at random: all cases of a picture are on one side.

    Parameters
    ----------
    dataset : Dataset
        What is parted.
    share : float, optional
        Of the pictures that are held out.
    seed : int, optional
        The same seed holds the same pictures out.

    Returns
    -------
    searched, held_out : Dataset
        Each with its cases in their order.

    Raises
    ------
    ValueError
        If the share is not between 0 and 1, or a side would hold no picture.

    Examples
    --------
    >>> from reattend.evaluation.metrics.pope import POPE_MEASURES, count_yes_no
    >>> cases = [Case(f"{n}", "Is there a cat?", None, f"{n // 2}.jpg") for n in range(8)]
    >>> data = Dataset("cats", cases, lambda case, answer: count_yes_no(True, True), POPE_MEASURES)
    >>> searched, held = hold_out(data, 0.25)
    >>> len(searched.cases), len(held.cases), {case.group for case in held.cases}
    (6, 2, {'2.jpg'})
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be above 0 and below 1, got {share!r}")
    pictures = [*dict.fromkeys(case.group for case in dataset.cases)]
    count = round(share * len(pictures))
    if not 0 < count < len(pictures):
        raise ValueError(
            f"dataset must have pictures for both sides, got {len(pictures)} at a share of {share}"
        )
    order = np.random.default_rng(seed).permutation(len(pictures))
    held = {pictures[place] for place in order[:count].tolist()}

    def part(cases: Sequence[Case]) -> Dataset:
        return replace(dataset, cases=tuple(cases))

    return (
        part([case for case in dataset.cases if case.group not in held]),
        part([case for case in dataset.cases if case.group in held]),
    )
