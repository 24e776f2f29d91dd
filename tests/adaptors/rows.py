"""What came out for each family of transformers: rows.json, and docs/models.md, written from it.

`python tests/adaptors/rows.py` writes the page anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROWS = Path(__file__).with_name("rows.json")
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- sweep -->\n", "<!-- /sweep -->"
UNBUILT = "cannot be built tiny"


class Row(NamedTuple):
    """What came out for a family."""

    family: str
    result: str  # exact, exact without methods, refused, wrong, cannot be built tiny
    picture: str = ""  # the convention by which it was given some
    off: float = 0.0  # of logits, without a method
    methods: str = ""
    why: str = ""
    transformers: str = ""  # the version
    swept: str = ""  # the commit, and its day
    beside: str = ""  # a package that the model is built with, and its version

    def markdown(self, version: str) -> str:
        """Give the row as the page shows it, which is of a version."""
        off = f"{self.off:.0e}" if self.result.startswith("exact") else ""
        other = f"transformers {self.transformers}" if self.transformers != version else ""
        needed = " and ".join(each for each in (other, self.beside) if each)
        why = "; ".join(each for each in (f"with {needed}" if needed else "", self.why) if each)
        return "| " + " | ".join((*self[:3], off, self.methods, why)) + " |"

    def finding(self) -> Row:
        """Give what another sweep must find too, rounding aside."""
        return self._replace(off=0.0, swept="")


def stored() -> dict[str, dict[str, Row]]:
    """Give the rows by kind and family."""
    found = json.loads(ROWS.read_text())
    return {
        kind: {name: Row(name, **row) for name, row in rows.items()} for kind, rows in found.items()
    }


def store(kinds: dict[str, dict[str, Row]]) -> None:
    """Write the rows, a line each, and the page."""
    lines = []
    for kind, rows in kinds.items():
        said = [
            f"    {json.dumps(name)}: {json.dumps(_short(rows[name]))}" for name in sorted(rows)
        ]
        lines.append(f"  {json.dumps(kind)}: {{\n" + ",\n".join(said) + "\n  }")
    ROWS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + tables(kinds) + END + rest.partition(END)[2])


def _short(row: Row) -> dict[str, str | float]:
    values = {**row._asdict(), "off": float(f"{row.off:.0e}")}
    del values["family"]
    return {name: value for name, value in values.items() if value}


def tables(kinds: dict[str, dict[str, Row]]) -> str:
    """Write what stands between the marks of the page."""
    rows = [row for each in kinds.values() for row in each.values()]
    versions = sorted({row.transformers for row in rows}, key=_numbers)
    parts = [_table(each, kind, versions[-1]) for kind, each in kinds.items()]
    return f"Together: {_counts(rows)}. {_when(rows)}\n\n" + "\n".join(parts)


def _when(rows: list[Row]) -> str:
    days: dict[str, list[str]] = {}
    for row in rows:
        days.setdefault(row.swept, []).append(row.family)
    most, *others = sorted(days, key=lambda day: (not day, -len(days[day])))
    exceptions = [f"; {', '.join(sorted(days[day]))}: {day or 'before'}" for day in others]
    return f"Swept at commit {most}{''.join(exceptions)}."


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2]]


def _counts(rows: Iterable[Row]) -> str:
    results = [row.result for row in rows]
    said = ", ".join(f"{results.count(kind)} {kind}" for kind in sorted(set(results)))
    built = len(results) - results.count(UNBUILT)
    share = results.count("exact") / built
    return f"{said}; of the {built} that can be built {share:.0%} are exact"


def _table(rows: dict[str, Row], kind: str, version: str) -> str:
    lines = [
        "| family | result | pictures | logits within | methods attach to | |",
        "| --- | --- | --- | --- | --- | --- |",
        *(rows[name].markdown(version) for name in sorted(rows)),
    ]
    said = _counts(rows.values())
    head = f"{len(rows)} {kind} families of transformers {version}: {said}."
    return f"{head}\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    store(stored())
