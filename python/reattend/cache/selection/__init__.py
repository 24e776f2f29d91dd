"""Which keys a cache keeps, or a step reads: scores of published methods, and choices by score.

A selection is applied exactly, by `KVCache.keep`, which forgets the others, or by `selection_bias`,
which hides them. What each leaves out is in the paper's name of it: nothing is estimated but where
a docstring says so.
"""

from reattend.cache.selection.blocks import chunk_scores, tree_keys
from reattend.cache.selection.compensation import (
    Compensated,
    ImageTiers,
    compensated,
    image_tiers,
)
from reattend.cache.selection.layers import centre_distance, lazy_share, sinks_recent_middle
from reattend.cache.selection.low_rank import key_components, low_rank_scores
from reattend.cache.selection.scores import (
    forgetting_scores,
    highest,
    last_row_scores,
    observed_scores,
    streaming,
    window_scores,
)
from reattend.cache.selection.sparse import Recycled, selection_bias, stripes

__all__ = [
    "Compensated",
    "ImageTiers",
    "Recycled",
    "centre_distance",
    "chunk_scores",
    "compensated",
    "forgetting_scores",
    "highest",
    "image_tiers",
    "key_components",
    "last_row_scores",
    "lazy_share",
    "low_rank_scores",
    "observed_scores",
    "selection_bias",
    "sinks_recent_middle",
    "streaming",
    "stripes",
    "tree_keys",
    "window_scores",
]
