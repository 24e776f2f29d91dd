"""JSON that others wrote: read, or refused by one kind of error."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["from_json"]


def from_json(text: str | bytes) -> Any:
    """Give what a text holds.

    Parameters
    ----------
    text : str or bytes
        Bytes in UTF-8, 16 or 32.

    Raises
    ------
    ValueError
        If it is no JSON, or nested deeper than Python's stack.

    Examples
    --------
    >>> from_json('{"scenes": [3]}')
    {'scenes': [3]}
    >>> from_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: it is nested too deep
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
