"""Which of many gains are more than chance: none, Holm's or a bootstrap's care about their number.

A search that tries hundreds of heads finds some that gain by luck. Holm's procedure and the
bootstrap of the largest gain both hold the chance that any head is chosen by luck below a level.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reattend.evaluation.metrics.counts import Estimate
from reattend.optional import demand
from reattend.policy import Array

RULES = ("above", "holm", "bootstrap")
RESAMPLES = 9999
FEWEST = 6  # samples: of fewer, all on one side of 0 is chance too often, 2 / 2^5 of the time
_ROUNDING = 1e-9  # values that differ by no larger a share are the same, but for rounding


def choose(
    gains: Array, rule: str = "above", *, level: float = 0.05, seed: int = 0
) -> tuple[Array, Array]:
    """Choose those of many candidates that gain.

    Parameters
    ----------
    gains : array [C, n]
        What each candidate scores above the baseline, in each of n independent samples.
    rule : {"above", "holm", "bootstrap"}, optional
        ``"above"``: a mean above 0, as ACT's paper has it; ``"holm"``: a one-sided paired t test,
        by Holm's procedure (`scipy.stats.ttest_1samp`); ``"bootstrap"``: the largest of all
        candidates' t, in resamples drawn jointly (`scipy.stats.bootstrap`), so that candidates that
        go together do not count as many.
    level : float, optional
        Chance that any candidate is chosen that gains nothing.
    seed : int, optional
        Of the bootstrap.

    Returns
    -------
    chosen : bool array [C]
    p_values : array [C]
        Adjusted for the number of candidates, but for ``"above"``.

    Raises
    ------
    ValueError
        If there is no such rule, the level is no share, or a test has fewer than two samples.

    Examples
    --------
    >>> gains = np.array([[0.3, 0.4, 0.2, 0.3, 0.35], [0.3, -0.3, 0.2, -0.1, -0.05]])
    >>> choose(gains)[0].tolist(), choose(gains, "holm")[0].tolist()
    ([True, True], [True, False])
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level!r}")
    gains = np.asarray(gains, np.float64)
    if not len(gains):
        return np.zeros(0, bool), np.zeros(0)
    means = gains.mean(1)
    if rule == "above":
        return means > 0, _one_sided(gains) if gains.shape[1] > 1 else np.ones(len(gains))
    if gains.shape[1] < 2:
        raise ValueError(f"gains must have at least two samples for {rule!r}, got {gains.shape[1]}")
    p_values = holm(_one_sided(gains)) if rule == "holm" else _of_the_largest(gains, seed)
    return (p_values <= level) & (means > 0), p_values


def holm(p_values: Array) -> Array:
    """Adjust p values for their number by Holm's step-down procedure.

    Parameters
    ----------
    p_values : array [C]
        Of single tests.

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def mean_interval(values: Array, *, seed: int = 0) -> Estimate:
    """Give a mean with its 95% interval (`scipy.stats.bootstrap`, bias-corrected).

    Parameters
    ----------
    values : array [n]
        Of independent samples. Of fewer than `FEWEST` no interval is known: it is NaN.
    seed : int, optional
        Of the bootstrap.

    Examples
    --------
    >>> mean_interval(np.full(6, 0.5))
    Estimate(value=0.5, low=0.5, high=0.5)
    >>> mean_interval(np.array([0.5, 0.5]))
    Estimate(value=0.5, low=nan, high=nan)
    """
    values = np.asarray(values, np.float64)
    value = float(values.mean())
    if len(values) < FEWEST:
        return Estimate(value, np.nan, np.nan)
    if not _varied(values[None])[0]:
        return Estimate(value, value, value)
    found = demand("scipy.stats").bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, batch=_batch(len(values)), method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Estimate(value, float(found.low), float(found.high))


def _one_sided(gains: Array) -> Array:
    """P values of a mean of 0 or less; 1 where nothing was gained or lost anywhere."""
    varied = _varied(gains)
    found: Array = _of_signs(gains)
    if varied.any():
        test = demand("scipy.stats").ttest_1samp(gains[varied], 0, axis=1, alternative="greater")
        found[varied] = test.pvalue
    return found


def _of_the_largest(gains: Array, seed: int) -> Array:
    """P values by the distribution of the largest t among candidates that gain nothing."""
    samples = gains.shape[1]
    means, errors = gains.mean(1), gains.std(1, ddof=1) / samples**0.5
    varied = _varied(gains)
    found: Array = np.minimum(1, len(gains) * _of_signs(gains))
    if not varied.any():
        return found
    centred = (gains[varied] - means[varied, None]) / errors[varied, None]

    def largest(places: Any, axis: int = -1) -> Any:
        rows = np.asarray(places, np.intp)  # [..., n]
        return centred[:, rows].mean(-1).max(0)

    drawn = demand("scipy.stats").bootstrap(
        (np.arange(samples),), largest, n_resamples=RESAMPLES, vectorized=True,
        batch=_batch(samples * len(centred)), method="percentile", rng=np.random.default_rng(seed),
    ).bootstrap_distribution  # fmt: skip
    reached = means[varied] / errors[varied]
    above = (drawn[None] >= reached[:, None]).sum(1)
    found[varied] = (1 + above) / (1 + len(drawn))
    return found


def _of_signs(gains: Array) -> Array:
    """P values where all samples gain alike: without a spread there are only signs to go by."""
    return np.where(gains.mean(1) > 0, 0.5 ** gains.shape[1], 1.0)


def _varied(values: Array) -> Array:
    """Whether there is anything to test: rows [C, n] whose values are not all the same."""
    return np.asarray(np.ptp(values, axis=1) > _ROUNDING * np.abs(values).max(axis=1))


def _batch(numbers: int) -> int:
    """How many resamples of so many numbers are held at once."""
    return int(np.clip((1 << 22) // max(numbers, 1), 1, RESAMPLES))
