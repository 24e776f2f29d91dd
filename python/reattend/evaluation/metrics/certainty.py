"""How sure a model was of the things that it names: from the probabilities of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reattend.evaluation.metrics.counts import Word
from reattend.evaluation.metrics.vocabulary import Mention

Tokens = Sequence[tuple[str, float]]  # the text of each token, and its probability


def sure_words(tokens: Tokens, mentions: Sequence[Mention], probability: float = 0.0) -> list[Word]:
    """Say how sure each thing was that a text names, once each, where it is first.

    Parameters
    ----------
    tokens : sequence of (str, float)
        What the text came in. A mention has the product of the tokens that it touches.
    mentions : sequence of Mention
        Of the text.
    probability : float, optional
        Mentions below it do not count.

    Returns
    -------
    list of Word

    Raises
    ------
    ValueError
        If a mention lies outside the tokens, or one of its tokens has NaN as a probability.

    Examples
    --------
    >>> tokens = [("A", 1.0), (" b", 0.5), ("us", 0.8), (".", 1.0)]
    >>> sure_words(tokens, [Mention(3, 2, 5)])
    [Word(noun=3, probability=0.4)]
    """
    first: dict[int, Word] = {}
    for word in _sure(tokens, mentions):
        if word.probability >= probability:
            first.setdefault(word.noun, word)
    return [*first.values()]


def without_unsure(tokens: Tokens, mentions: Sequence[Mention], probability: float) -> str:
    """Give a text without the mentions of which the model was less sure.

    Parameters
    ----------
    tokens, mentions, probability
        As for `sure_words`.

    Examples
    --------
    >>> tokens = [("A", 1.0), (" cow", 0.9), (", a", 1.0), (" bus", 0.4)]
    >>> without_unsure(tokens, [Mention(0, 2, 5), Mention(3, 9, 12)], 0.5)
    'A cow, a '
    """
    text, at, kept = "".join(each for each, _ in tokens), 0, ""
    for mention, word in zip(mentions, _sure(tokens, mentions), strict=True):
        if word.probability < probability:
            kept += text[at : mention.start]
            at = mention.end
    return kept + text[at:]


def _sure(tokens: Tokens, mentions: Sequence[Mention]) -> list[Word]:
    ends = np.cumsum([len(text) for text, _ in tokens], dtype=np.intp)
    if mentions and (not ends.size or mentions[-1].end > ends[-1]):
        raise ValueError(
            f"tokens must join to the text, got {ends[-1] if ends.size else 0} characters and a "
            f"mention up to {mentions[-1].end}"
        )
    found = []
    for noun, start, end in mentions:
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, end - 1, side="right"))
        sure = float(np.prod([p for _, p in tokens[first : last + 1]]))
        if np.isnan(sure):
            raise ValueError(f"tokens must have probabilities, got {tokens[first : last + 1]}")
        found.append(Word(noun, sure))
    return found
