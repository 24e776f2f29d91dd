"""CHAIR: which of the things that a caption names are not in the picture.

Every mention counts, as in the public scorer: a thing that is named twice is hallucinated twice.
Paper: Object Hallucination in Image Captioning (EMNLP 2018).
"""

from __future__ import annotations

import re
from collections.abc import Collection

from reattend.evaluation.metrics.vocabulary import Vocabulary

_END = re.compile(r"[.!?]+[\"'’”)\]*_]*(?!\d)")  # 3.5 ends no sentence; quotes close after one

CHAIR_MEASURES: dict[str, tuple[str, str]] = {
    "chair_i": ("made_up", "mentions"),
    "chair_s": ("any_made_up", "captions"),
    "recall": ("found", "there"),
    "mentions": ("mentions", "captions"),
    "words": ("words", "captions"),
    "unfinished": ("unfinished", "captions"),
}


def count_caption(
    text: str, there: Collection[int], vocabulary: Vocabulary, *, drop_unfinished: bool = False
) -> dict[str, float]:
    """Count what `CHAIR_MEASURES` need of one caption.

    Parameters
    ----------
    text : str
        The caption.
    there : collection of int
        What is in the picture: places in the vocabulary's names.
    vocabulary : Vocabulary
        Which words name what.
    drop_unfinished : bool, optional
        Whether a last sentence without an end is left out, if it is not the only one.

    Examples
    --------
    >>> pets = Vocabulary({"cat": [], "dog": ["puppy"], "cow": []})
    >>> counts = count_caption("A dog, a cat, and two more dogs.", [0, 2], pets)
    >>> counts["made_up"], counts["mentions"], counts["found"], counts["there"]
    (2.0, 3.0, 1.0, 2.0)
    """
    finished = finished_part(text)
    unfinished = finished != text.strip()
    if drop_unfinished and finished:
        text = finished
    named = [each.noun for each in vocabulary.mentions(text)]
    truth = set(there)
    made_up = sum(noun not in truth for noun in named)
    return {
        "captions": 1.0,
        "mentions": float(len(named)),
        "made_up": float(made_up),
        "any_made_up": float(made_up > 0),
        "found": float(len(truth & set(named))),
        "there": float(len(truth)),
        "words": float(len(vocabulary.words(text))),
        "unfinished": float(unfinished),
    }


def finished_part(text: str) -> str:
    """Give a text up to where its last sentence ends; empty if none does.

    Parameters
    ----------
    text : str
        Any text.

    Examples
    --------
    >>> finished_part("A dog sits. It is next to a")
    'A dog sits.'
    >>> finished_part("It is 3.5 m to the (big) cat.)")
    'It is 3.5 m to the (big) cat.)'
    """
    ends = [0, *(found.end() for found in _END.finditer(text))]
    return text[: ends[-1]].strip()
