"""When a description of the package's own model says nothing new any more."""

from __future__ import annotations

import re
from collections import Counter

from reattend.evaluation.datasets.emoji_world import NOUNS, mentioned

_OFTEN = 3  # times that a thing is named
_RUN = 6  # times that one word comes in a row


def stop_reason(text: str) -> str | None:
    """Say why a description is to be stopped, or None while it says new things.

    A picture of what the model has not learnt makes it list the same things up to the limit.

    Parameters
    ----------
    text : str
        The description so far; a last word that may go on does not count.

    Returns
    -------
    str or None
        That a noun is said for the third time, or a word stands six times in a row.

    Examples
    --------
    >>> stop_reason("a door, a book, a door and a door")
    >>> stop_reason("a door, a book, a door, a door,")
    'stopped, for it keeps saying door'
    >>> stop_reason("a shoe, a, a, a, a, a, a,")
    'stopped, for it keeps saying a'
    """
    complete = re.sub(r"[A-Za-z]+$", "", text)
    often = [NOUNS[noun] for noun, n in Counter(mentioned(complete)).items() if n >= _OFTEN]
    last = re.findall("[A-Za-z]+", complete)[-_RUN:]
    if len(last) == _RUN and len({*last}) == 1:
        often.append(last[0])
    return f"stopped, for it keeps saying {often[0]}" if often else None
