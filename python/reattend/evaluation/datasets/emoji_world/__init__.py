"""A small world to look at and to measure in: scenes with ground truth, sentences about them."""

from reattend.evaluation.datasets.emoji_world.cases import CELLS, Case, Cases, Cell
from reattend.evaluation.datasets.emoji_world.coco_form import write_coco_scenes
from reattend.evaluation.datasets.emoji_world.inquiries import KINDS, Inquiry
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
    SIDE,
    VERSION,
    Difficulty,
    Scene,
    World,
)

__all__ = [
    "CELLS",
    "CONTEXTS",
    "DESCRIBE",
    "DIFFICULTIES",
    "KINDS",
    "NOUNS",
    "SIDE",
    "VERSION",
    "Case",
    "Cases",
    "Cell",
    "Difficulty",
    "Inquiry",
    "Scene",
    "World",
    "ask",
    "describe",
    "filler",
    "mentioned",
    "write_coco_scenes",
]
