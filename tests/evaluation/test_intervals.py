"""Intervals and tests by resampling: against draws by hand, and against exact permutations."""

import itertools

import numpy as np
import pytest
from reattend.evaluation.metrics.counts import (
    Word,
    difference,
    estimate,
    matched_difference,
    resample,
)
from reattend.evaluation.metrics.intervals import intervals, p_value
from reattend.evaluation.metrics.measures import Combined, Measures

pytest.importorskip("scipy")


def ratio(part, whole):
    return lambda weights: ((weights @ part) / (weights @ whole))[None]


def test_intervals_are_the_percentiles_of_pictures_drawn_again(rng):
    part, whole = rng.random(40), 1 + rng.random(40)
    again = np.random.default_rng(3)
    drawn = [again.integers(0, 40, 40) for _ in range(4000)]
    low, high = np.quantile([part[d].sum() / whole[d].sum() for d in drawn], (0.025, 0.975))
    (found,) = intervals(40, ratio(part, whole), seed=1)
    assert found.value == pytest.approx(part.sum() / whole.sum(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)
    assert intervals(40, ratio(part, whole), seed=1) == [found]
    assert intervals(40, ratio(part, whole), seed=2) != [found]


def test_all_measures_are_taken_on_the_same_pictures(rng):
    hard, whole = rng.random(50), np.ones(50)

    def both(weights):
        own, base = (weights @ each / (weights @ whole) for each in (hard - 0.1, hard))
        return np.stack([own - base, own, base])

    better, *alone = intervals(50, both)
    assert tuple(better) == pytest.approx((-0.1,) * 3)
    assert all(each.high - each.low > 0.1 for each in alone)
    own = difference(hard - 0.1, whole, hard, whole, resample(50))
    assert tuple(better) == pytest.approx(tuple(own))
    # Other resamples of as many: ends of intervals differ by their noise.
    for found, values in zip(alone, (hard - 0.1, hard), strict=True):
        assert tuple(found) == pytest.approx(tuple(estimate(values, whole, resample(50))), abs=0.02)


def test_what_no_resample_can_measure_has_no_interval():
    nothing, whole = intervals(3, lambda w: np.stack([np.full(len(w), np.nan), w.sum(1)]))
    assert np.isnan(nothing).all()
    assert whole == (3, 3, 3)
    (alone,) = intervals(1, lambda w: w.sum(1)[None])
    assert alone.value == 1
    assert np.isnan([alone.low, alone.high]).all()
    # Of pictures of which most say nothing, resamples that say nothing are left out.
    said = np.array([0.0, 0.0, 0.0, 2.0])
    with np.errstate(invalid="ignore"):
        (found,) = intervals(4, ratio(said / 2, said))
    assert found == (0.5, 0.5, 0.5)


def test_p_values_are_those_of_all_permutations(rng):
    pictures = 8
    first, second = (np.stack([rng.random(pictures), np.ones(pictures)]) for _ in range(2))
    second[0] += 0.25

    def measure(sums):
        return sums[0] / sums[1]

    observed = measure(second.sum(1)) - measure(first.sum(1))
    as_far = 0
    for swaps in itertools.product((False, True), repeat=pictures):
        one, other = (np.where(swaps, a, b) for a, b in ((second, first), (first, second)))
        as_far += abs(measure(other.sum(1)) - measure(one.sum(1))) >= abs(observed) - 1e-12
    assert p_value(first, second, measure) == pytest.approx(as_far / 2**pictures)
    assert p_value(first, first.copy(), measure) == 1
    empty = np.zeros((2, pictures))
    with np.errstate(invalid="ignore"):
        assert np.isnan(p_value(empty, first, measure))


def test_permutations_without_a_measure_make_no_p_value_small():
    """Precision where one setting says yes to nothing: such a permutation is no evidence."""
    first = np.array([[1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]])
    second = np.array([[0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]])

    def precision(sums):
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(sums[1] > 0, sums[0] / sums[1], np.nan)

    observed, as_far = -1.0, 0
    for swaps in itertools.product((False, True), repeat=5):
        one, other = (np.where(swaps, a, b) for a, b in ((second, first), (first, second)))
        found = precision(other.sum(1)) - precision(one.sum(1))
        as_far += bool(np.isnan(found)) or abs(found) >= abs(observed)
    assert as_far == 32
    assert p_value(first, second, precision) == 1


def test_hallucinated_words_are_matched_as_matched_difference_has_it(rng):
    from reattend.evaluation.report.scores import measure

    words, plain = (
        [[[rng.random(), int(rng.random() < 0.6)] for _ in range(6)] for _ in range(30)]
        for _ in range(2)
    )
    counts = {"said": np.full(30, 6.0), "one": np.ones(30)}
    found = measure(Measures({"said": ("said", "one")}, {}), counts, counts, (words, plain))
    named, others = ([[Word(w[1], w[0]) for w in some] for some in all_] for all_ in (words, plain))
    for what, by in (("recall", "found"), ("length", "said")):
        wanted = matched_difference(named, others, [{1}] * 30, resample(30), by=by)
        assert found["matched"][what][0] == pytest.approx(wanted.value, abs=1e-6)
        assert found["matched"][what][1:] == pytest.approx([wanted.low, wanted.high], abs=0.03)


def test_measures_that_add_others_up():
    measures = Measures(
        {"chair": ("made_up", "kept"), "f1": ("right", "asked")},
        {"amber": Combined({"chair": -0.5, "f1": 0.5}, 0.5)},
    )
    sums = {"made_up": 1.0, "kept": 4.0, "right": 3.0, "asked": 6.0}
    assert float(measures.of("amber", sums)) == (1 - 0.25 + 0.5) / 2
    assert Measures.from_json(measures.to_json()).to_json() == measures.to_json()
    assert measures.counts("amber") == ["made_up", "kept", "right", "asked"]
    assert np.isnan(measures.of("amber", {**sums, "kept": 0.0}))
