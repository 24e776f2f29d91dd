"""Ctrl-C: a real process stops within a second, and its journal goes on to the same table."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from patience import HANGS, within

pytest.importorskip("PIL")
pytest.importorskip("scipy")
pytest.importorskip("click")

from reattend.evaluation.runner.journal import Journal

SCENES, PIECES = 10, 40  # two questions and two settings each
INTERRUPTED = 130


def command(tiny_files, out, *more):
    weights, language = tiny_files
    return [
        sys.executable, "-m", "reattend", "evaluate", "--kind", "emoji-world-questions", "--scenes",
        f"{SCENES}", "--methods", "vhr", "--batch", "1", "--weights", f"{weights}", "--model",
        f"{language}", "--out", f"{out}", *more,
    ]  # fmt: skip


def stop(words, journal):
    """Run until some batches are done, interrupt, and give the seconds that it took to stop."""
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to workers too
    start = time.monotonic()
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == INTERRUPTED, errors
    assert "the same command goes on from here" in errors
    assert "Traceback" not in errors
    return time.monotonic() - start


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["alone", "two workers"])
def test_it_stops_within_a_second_and_goes_on(tmp_path, tiny_files, more):
    def attempt(number):
        out = tmp_path / f"run{number}"
        return stop(command(tiny_files, out, *more), out.with_suffix(".jsonl"))

    assert within(attempt, 1)
    path = max(tmp_path.glob("run*.jsonl"), key=lambda path: path.stat().st_mtime)
    done = len(Journal(path))
    assert 2 <= done < PIECES
    before = path.read_bytes()
    again = command(tiny_files, path.with_suffix(""), *more)
    shown = subprocess.run(again, capture_output=True, text=True, check=True)
    assert path.read_bytes().startswith(before)
    whole = command(tiny_files, tmp_path / "whole")
    assert subprocess.run(whole, capture_output=True, text=True, check=True).stdout == shown.stdout
    scores = [json.loads((tmp_path / f"{n}.json").read_text()) for n in (path.stem, "whole")]
    assert scores[0] == scores[1]
    assert f"{PIECES} of {PIECES}" in shown.stderr
    assert "f1: plain" in shown.stderr  # the running estimate
