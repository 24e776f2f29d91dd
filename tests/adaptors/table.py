"""The manual's table of models, which tests fill in.

`python tests/adaptors/table.py` writes it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "vision_models.md"
BEGIN, END = "<!-- models -->\n", "<!-- /models -->"


class Table:
    """Model, layers found, image span found, methods checked."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def note(self, case: Any, method: str, session: Any) -> None:
        """Note that a model with a method equals its formula."""
        row = self.rows.setdefault(case.name, {"methods": []})
        row["methods"].append(method)
        row["layers"] = session.structure.num_layers
        row["spans"] = session.image_spans if case.image else []

    def markdown(self) -> str:
        """Write the table as the page shows it."""
        lines = [
            "| model | layers found | image tokens found in two prompts | methods checked |",
            "| --- | --- | --- | --- |",
        ]
        for name, row in self.rows.items():
            spans = "; ".join(_span(spans) for spans in row["spans"]) or "text model"
            lines.append(f"| {name} | {row['layers']} | {spans} | {', '.join(row['methods'])} |")
        return "\n".join(lines) + "\n"


def _span(spans: list[tuple[int, int]]) -> str:
    return ", ".join(f"{start} to {end - 1}" for start, end in spans) or "none"


TABLE = Table()


def parts() -> tuple[str, str, str]:
    """Give the page before the table, the table, and what follows."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    return before + BEGIN, table, END + after


class _Writer:
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        from table import TABLE as FILLED

        before, _, after = parts()
        PAGE.write_text(before + FILLED.markdown() + after)


if __name__ == "__main__":
    import pytest

    here = Path(__file__).parent
    files = [str(here / name) for name in ("test_smollm2.py", "test_transformers.py")]
    sys.exit(pytest.main([*files, "-q", "-k", "formula"], plugins=[_Writer()]))
