"""Sums up what models answered about 2,000 scenes each, as tables and a picture.

    python benchmarks/hallucination benchmarks/results/registers*.jsonl.gz --out hallucination

writes NAME.json, NAME.md and NAME.png. --settings names those that are shown; the first is plain.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from reattend.whole_file import whole_file

from hallucination.forest import draw_differences
from hallucination.journals import LABELS, check_same, read_journal
from hallucination.summary import summarise
from hallucination.tables import write_groups, write_tables


def main() -> None:
    """Read journals, and write what they say."""
    parser = argparse.ArgumentParser(prog="hallucination", description=__doc__)
    parser.add_argument("journals", type=Path, nargs="+", metavar="JOURNAL")
    parser.add_argument("--settings", default=",".join(LABELS), help="some of the settings")
    parser.add_argument("--out", type=Path, default=Path("hallucination"), metavar="NAME")
    options = parser.parse_args()
    wanted = options.settings.split(",")
    if unknown := [name for name in wanted if name not in LABELS]:
        parser.error(f"--settings must be some of {', '.join(LABELS)}, got {', '.join(unknown)}")
    parts, runs = [], []
    for path in options.journals:
        answers, run = read_journal(path, wanted)
        check_same(path, run, runs[0] if runs else run)
        parts.append((answers, run["strengths"]))
        runs.append({**run, "settings": [*answers.records], "done": len(answers.cases)})
    models = {
        f"{number}: {Path(run['weights']).stem}": summarise([part], only="all")["all"]
        for number, (run, part) in enumerate(zip(runs, parts, strict=True), start=1)
    }
    store(options.out, {"runs": runs, "models": models, "groups": summarise(parts)})


def store(out: Path, results: dict[str, Any]) -> None:
    """Write results as JSON, tables and a picture; print the tables of all scenes."""
    write(out.with_name(f"{out.name}.json"), json.dumps(results, indent=1) + "\n")
    summary = results["groups"]
    tables = [write_tables(summary, name) for name in summary if "," not in name]
    cells = {name: found for name, found in summary.items() if "," in name}
    tables += [write_groups(cells, "kind of scene")] if cells else []
    tables += [write_groups(results["models"], "model")]
    write(out.with_name(f"{out.name}.md"), "\n".join(tables))
    draw_differences(out.with_name(f"{out.name}.png"), summary)
    print(tables[0])


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
