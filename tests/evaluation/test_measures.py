"""Measures: against cases worked out by hand, and the bootstrap against what it must be."""

import functools

import numpy as np
import pytest
from reattend.evaluation.metrics.counts import (
    DESCRIPTION_MEASURES,
    QUESTION_MEASURES,
    Question,
    Word,
    columns,
    count_questions,
    difference,
    estimate,
    matched_difference,
    resample,
)
from reattend.evaluation.metrics.counts import (
    count_description as count_of,
)

count_description = functools.partial(count_of, vocabulary_size=84)


def measure(table, counts, name):
    part, whole = table[name]
    return estimate(counts[part], counts[whole], resample(len(counts[part]), resamples=10)).value


def test_descriptions_by_hand():
    # said 1 2 3 9 9 of 1 2 3 4 (9 hallucinated, it was removed); said 5 of 5 6; said nothing of 7.
    counts = columns(
        [
            count_description([1, 2, 3, 9, 9], [1, 2, 3, 4], removed=[9, 10], tokens=12),
            count_description([5], [5, 6], tokens=6),
            count_description([], [7], removed=[8], tokens=3),
        ]
    )
    by_hand = {
        "chair_i": 1 / 5,
        "chair_s": 1 / 3,
        "recall": 4 / 7,
        "f1": 2 * (4 / 5) * (4 / 7) / (4 / 5 + 4 / 7),
        "nouns": 5 / 3,
        "tokens": 7,
        "usual": 1,
        "usual_by_chance": 2 / 80,
        "usual_over_chance": 40,
    }
    assert by_hand.keys() == DESCRIPTION_MEASURES.keys()
    for name, value in by_hand.items():
        assert measure(DESCRIPTION_MEASURES, counts, name) == pytest.approx(value), name


def test_questions_by_hand():
    # there: yes yes no; absent: yes no no no no
    there = [Question(True, True), Question(True, True), Question(True, False)]
    absent = [Question(False, True)] + [Question(False, False)] * 4
    counts = columns([count_questions(there[:2] + absent), count_questions(there[2:])])
    by_hand = {
        "accuracy": 6 / 8,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": 2 / 3,
        "yes": 3 / 8,
    }
    assert by_hand.keys() == QUESTION_MEASURES.keys()
    for name, value in by_hand.items():
        assert measure(QUESTION_MEASURES, counts, name) == pytest.approx(value), name


def test_nothing_said_has_no_measure():
    counts = columns([count_description([], [7])])
    nothing = estimate(counts["made_up"], counts["said"], resample(1))
    assert np.isnan(nothing).all()
    assert measure(DESCRIPTION_MEASURES, counts, "recall") == 0


def test_intervals_are_the_bootstraps(rng):
    part, whole = rng.random(40), 1 + rng.random(40)
    again = np.random.default_rng(3)
    drawn = [again.integers(0, 40, 40) for _ in range(4000)]
    low, high = np.quantile([part[d].sum() / whole[d].sum() for d in drawn], (0.025, 0.975))
    found = estimate(part, whole, resample(40, seed=1, resamples=4000))
    assert found.value == part.sum() / whole.sum()
    assert found.low == pytest.approx(low, abs=0.005)
    assert found.high == pytest.approx(high, abs=0.005)
    assert found == estimate(part, whole, resample(40, seed=1, resamples=4000))
    assert found != estimate(part, whole, resample(40, seed=2, resamples=4000))


def test_pairs_cancel_what_scenes_have_in_common(rng):
    whole = np.ones(50)
    hard = rng.random(50)
    better = difference(hard - 0.1, whole, hard, whole, resample(50))
    np.testing.assert_allclose(better, -0.1, atol=1e-12)
    alone = estimate(hard, whole, resample(50))
    assert alone.high - alone.low > 0.1


def test_saying_less_is_no_merit_where_recall_or_length_is_matched(rng):
    """What plain becomes by dropping its least sure words differs in nothing where matched."""
    there = [set(range(4))] * 30
    plain = [
        [Word(noun, p) for noun, p in zip(rng.permutation(8)[:6], rng.random(6), strict=True)]
        for _ in there
    ]
    shy = [[word for word in words if word.probability > 0.5] for words in plain]
    weights = resample(30, resamples=50)
    for by in ("found", "said"):
        np.testing.assert_allclose(
            matched_difference(shy, plain, there, weights, by=by), 0, atol=1e-12
        )
        np.testing.assert_allclose(
            matched_difference(plain, shy, there, weights, by=by), 0, atol=1e-12
        )


def test_matched_differences_by_hand():
    there = [{0, 1, 2}]
    plain = [[Word(0, 0.9), Word(7, 0.8), Word(1, 0.7), Word(8, 0.6), Word(2, 0.5)]]
    ours = [[Word(1, 0.9), Word(0, 0.4), Word(9, 0.3)]]
    one = np.ones((1, 1))
    # Recall 2/3: ours keeps 1 0, plain 0 7 1.
    found = matched_difference(ours, plain, there, one, by="found")
    assert found.value == pytest.approx(0 - 1 / 3)
    # Three words each: plain's 0 7 1, 1 of 3 hallucinated.
    assert matched_difference(ours, plain, there, one, by="said").value == pytest.approx(0)
    with pytest.raises(ValueError, match="by must be 'found' or 'said', got 'length'"):
        matched_difference(ours, plain, there, one, by="length")


def test_a_setting_without_words_has_no_matched_difference():
    found = matched_difference([[]], [[Word(0, 0.9)]], [{0}], np.ones((3, 1)), by="said")
    assert np.isnan(found).all()


def test_words_of_one_probability_are_matched_in_whatever_order_pictures_come(rng):
    def words(count):
        sure = rng.choice([0.2, 0.5, 1.0], count)
        return [Word(noun, float(p)) for noun, p in zip(rng.permutation(8), sure, strict=False)]

    there = [set(rng.permutation(8)[:3].tolist()) for _ in range(12)]
    ours, plain = ([words(each) for each in rng.integers(1, 7, 12)] for _ in range(2))
    one = np.ones((1, 12))
    for by in ("found", "said"):
        found = [
            matched_difference(
                *([some[place] for place in order] for some in (ours, plain, there)), one, by=by
            ).value
            for order in (rng.permutation(12) for _ in range(20))
        ]
        np.testing.assert_allclose(found, found[0], atol=1e-12)
    # One right noun of three is plain's to keep, of two pictures alike: its made-up one in part.
    alike = [[Word(0, 0.5)], [Word(1, 0.5), Word(2, 0.5)]]
    less = [[Word(0, 0.5)], []]
    wanted = 0 - 1 / 3
    for order in (slice(None), slice(None, None, -1)):
        found = matched_difference(
            less[order], alike[order], [{0}, {1}][order], np.ones((1, 2)), by="found"
        )
        assert found.value == pytest.approx(wanted)


def test_words_without_a_probability_are_refused():
    with pytest.raises(ValueError, match="words must have probabilities, got nan"):
        matched_difference([[Word(0, np.nan)]], [[]], [{0}], np.ones((1, 1)), by="said")


def test_a_single_scene_has_no_interval():
    """It is the same in every resample, whatever another one would have shown."""
    one = np.ones(1)
    found = difference(0 * one, one, one, one, resample(1))
    assert found.value == -1
    assert np.isnan(found[1:]).all()
    assert found.written(".1f") == "-1.0"
    words = [[Word(0, 0.5)]]
    assert np.isnan(matched_difference(words, words, [{0}], resample(1), by="said")[1:]).all()
