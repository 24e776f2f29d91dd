"""AMBER: what descriptions hallucinate and cover, which hallucinations are expected, and questions.

Paper: AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination Evaluation, arXiv
2311.07397. The public scorer keeps nouns by nltk's tagger and lemmas and takes words for one where
spaCy says that they are similar. Here every word of the table counts, whatever its part of speech
and letters, and similarity is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from reattend.evaluation.metrics.vocabulary import Vocabulary

Similar = Callable[[str, str], bool]

GENERATIVE_MEASURES: dict[str, tuple[str, str]] = {
    "chair": ("made_up", "kept"),  # share of the named things that are not there
    "cover": ("covered", "there"),  # share of what is there that is named
    "hal": ("any_made_up", "described"),  # share of descriptions with a hallucinated object
    "cog": ("expected_made_up", "expected"),  # share of what people expect wrongly that is named
    "words": ("words", "described"),
    "unfinished": ("unfinished", "described"),
}


class AmberWords(NamedTuple):
    """The tables that descriptions are read with."""

    associated: Mapping[str, Sequence[str]]  # of each word those that mean it as well
    safe: Collection[str]  # words that are never wrong
    vocabulary: Vocabulary  # all words of the table, each for itself


def amber_words(associated: Mapping[str, Sequence[str]], safe: Collection[str]) -> AmberWords:
    """Make the tables from ``relation.json`` and ``safe_words.txt``.

    Parameters
    ----------
    associated : mapping of str to sequence of str
        Of each word those that mean it as well.
    safe : collection of str
        Words that are never wrong.
    """
    words = [*associated, *(word for some in associated.values() for word in some)]
    single = {word: () for word in words if len(word.split()) == 1}
    return AmberWords(associated, frozenset(safe), Vocabulary(single, phrases={}))


def count_amber_description(
    text: str,
    there: Sequence[str],
    expected: Sequence[str],
    words: AmberWords,
    similar: Similar | None = None,
) -> dict[str, float]:
    """Count what `GENERATIVE_MEASURES` need of one description.

    Parameters
    ----------
    text : str
        The description.
    there : sequence of str
        What is in the picture.
    expected : sequence of str
        What is not, but people expect there.
    words : AmberWords
        Of `amber_words`.
    similar : callable, optional
        Whether two words mean the same; by default only words that are in the tables do.

    Examples
    --------
    >>> table = amber_words({"dog": ["puppy"], "cat": [], "tree": ["trunk"]}, ["picture"])
    >>> found = count_amber_description("A puppy and a cat.", ["dog", "tree"], ["cat"], table)
    >>> [found[each] for each in ("made_up", "kept", "covered", "there", "expected_made_up")]
    [1.0, 2.0, 1.0, 2.0, 1.0]
    """
    known = words.vocabulary
    kept = [known.names[each.noun] for each in known.mentions(text)]
    covered: set[int] = set()
    expected_named: set[int] = set()
    made_up = 0
    safe_targets, expected_targets = (_targets(each, words) for each in (there, expected))
    for noun in kept:
        if noun in words.safe:
            continue
        if (place := _exact(noun, safe_targets)) is not None:
            covered.add(place)
            continue
        # A word may be both: an exact one and, by its first similar word, another.
        for place in (_exact(noun, expected_targets), _alike(noun, expected_targets, similar)):
            if place is not None:
                expected_named.add(place)
        if (place := _alike(noun, safe_targets, similar)) is not None:
            covered.add(place)
        else:
            made_up += 1
    return {
        "described": 1.0,
        "kept": float(len(kept)),
        "made_up": float(made_up),
        "any_made_up": float(made_up > 0),
        "there": float(len(there)),
        "covered": float(len(covered)),
        "expected": float(len(expected)),
        "expected_made_up": float(len(expected_named)),
        "words": float(len(text.split())),
    }


def count_amber_question(there: bool, yes: bool | None) -> dict[str, float]:
    """Count one question, with no as the positive class.

    Parameters
    ----------
    there : bool
        Whether yes is right.
    yes : bool or None
        What was answered; None if neither, which is wrong on either side.

    Examples
    --------
    >>> counts = count_amber_question(False, False)
    >>> counts["right"], counts["right_no"], counts["no"], counts["true_no"]
    (1.0, 1.0, 1.0, 1.0)
    """
    no, right_no = yes is False, yes is False and not there
    return {
        "asked": 1.0,
        "right": float(yes is not None and yes == there),
        "yes": float(yes is True),
        "no": float(no),
        "true_no": float(not there),
        "right_no": float(right_no),
        "twice_right_no": 2.0 * right_no,
        "no_and_true_no": float(no) + float(not there),
        "unparsed": float(yes is None),
    }


def _targets(names: Sequence[str], words: AmberWords) -> list[tuple[str, int]]:
    """Give the words that stand for names, with each name's place; associated ones come first."""
    also = [(w, place) for place, name in enumerate(names) for w in words.associated.get(name, ())]
    return [*also, *((name, place) for place, name in enumerate(names))]


def _exact(noun: str, targets: Sequence[tuple[str, int]]) -> int | None:
    return next((place for word, place in targets if word == noun), None)


def _alike(noun: str, targets: Sequence[tuple[str, int]], similar: Similar | None) -> int | None:
    if similar is None:
        return None
    return next((place for word, place in targets if similar(noun, word)), None)
