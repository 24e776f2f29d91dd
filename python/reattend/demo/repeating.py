"""When a description of the package's own model says nothing new any more."""

from __future__ import annotations

import re
from collections import Counter

from reattend.evaluation.datasets.emoji_world import NOUNS, mentioned

_OFTEN = 3  # times that a thing is named
_RUN = 6  # times that one word comes in a row


def repeated(text: str) -> str | None:
    """Give the word that a description keeps saying, or None while it says new things.

    A picture of what the model has not learnt makes it list the same things up to the limit.

    Parameters
    ----------
    text : str
        The description so far; a last word that may go on does not count.

    Returns
    -------
    str or None
        A noun that is said for the third time, or a word that stands six times in a row.

    Examples
    --------
    >>> repeated("a door, a book, a door and a door"), repeated("a door, a book, a door, a door,")
    (None, 'door')
    >>> repeated("a shoe, a, a, a, a, a, a,")
    'a'
    """
    complete = re.sub(r"[A-Za-z]+$", "", text)
    for noun, times in Counter(mentioned(complete)).items():
        if times >= _OFTEN:
            return NOUNS[noun]
    last = re.findall("[A-Za-z]+", complete)[-_RUN:]
    return last[0] if len(last) == _RUN and len({*last}) == 1 else None
