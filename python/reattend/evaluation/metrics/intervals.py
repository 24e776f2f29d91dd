"""Intervals and tests by resampling (`scipy.stats`), over pictures: whole ones are drawn again.

All measures of a run are taken on the same resamples, so differences are paired.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from reattend.evaluation.metrics.counts import RESAMPLES, Estimate
from reattend.optional import demand
from reattend.policy import Array

Measures = Callable[[Array], Array]  # weights of pictures [R, n] to measures [k, R]
PERMUTATIONS = 9999
_BATCH = 250  # resamples that are held at once


def intervals(pictures: int, measures: Measures, *, seed: int = 0) -> list[Estimate]:
    """Measure, with 95% intervals by the percentiles of `scipy.stats.bootstrap`.

    Parameters
    ----------
    pictures : int
        How many there are. Of a single one there are no intervals.
    measures : callable
        Takes how often each picture counts, float64 [R, n], and gives measures, [k, R]; NaN where
        there is none.
    seed : int, optional
        Of the resamples.

    Returns
    -------
    list of k Estimate

    Examples
    --------
    >>> right = np.array([1.0, 0.0, 1.0, 1.0])
    >>> intervals(4, lambda weights: (weights @ right / 4)[None])
    [Estimate(value=0.75, low=0.25, high=1.0)]
    """
    values = measures(np.ones((1, pictures)))[:, 0]
    if pictures < 2:
        return [Estimate(float(value), np.nan, np.nan) for value in values]

    def statistic(drawn: Array, axis: int) -> Array:
        return measures(_weights(drawn.reshape(-1, pictures), pictures)).reshape(
            len(values), *drawn.shape[:-1]
        )

    stats = demand("scipy.stats")
    with warnings.catch_warnings():  # a resample may have no measure: it is left out below
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        drawn = stats.bootstrap(
            (np.arange(pictures),), statistic, vectorized=True, axis=-1, batch=_BATCH,
            n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed),
        ).bootstrap_distribution  # fmt: skip
    found = []
    for value, own in zip(values, drawn, strict=True):
        own = own[~np.isnan(own)]
        low, high = np.quantile(own, (0.025, 0.975)) if own.size else (np.nan, np.nan)
        found.append(Estimate(float(value), float(low), float(high)))
    return found


def p_value(
    first: Array,
    second: Array,
    measure: Callable[[Array], Array],
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> float:
    """Test whether two settings differ, picture by picture (`scipy.stats.permutation_test`).

    If they do not, it makes no difference which of both gave which picture's counts.

    Parameters
    ----------
    first, second : array [c, n]
        Counts of both, by picture.
    measure : callable
        Takes sums [c, R] and gives a measure [R].
    seed : int, optional
        Of the permutations.
    permutations : int, optional
        How many; all of them if there are fewer.

    Returns
    -------
    float
        Two-sided; 1 if nothing differs, NaN if there is no measure. A permutation that has none
        counts as one that is as far apart: p may be too large then, never too small.

    Examples
    --------
    >>> right = np.array([[1.0] * 10, [1.0] * 10])
    >>> round(p_value(right, right * [[0], [1]], lambda sums: sums[0] / sums[1]), 3)
    0.002
    """
    if first.shape[1] < 2 or np.array_equal(first, second):
        return 1.0
    pictures = first.shape[1]
    both = np.concatenate([first, second], axis=1)

    def difference(one: Array, other: Array, axis: int) -> Array:
        """Of places in ``both``."""
        return measure(both[:, other].sum(-1)) - measure(both[:, one].sum(-1))

    places = np.arange(pictures)
    observed = difference(places, places + pictures, -1)
    if np.isnan(observed):
        return np.nan

    def known(one: Array, other: Array, axis: int) -> Array:
        found = difference(one, other, axis)
        return np.where(np.isnan(found), observed, found)

    found = demand("scipy.stats").permutation_test(
        (places, places + pictures), known, permutation_type="samples", vectorized=True,
        n_resamples=permutations, batch=_BATCH, axis=-1, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def _weights(drawn: Array, pictures: int) -> Array:
    """Count how often each picture was drawn, [R, n], from their places [R, n]."""
    rows = np.arange(len(drawn))[:, None] * pictures
    counts = np.bincount((drawn + rows).ravel(), minlength=drawn.size)
    return counts.reshape(drawn.shape).astype(np.float64)
