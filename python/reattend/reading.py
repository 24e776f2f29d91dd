"""Reading: what one method did in one layer along an answer, and words for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from reattend.policy import Array


@dataclass(frozen=True)
class Reading:
    """What one method did in one layer, in the decoding steps of all items.

    Of the prompt only the share of rows that changed is known, see `Report`: to keep the masses
    of all of them, the pass would have to find them in rows that no method is meant for.
    """

    layer: int
    method: str
    segments: tuple[str, ...]  # names of the method's segments
    rows: int  # steps of items in which the method had a plan
    changed: Array  # [H], the share of them that it changed
    before: Array  # [H, G], mean attention on each segment as it came to the method; where scores
    # were edited, after that: what it was without is not computed
    after: Array  # [H, G], and as the method left it
    found: Mapping[str, Any]  # what the method says of its state: sinks, heads


def changed_share(readings: Sequence[Reading], num_layers: int) -> float:
    """Give the share of an answer's rows that a method changed, over all heads of a model.

    Parameters
    ----------
    readings : sequence of Reading
        The method's, of each layer in which it did something.
    num_layers : int
        How many layers the model has.

    Examples
    --------
    >>> changed_share([], 4)
    0.0
    """
    steps = max((each.rows for each in readings), default=0)
    heads = max((len(each.changed) for each in readings), default=0)
    changed = sum(float(each.changed.sum()) * each.rows for each in readings if each.rows)
    return changed / max(1, steps * num_layers * heads)


def counted(number: int, name: str) -> str:
    """Write a number of things.

    Parameters
    ----------
    number : int
        How many.
    name : str
        One of them.

    Examples
    --------
    >>> counted(1, "image token"), counted(2, "image token")
    ('1 image token', '2 image tokens')
    """
    return f"{number} {name}{'' if number == 1 else 's'}"


def ranges(numbers: Iterable[int]) -> str:
    """Write whole numbers, runs of them as from - to.

    Parameters
    ----------
    numbers : iterable of int
        In any order.

    Examples
    --------
    >>> ranges([1, 17, 18, 19, 21])
    '1, 17-19, 21'
    """
    ordered = sorted(set(numbers))
    if not ordered:
        return "none"
    breaks = [at for at, (a, b) in enumerate(pairwise(ordered), 1) if b != a + 1]
    runs = np.split(np.array(ordered), breaks)
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)
