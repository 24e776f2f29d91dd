"""ModelReport: what methods did in an attached model, as data and as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reattend.policy import Array
from reattend.reading import Reading
from reattend.report import Report


@dataclass(frozen=True, repr=False)
class ModelReport:
    """What the methods did in the latest generation; print it for a table."""

    methods: Report
    sink_dims: tuple[int, ...] | None  # what was found; None: nobody asked
    image: list[list[tuple[int, int]]]  # each item's runs of image tokens
    text_seconds: float | None  # what the text-only branch cost; None: there was none
    text_tokens: int = 0
    idle: tuple[str, ...] = ()  # methods that changed no row
    skipped: tuple[int, ...] = ()  # layers without softmax attention, which are the model's own

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What each method did in each layer, as `Report.readings`."""
        return self.methods.readings

    def __repr__(self) -> str:
        return f"Model{self.methods!r}"

    def to_dict(self) -> dict[str, Any]:  # what JSON holds
        """Give everything as dictionaries, lists, numbers and text, as `Report.to_dict`."""
        return {
            **self.methods.to_dict(),
            "sink_dims": None if self.sink_dims is None else list(self.sink_dims),
            "image": [[list(span) for span in item] for item in self.image],
            "text_seconds": self.text_seconds,
            "text_tokens": self.text_tokens,
            "idle": list(self.idle),
            "skipped": list(self.skipped),
        }

    def to_json(self) -> str:
        """Give everything as JSON, as `Report.to_json`."""
        return json.dumps(self.to_dict())

    def to_pandas(self) -> Any:  # a pandas.DataFrame
        """Give a pandas table, as `Report.to_pandas`."""
        return self.methods.to_pandas()

    def to_html(
        self,
        path: str | Path,
        *,
        words: Sequence[str] = (),
        picture: Array | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        """Write what was recorded as one HTML page, as `Report.to_html`."""
        self.methods.to_html(path, words=words, picture=picture, grid=grid)

    def _repr_html_(self) -> str:
        """Give the table that a notebook shows."""
        return self.methods._repr_html_()

    def __str__(self) -> str:
        lines = [str(self.methods)]
        if self.idle:
            lines.append(f"changed no row: {', '.join(self.idle)}")
        if self.skipped:
            skipped = ", ".join(map(str, self.skipped))
            lines.append(f"layers without softmax attention, which methods skip: {skipped}")
        if self.image:
            shown = [", ".join(f"{a} to {b - 1}" for a, b in item) or "none" for item in self.image]
            lines.append(f"image tokens: {'; '.join(shown)}")
        if self.sink_dims is not None:
            found = ", ".join(map(str, self.sink_dims)) or "none"
            lines.append(f"sink dimensions, found on the first prompt: {found}")
        if self.text_seconds is not None:
            lines.append(
                f"text-only branch: {self.text_tokens} tokens in {self.text_seconds:.3f} s"
            )
        return "\n".join(lines)
