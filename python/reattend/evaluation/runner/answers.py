"""Answers: descriptions of scenes with how sure each noun was, and yes or no to questions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from reattend.evaluation.datasets.emoji_world.sentences import DESCRIBE, ask, mentioned
from reattend.evaluation.datasets.emoji_world.world import CONTEXTS, NOUNS, Scene
from reattend.evaluation.metrics.counts import Word
from reattend.method import Method
from reattend.models import TextStream, VisionLanguage
from reattend.policy import Array
from reattend.session import Session

KINDS = ("random", "popular", "adversarial")  # of questions about what is not there
POPULAR = len(NOUNS) // 6  # nouns, the most frequent ones, are popular
_LETTERS = re.compile(r"[A-Za-z]+")


class Answer(NamedTuple):
    """A description."""

    text: str
    words: tuple[Word, ...]  # the nouns it names, in order, each where it comes first
    tokens: int  # its end included


class Inquiry(NamedTuple):
    """A noun to ask for."""

    noun: int
    kind: str  # one of KINDS, or "there"


def find_words(pieces: Sequence[str], probabilities: Sequence[float]) -> tuple[Word, ...]:
    """Find the nouns of a text that came in pieces.

    Parameters
    ----------
    pieces : sequence of str
        The text of each token.
    probabilities : sequence of float
        Of each token. A noun has the product of those that it is made of.

    Returns
    -------
    tuple of Word

    Examples
    --------
    >>> words = find_words(["A", " b", "us", ", a", " cow", "."], [1, 0.5, 0.8, 1, 0.9, 1])
    >>> [(NOUNS[word.noun], word.probability) for word in words]
    [('bus', 0.4), ('cow', 0.9)]
    """
    token_of = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])  # by character
    found: dict[int, Word] = {}
    for match in _LETTERS.finditer("".join(pieces)):
        for noun in mentioned(match[0]):
            first, last = token_of[match.start()], token_of[match.end() - 1]
            sure = float(np.prod(probabilities[first : last + 1]))
            found.setdefault(noun, Word(noun, sure))
    return tuple(found.values())


def describe_scenes(
    model: VisionLanguage,
    methods: Method | Sequence[Method],
    pixels: Array,
    before: Sequence[str | None],
    *,
    max_new_tokens: int,
) -> list[Answer]:
    """Describe pictures side by side.

    Parameters
    ----------
    model : VisionLanguage
        What describes.
    methods : Method or sequence of Method
        At work in its attention.
    pixels : uint8 array [B, 120, 120, 3], or float32 array [B, 100, C]
        The pictures; or what ``model.encode`` gave of them.
    before : sequence of B str or None
        Other text between each picture and the question.
    max_new_tokens : int
        How long a description may become.

    Returns
    -------
    list of B Answer
    """
    prompts = [model.prompt(DESCRIBE, text) for text in before]
    sure: list[Array] = []

    def observe(logits: Array) -> None:
        shifted = logits - logits.max(axis=-1, keepdims=True)
        sure.append(1 / np.exp(shifted).sum(axis=-1))  # [B], of the likeliest: it is what comes

    session = new_session(model, methods)
    steps = [
        *model.generate(
            session, prompts, pixels, max_new_tokens=max_new_tokens, observe=observe, shrink=True
        )
    ]
    tokens, probabilities = np.stack(steps, axis=1), np.stack(sure, axis=1)  # [B, T]
    return [_answer(model, *item) for item in zip(tokens, probabilities, strict=True)]


def margins(
    model: VisionLanguage,
    methods: Method | Sequence[Method],
    pixels: Array,
    nouns: Sequence[int],
    before: Sequence[str | None],
) -> Array:
    """Ask whether nouns are in pictures, side by side.

    Parameters
    ----------
    model, methods, pixels, before
        As for `describe_scenes`.
    nouns : sequence of B int
        What is asked for.

    Returns
    -------
    float32 array [B]
        By how much the logit of Yes is above that of No.
    """
    prompts = [model.prompt(ask(noun), text) for noun, text in zip(nouns, before, strict=True)]
    logits = model.next_logits(new_session(model, methods), prompts, pixels)
    yes, no = (model.tokenizer.encode(word, prefix=False)[0] for word in ("Yes", "No"))
    return np.asarray(logits[:, yes] - logits[:, no])


def new_session(model: VisionLanguage, methods: Method | Sequence[Method]) -> Session:
    """Open a session for a model.

    Parameters
    ----------
    model : VisionLanguage
        Whose layers and heads it is for.
    methods : Method or sequence of Method
        At work in it.
    """
    config = model.llama.config
    return Session(methods, num_layers=config.num_layers, num_heads=config.num_heads)


def popular_nouns(scenes: Iterable[Scene]) -> tuple[int, ...]:
    """Give the nouns that most scenes show, as POPE takes them from the set it asks about.

    In this world all nouns are about as frequent, so popular ones are a little more so by chance.

    Parameters
    ----------
    scenes : iterable of Scene
        The set.

    Returns
    -------
    tuple of int
        `POPULAR` nouns, the most frequent first.
    """
    counts = np.zeros(len(NOUNS), dtype=np.intp)
    for scene in scenes:
        counts[list(scene.nouns)] += 1
    return tuple(np.argsort(-counts, kind="stable")[:POPULAR].tolist())


def draw_inquiries(scene: Scene, popular: Sequence[int], seed: Sequence[int]) -> list[Inquiry]:
    """Draw what to ask about a scene: a noun that is there, and one of each kind that is not.

    Parameters
    ----------
    scene : Scene
        What is asked about.
    popular : sequence of int
        Of `popular_nouns`.
    seed : sequence of int
        The same numbers draw the same nouns.

    Returns
    -------
    list of Inquiry
        There; then absent: any; a popular one; one of the scene's contexts (adversarial).

    Examples
    --------
    >>> from reattend.evaluation.datasets.emoji_world import World
    >>> scene = World().scene(0, conflict=True)
    >>> [(NOUNS[each.noun], each.kind) for each in draw_inquiries(scene, (3, 4), (0,))]
    [('socks', 'there'), ('lamp', 'random'), ('egg', 'popular'), ('tree', 'adversarial')]
    """
    rng = np.random.default_rng(list(seed))
    there = set(scene.nouns)
    absent = [noun for noun in range(len(NOUNS)) if noun not in there]
    names = list(CONTEXTS)
    usual = [noun for place in scene.contexts for noun in CONTEXTS[names[place]]]
    pools = {
        "random": absent,
        "popular": [noun for noun in popular if noun not in there],
        "adversarial": [noun for noun in usual if noun not in there],
    }
    drawn = [Inquiry(int(rng.choice(scene.nouns)), "there")]
    for kind in KINDS:
        drawn.append(Inquiry(int(rng.choice(pools[kind] or absent)), kind))
    return drawn


def _answer(model: VisionLanguage, tokens: Array, probabilities: Array) -> Answer:
    ends = np.flatnonzero(np.isin(tokens, list(model.tokenizer.stop)))
    count = int(ends[0]) if ends.size else len(tokens)
    stream = TextStream(model.tokenizer)
    pieces = [stream.push(int(token)) for token in tokens[:count]]
    pieces.append(stream.flush())
    sure = [*probabilities[:count].tolist(), 1.0]
    return Answer("".join(pieces), find_words(pieces, sure), min(count + 1, len(tokens)))
