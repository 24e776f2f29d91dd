"""Row scope and phase: the two words by which a plan says which rows it is for."""

from __future__ import annotations

from typing import Any

ROWS = ("last", "after_image", "all")
PHASES = ("prefill", "decode", "both")


def check_scope(rows: Any, phase: Any) -> None:
    """Check the two words.

    Parameters
    ----------
    rows : {"last", "after_image", "all"}
        ``"last"``: each item's last row of the prompt that is no padding, and those behind it: the
        rows that say what comes next. ``"after_image"``: the rows behind an item's first image,
        those of the answer among them; none of an item without one. ``"all"``: every row.
    phase : {"prefill", "decode", "both"}
        ``"prefill"``: rows of the prompt. ``"decode"``: those behind it. ``"both"``: either.

    Raises
    ------
    TypeError, ValueError
        Naming the word, what was expected and what came.

    Examples
    --------
    >>> check_scope("last", "decode")
    """
    for name, given, known in (("rows", rows, ROWS), ("phase", phase, PHASES)):
        if not isinstance(given, str):
            raise TypeError(f"{name} must be one of {', '.join(known)}, got {given!r}")
        if given not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {given!r}")
