"""What is asked about a scene: for a thing that is there, and for some that are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from reattend.evaluation.datasets.emoji_world.world import CONTEXTS, NOUNS, Scene

KINDS = ("random", "popular", "adversarial")  # of questions about what is not there
POPULAR = len(NOUNS) // 6  # nouns, the most frequent ones, are popular


class Inquiry(NamedTuple):
    """A noun to ask for."""

    noun: int
    kind: str  # one of KINDS, or "there"


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
