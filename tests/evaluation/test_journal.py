"""Journals: what is finished stays, what is broken off does not count, runs do not mix."""

import json
import subprocess
import sys

import pytest
from reattend.evaluation.runner.journal import Journal, JournalError

RUN = {"scenes": 3, "strengths": {"act": {"heads": {4: (1, 2)}}}}


def test_a_line_that_was_broken_off_is_done_again(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = Journal(path, RUN)
    for number in range(3):
        journal.add(["plain", number], {"said": [number]})
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    again = Journal(path, RUN)
    assert len(again) == 2
    assert ["plain", 2] not in again
    again.add(["plain", 2], {"said": [2]})
    assert path.read_bytes() == whole
    assert [*tmp_path.iterdir()] == [path]
    assert Journal(path, RUN).get(["plain", 1]) == {"said": [1]}
    with pytest.raises(KeyError):
        again.get(["plain", 3])


def test_what_is_only_read_stays_as_it_is(tmp_path):
    path = tmp_path / "run.jsonl"
    Journal(path, RUN).add(["plain", 0], 1)
    with path.open("a") as file:
        file.write('{"key": ["plain", 1], "fou')  # being written now
    before = path.read_bytes()
    read = Journal(path)
    assert (len(read), read.run["scenes"]) == (1, 3)
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path / "no.jsonl")


def test_a_first_line_that_was_broken_off_begins_anew(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"scen')
    assert len(Journal(path, RUN)) == 0
    assert json.loads(path.read_text()) == json.loads(json.dumps(RUN))


def test_another_runs_journal_is_refused(tmp_path):
    path = tmp_path / "run.jsonl"
    Journal(path, RUN).add(["plain", 0], 1)
    with pytest.raises(JournalError, match="of another run, with scenes 3, not 4"):
        Journal(path, {**RUN, "scenes": 4})
    path.write_text("nothing of the kind\n")
    with pytest.raises(JournalError, match="no journal"):
        Journal(path, RUN)


WRITER = """
import sys, time
from pathlib import Path
from reattend.evaluation.runner.journal import Journal
journal = Journal(Path(sys.argv[1]), {"scenes": 1})
journal.add(["plain", 0], 1)
print("writes", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_who_writes(tmp_path):
    path = tmp_path / "run.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout.readline() == b"writes\n"
        with pytest.raises(JournalError, match=f"is written by process {first.pid}"):
            Journal(path, {"scenes": 1})
        assert len(Journal(path)) == 1  # to read is free
        first.kill()  # a killed process holds nothing
        first.wait()
    journal = Journal(path, {"scenes": 1})
    assert len(journal) == 1
    del journal


@pytest.mark.parametrize("damaged", [b"{", b"[1]", b'{"key": 1}', b"\xff\xfe", b"", b"[" * 100_000])
def test_a_damaged_line_is_named_by_its_number(tmp_path, damaged):
    path = tmp_path / "run.jsonl"
    Journal(path, RUN).add(["plain", 0], 1)
    whole = path.read_bytes()
    path.write_bytes(whole + damaged + b"\n" + whole.splitlines(keepends=True)[1])
    before = path.read_bytes()
    for run in (RUN, None):
        with pytest.raises(JournalError, match="line 3 is damaged"):
            Journal(path, run)
    assert path.read_bytes() == before
