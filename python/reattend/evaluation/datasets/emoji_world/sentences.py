"""Sentences about scenes: nouns to words and back, questions, and text that is about neither."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from reattend.evaluation.datasets.emoji_world.world import NOUNS
from reattend.evaluation.metrics.vocabulary import Mention

__all__ = [
    "DESCRIBE",
    "ask",
    "describe",
    "filler",
    "mentioned",
    "mentions",
    "name",
]

DESCRIBE = "Describe the picture."

_SOME = {"bread", "cheese", "salt", "grapes", "scissors", "socks"}  # are not counted one by one
_MANY = {"grapes", "scissors", "socks"}
_PLURALS = {
    "knife": "knives",
    "scarf": "scarves",
    "couch": "couches",
    "bus": "buses",
    "octopus": "octopuses",
    "dress": "dresses",
    "fish": "fishes",
}
_WORD = re.compile(r"[a-z]+")

# Filler: one of each column in turn, none of them in NOUNS.
_WHO = (
    "the committee|a quiet visitor|my neighbour|the older sister|every student|the manager|"
    "a retired teacher|the whole village|our landlord|a careful reader|the new director|her uncle|"
    "an honest merchant|the second team|a young doctor|the author"
)
_DID = (
    "considered|forgot|praised|rejected|remembered|explained|postponed|welcomed|discussed|"
    "questioned|accepted|mentioned|defended|approved|doubted|announced"
)
_WHAT = (
    "the latest proposal|an old agreement|the long journey|a difficult decision|"
    "the annual report|a minor mistake|the history of the region|an unusual request|"
    "the price of the tickets|a promise made years ago|the rules of the meeting|a sudden change|"
    "the names on the list|a letter from abroad|the plan for next week|"
    "an argument about money"
)
_HOW = (
    "before noon|without much haste|for the second time|in a low voice|with great patience|"
    "after a short pause|during the holidays|as was expected|for reasons of their own|"
    "on the last day of the month|to nobody's surprise|in front of a small audience|"
    "while others kept silent|at the end of the winter|with some hesitation|"
    "although it hardly mattered"
)
_COLUMNS = [column.split("|") for column in (_WHO, _DID, _WHAT, _HOW)]


def name(noun: int) -> str:
    """Give a noun with its article.

    Parameters
    ----------
    noun : int
        Its place in `NOUNS`.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If there is no such noun.

    Examples
    --------
    >>> name(NOUNS.index("apple")), name(NOUNS.index("bread"))
    ('an apple', 'some bread')
    """
    if not 0 <= noun < len(NOUNS):
        raise ValueError(f"noun must be in 0 to {len(NOUNS) - 1}, got {noun}")
    word = NOUNS[noun]
    if word in _SOME:
        return f"some {word}"
    return f"{'an' if word[0] in 'aeio' or word == 'umbrella' else 'a'} {word}"


def describe(nouns: Iterable[int]) -> str:
    """Say what a picture shows.

    Parameters
    ----------
    nouns : iterable of int
        Places in `NOUNS`, at least one.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If there is none, or no such noun.

    Examples
    --------
    >>> describe([NOUNS.index(word) for word in ("cow", "pig", "apple")])
    'The picture shows a cow, a pig and an apple.'
    """
    names = [name(noun) for noun in nouns]
    if not names:
        raise ValueError("nouns must hold at least one noun, got none")
    *others, last = names
    return f"The picture shows {', '.join(others)}{' and ' if others else ''}{last}."


def ask(noun: int) -> str:
    """Ask whether something is in the picture; the answer is Yes or No.

    Parameters
    ----------
    noun : int
        Its place in `NOUNS`.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If there is no such noun.

    Examples
    --------
    >>> ask(NOUNS.index("cow")), ask(NOUNS.index("socks"))
    ('Is there a cow in the picture?', 'Are there some socks in the picture?')
    """
    named = name(noun)
    return f"{'Are' if NOUNS[noun] in _MANY else 'Is'} there {named} in the picture?"


def mentioned(text: str) -> list[int]:
    """Find the nouns that a text names, one or many of a thing, in its order.

    A noun that is named twice is there twice.

    Parameters
    ----------
    text : str
        In any case of letters.

    Returns
    -------
    list of int
        Places in `NOUNS`.

    Examples
    --------
    >>> [NOUNS[noun] for noun in mentioned("Two cows, an Apple and a unicorn.")]
    ['cow', 'apple']
    """
    return [each.noun for each in mentions(text)]


def mentions(text: str) -> list[Mention]:
    """Find where a text names nouns, as `mentioned` finds what it names.

    Parameters
    ----------
    text : str
        In any case of letters.

    Examples
    --------
    >>> mentions("A cow.") == [Mention(NOUNS.index("cow"), 2, 5)]
    True
    """
    return [
        Mention(_NOUN_OF[match[0]], *match.span())
        for match in _WORD.finditer(text.lower())
        if match[0] in _NOUN_OF
    ]


def filler(rng: np.random.Generator, words: int) -> str:
    """Write text that names none of the nouns, to stand between a picture and a question.

    Parameters
    ----------
    rng : numpy.random.Generator
        What it is drawn with.
    words : int
        Least number of words; the sentence that reaches it is finished.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If ``words`` is below 1.

    Examples
    --------
    >>> filler(np.random.default_rng(0), 12)
    'The second team accepted the price of the tickets with great patience.'
    """
    if words < 1:
        raise ValueError(f"words must be at least 1, got {words}")
    sentences: list[str] = []
    count = 0
    while count < words:
        places = rng.integers([len(column) for column in _COLUMNS])
        parts = (column[place] for column, place in zip(_COLUMNS, places, strict=True))
        sentence = " ".join(parts)
        sentences.append(f"{sentence[0].upper()}{sentence[1:]}.")
        count += len(sentence.split())
    return " ".join(sentences)


def _forms(word: str) -> tuple[str, ...]:
    """Give a noun's word, and its plural where it has one of its own."""
    if word in _MANY:
        return (word,)
    plural = word[:-1] + "ies" if word.endswith(("rry", "fly")) else word + "s"
    return word, _PLURALS.get(word, plural)


_NOUN_OF = {form: noun for noun, word in enumerate(NOUNS) for form in _forms(word)}
