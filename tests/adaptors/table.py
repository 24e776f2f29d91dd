"""The README's table of models, which tests fill in.

`python tests/adaptors/table.py` writes it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "models.md"


class Table:
    """Model, layers found, image span found, methods checked."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def note(self, case: Any, method: str, checked: bool, session: Any = None) -> None:
        """Note that a model with a method equals its formula, or refuses it."""
        row = self.rows.setdefault(case.name, {"layers": 0, "spans": [], "methods": {}})
        row["methods"][method] = checked
        if session is not None:
            row["layers"] = session.anatomy.num_layers
            row["spans"] = session.image_spans if case.image else []

    def markdown(self) -> str:
        """Write the table as the README shows it."""
        lines = [
            "| model | layers found | image tokens found in two prompts | methods checked |",
            "| --- | --- | --- | --- |",
        ]
        for name, row in self.rows.items():
            spans = "; ".join(_span(spans) for spans in row["spans"]) or "text model"
            methods = ", ".join(m if ok else f"({m} refused)" for m, ok in row["methods"].items())
            lines.append(f"| {name} | {row['layers']} | {spans} | {methods} |")
        return "\n".join(lines) + "\n"


def _span(spans: list[tuple[int, int]]) -> str:
    return ", ".join(f"{start} to {end - 1}" for start, end in spans) or "none"


TABLE = Table()


class _Writer:
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        from table import TABLE as FILLED

        FILE.write_text(FILLED.markdown())


if __name__ == "__main__":
    import pytest

    file = str(Path(__file__).parent / "test_transformers.py")
    sys.exit(pytest.main([file, "-q", "-k", "formula"], plugins=[_Writer()]))
