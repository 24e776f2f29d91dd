"""ACT's search of the package's own model, killed at random moments: the profile of one left alone.

python tests/endurance/killed_search.py FOLDER [--kills 10] [--seed 0]

FOLDER/alone.json is searched without a kill first, unless it is there. Each killed run has a time
drawn from what is left, so that the moments lie all over the search.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def search(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Start a search, or go on with it."""
    command = [sys.executable, "-m", "reattend", "calibrate", "--out", name]
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)


def whole(folder: Path, name: str) -> float:
    """Wait for a search's end, and give its seconds."""
    start = time.monotonic()
    assert search(folder, name).wait() == 0, (folder / f"{name}.log").read_text()[-2000:]
    return time.monotonic() - start


def found(folder: Path, name: str) -> dict[str, Any]:
    """Give a profile without its date and the name of its arrays' file, whose checksum it has."""
    profile: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    del profile["created"], profile["arrays"]["file"]
    return profile


def main() -> None:
    """Search, kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder, draw = options.folder, random.Random(options.seed)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "alone.json").exists():
        print(f"alone: {whole(folder, 'alone'):.0f} s", flush=True)
    journal = folder / "killed.act.heads.jsonl"
    for kill in range(options.kills):
        running = search(folder, "killed")
        lines = len(journal.read_bytes().splitlines()) if journal.exists() else 0
        time.sleep(draw.uniform(5, 300))
        assert running.poll() is None, f"ended before kill {kill}"
        running.kill()
        running.wait()
        after = len(journal.read_bytes().splitlines()) if journal.exists() else 0
        print(f"kill {kill + 1}: {lines} lines before, {after} after", flush=True)
    print(f"the rest: {whole(folder, 'killed'):.0f} s", flush=True)
    assert found(folder, "killed") == found(folder, "alone"), "the profiles differ"
    print("the same profile, date aside")


if __name__ == "__main__":
    main()
