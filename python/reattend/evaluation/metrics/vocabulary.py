"""A vocabulary: which words name which things, and where a text does so.

No language tool runs here. A word of a text is a plural if taking away an ending of English leaves
a word that the vocabulary knows (the rules of WordNet's morphology for nouns, turned round);
plurals without a rule stand in a table. Parts of speech are not looked at.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

_TOKEN = re.compile(r"[^\W_]+(?:(?:[-/.'’]|_+)[^\W_]+)*")  # a hot_dog is no dog
_POSSESSIVE = re.compile(r"['’]s$")
_ENDINGS = (("", "s"), ("s", "ses"), ("x", "xes"), ("z", "zes"), ("ch", "ches"), ("sh", "shes"),
            ("man", "men"), ("y", "ies"))  # fmt: skip
_IRREGULAR = (
    "child children|foot feet|tooth teeth|goose geese|mouse mice|ox oxen|calf calves|half halves|"
    "knife knives|leaf leaves|life lives|loaf loaves|scarf scarves|shelf shelves|thief thieves|"
    "wife wives|wolf wolves|pocketknife pocketknives|hoof hooves|elf elves|self selves|"
    "bookshelf bookshelves|housewife housewives|grandchild grandchildren|stepchild stepchildren|"
    "die dice|cactus cacti|octopus octopi|fungus fungi|quiz quizzes|bus busses|buffalo buffaloes|"
    "buffalo buffalos|mango mangoes|tomato tomatoes|potato potatoes|flamingo flamingoes|"
    "lorry lorries|ferry ferries"
)


class Mention(NamedTuple):
    """Where a text names a thing."""

    noun: int  # its place in the vocabulary's names
    start: int
    end: int


class Vocabulary:
    """Things with a name, the words that stand for them, and the phrases that do.

    Parameters
    ----------
    synonyms : mapping of str to iterable of str
        Other words for each thing, all in small letters and singular; a thing's own name counts
        as well. Of one or two words.
    phrases : mapping of str to str, optional
        Two words that are read as one, and as what; by default each name or synonym of two words
        as itself. What names no thing keeps its parts from being counted.
    hidden_by : mapping of str to str, optional
        Words that do not count in a text that has another word.
    without_plural : iterable of str, optional
        Words whose plurals are not known.
    not_plural : iterable of str, optional
        Words that are no plural, though they look like one.

    Raises
    ------
    ValueError
        If a word stands for two things, or has more than two parts.

    Examples
    --------
    >>> pets = Vocabulary({"cat": ["kitten"], "hot dog": [], "dog": ["puppy"]})
    >>> [pets.names[each.noun] for each in pets.mentions("Kittens, hot dogs and a dog.")]
    ['cat', 'hot dog', 'dog']
    """

    def __init__(
        self,
        synonyms: Mapping[str, Iterable[str]],
        *,
        phrases: Mapping[str, str] | None = None,
        hidden_by: Mapping[str, str] | None = None,
        without_plural: Iterable[str] = (),
        not_plural: Iterable[str] = (),
    ) -> None:
        self.names: tuple[str, ...] = tuple(synonyms)
        self.noun_of: dict[str, int] = {}  # every word or phrase, in singular
        for noun, (name, others) in enumerate(synonyms.items()):
            for word in (name, *others):
                if self.noun_of.setdefault(word, noun) != noun:
                    other = self.names[self.noun_of[word]]
                    raise ValueError(f"{word!r} must stand for one thing, got {other!r}, {name!r}")
                if len(word.split()) > 2:
                    raise ValueError(f"words must have one or two parts, got {word!r}")
        if phrases is None:
            phrases = {word: word for word in self.noun_of if " " in word}
        self._phrases = dict(phrases)
        self._hidden_by = dict(hidden_by or {})
        words = {part for known in (*self.noun_of, *self._phrases) for part in known.split()}
        self._singulars = _singulars(words - set(without_plural))
        for word in not_plural:
            self._singulars.pop(word, None)

    def checksum(self) -> str:
        """Give what tells the vocabulary from others that read texts otherwise.

        Examples
        --------
        >>> Vocabulary({"cat": []}).checksum() == Vocabulary({"cat": ["kitten"]}).checksum()
        False
        """
        parts = self.noun_of, self._phrases, self._hidden_by, self._singulars
        known = repr((self.names, [sorted(each.items()) for each in parts]))
        return hashlib.sha256(known.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.names)

    def singular(self, word: str) -> str:
        """Give a word's singular, if the vocabulary knows that; else the word.

        Parameters
        ----------
        word : str
            In small letters.

        Examples
        --------
        >>> Vocabulary({"bus": [], "man": []}).singular("buses")
        'bus'
        """
        return self._singulars.get(word, word)

    def words(self, text: str) -> list[tuple[str, int, int]]:
        """Give a text's words in singular, phrases as one, with where each begins and ends.

        Parameters
        ----------
        text : str
            Any text.

        Examples
        --------
        >>> Vocabulary({"hot dog": []}).words("Hot dogs!")
        [('hot dog', 0, 8)]
        """
        found = [(self.singular(word), start, end) for word, start, end in _tokens(text)]
        joined: list[tuple[str, int, int]] = []
        place = 0
        while place < len(found):
            word, start, end = found[place]
            place += 1
            if place < len(found) and text[end : found[place][1]].isspace():
                phrase = self._phrases.get(f"{word} {found[place][0]}")
                if phrase is not None:
                    word, end = phrase, found[place][2]
                    place += 1
            joined.append((word, start, end))
        return joined

    def mentions(self, text: str) -> list[Mention]:
        """Find where a text names things, in its order; what is named twice is there twice.

        Parameters
        ----------
        text : str
            Any text.

        Examples
        --------
        See the example of the class.
        """
        words = self.words(text)
        there = {word for word, *_ in words}
        hidden = {word for word, other in self._hidden_by.items() if other in there}
        return [
            Mention(self.noun_of[word], start, end)
            for word, start, end in words
            if word in self.noun_of and word not in hidden
        ]

    def nouns(self, text: str) -> set[int]:
        """Give what a text names, each thing once."""
        return {each.noun for each in self.mentions(text)}


def _tokens(text: str) -> Iterator[tuple[str, int, int]]:
    for match in _TOKEN.finditer(text):
        word = _POSSESSIVE.sub("", match[0].lower())
        yield word, match.start(), match.start() + len(word)


def _singulars(words: Iterable[str]) -> dict[str, str]:
    """Give the singular of each plural that a word may have; of two singulars the shorter one."""
    irregular: dict[str, list[str]] = {}
    for pair in _IRREGULAR.split("|"):
        singular, plural = pair.split()
        irregular.setdefault(singular, []).append(plural)
    found: dict[str, str] = {}
    for word in sorted(words, key=lambda word: (len(word), word)):
        for ending, plural in _ENDINGS:
            if word.endswith(ending):
                found.setdefault(word[: len(word) - len(ending)] + plural, word)
        for plural in irregular.get(word, ()):
            found.setdefault(plural, word)
    return found
