"""Sentences: what is written about nouns is found in it again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reattend.evaluation.datasets.emoji_world.sentences import (
    ask,
    describe,
    filler,
    mentioned,
    name,
)
from reattend.evaluation.datasets.emoji_world.world import NOUNS

nouns = st.lists(st.integers(0, len(NOUNS) - 1), min_size=1, max_size=14)


@given(nouns)
def test_what_is_described_is_mentioned(chosen):
    assert mentioned(describe(chosen)) == chosen


@pytest.mark.parametrize("noun", range(len(NOUNS)), ids=NOUNS)
def test_what_is_asked_for_is_mentioned(noun):
    assert mentioned(ask(noun)) == [noun]
    assert ask(noun).endswith(f" there {name(noun)} in the picture?")


def index(word):
    return NOUNS.index(word)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cow"], "The picture shows a cow."),
        (["egg", "bus"], "The picture shows an egg and a bus."),
        (["umbrella", "salt", "sun"], "The picture shows an umbrella, some salt and a sun."),
    ],
)
def test_sentences_are_english(words, sentence):
    assert describe(map(index, words)) == sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("No thing of the kind.", []),
        ("A COW, two cows; cow", ["cow", "cow", "cow"]),
        (
            "knives, strawberries, butterflies and buses",
            ["knife", "strawberry", "butterfly", "bus"],
        ),
        ("A cowboy reads in the sunlight beside his car-park.", ["car"]),
        ("A pear,a peach", ["pear"]),
    ],
)
def test_mentioned_reads_any_text(text, words):
    assert [NOUNS[noun] for noun in mentioned(text)] == words


def test_filler_names_no_noun():
    for seed in range(50):
        text = filler(np.random.default_rng(seed), 400)
        assert mentioned(text) == []


@pytest.mark.parametrize("words", [1, 40, 160])
def test_filler_is_as_long_as_asked(rng, words):
    count = len(filler(rng, words).split())
    assert words <= count < words + 20


def test_filler_follows_from_its_generator():
    one, other, same = (filler(np.random.default_rng(seed), 30) for seed in (0, 1, 0))
    assert one == same
    assert one != other


def test_errors_name_the_argument(rng):
    with pytest.raises(ValueError, match="noun must be in 0 to 83, got 84"):
        ask(84)
    with pytest.raises(ValueError, match="noun must be in 0 to 83, got -1"):
        describe([-1])
    with pytest.raises(ValueError, match="nouns must hold at least one noun, got none"):
        describe([])
    with pytest.raises(ValueError, match="words must be at least 1, got 0"):
        filler(rng, 0)
