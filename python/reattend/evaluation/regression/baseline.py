"""Stored baselines: where they are, and what is said if there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reattend.whole_file import whole_file

UPDATE = "call it with update=True"


class Regression:
    """Holds what a model does against a file.

    Parameters
    ----------
    path : path
        Of the baseline.
    update : bool, optional
        Whether it is written anew instead.
    how_to_update : str, optional
        What to do for that, as messages say it.
    """

    def __init__(self, path: Path, update: bool = False, how_to_update: str = UPDATE) -> None:
        self.path, self.update, self.how_to_update = Path(path), update, how_to_update

    def _demand(self) -> None:
        if not self.path.is_file():
            raise AssertionError(
                f"there is no baseline {self.path} to hold this against: {self.how_to_update} "
                "to write it"
            )

    def _write(self, write: Callable[[Path], None]) -> None:
        """Write the baseline, in full or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as partial:
            write(partial)
