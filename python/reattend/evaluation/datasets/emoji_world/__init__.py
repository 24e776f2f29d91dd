"""A small world to look at and to measure in: scenes with ground truth, sentences about them."""

from reattend.evaluation.datasets.emoji_world.sentences import (
    DESCRIBE,
    ask,
    describe,
    filler,
    mentioned,
)
from reattend.evaluation.datasets.emoji_world.world import (
    CONTEXTS,
    DIFFICULTIES,
    NOUNS,
    Difficulty,
    Scene,
    World,
)

__all__ = [
    "CONTEXTS",
    "DESCRIBE",
    "DIFFICULTIES",
    "NOUNS",
    "Difficulty",
    "Scene",
    "World",
    "ask",
    "describe",
    "filler",
    "mentioned",
]
