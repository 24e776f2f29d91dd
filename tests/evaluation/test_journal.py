"""Journals: what is finished stays, what is broken off does not count, runs do not mix."""

import json
import signal
import subprocess
import sys
import time

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
    assert json.loads(path.read_text())["run"] == json.loads(json.dumps(RUN))


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


def test_a_line_that_was_changed_is_found(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = Journal(path, RUN)
    for number in range(3):
        journal.add(["plain", number], {"said": [0.5, number]})
    whole = path.read_text()
    for line, (old, new) in enumerate([('"scenes":3', '"scenes":4'), ("[0.5,0]", "[0.6,0]")], 1):
        path.write_text(whole.replace(old, new, 1))
        with pytest.raises(
            JournalError, match=f"line {line} is damaged: .*its checksum is another"
        ):
            Journal(path)
    path.write_text(whole.replace('"journal":2', '"journal":9'))
    with pytest.raises(
        JournalError, match="of version 9, and this reattend reads versions up to 2"
    ):
        Journal(path)


@pytest.mark.parametrize("found", [1, {"said": [1]}])
def test_two_lines_of_one_piece_are_refused(tmp_path, found):
    path = tmp_path / "run.jsonl"
    journal = Journal(path, RUN)
    journal.add(["plain", 0], found)
    with pytest.raises(ValueError, match=r"key must be new to the journal, got \['plain', 0\]"):
        journal.add(["plain", 0], 2)
    other = Journal(tmp_path / "other.jsonl", RUN)
    other.add(["plain", 0], found)
    with path.open("ab") as file:
        file.write(other.path.read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(JournalError, match=r'line 3 is damaged: .*\["plain", 0\] was there before'):
        Journal(path)


def test_a_journal_from_before_checksums_goes_on(tmp_path):
    path = tmp_path / "run.jsonl"
    old = json.dumps(RUN) + "\n" + json.dumps({"key": ["plain", 0], "found": 7}) + "\n"
    path.write_text(old)
    journal = Journal(path, RUN)
    assert journal.get(["plain", 0]) == 7
    journal.add(["plain", 1], 8)
    again = Journal(path)
    assert (again.run, again.get(["plain", 1])) == (json.loads(json.dumps(RUN)), 8)


KILLED = """
import sys
from pathlib import Path
from reattend.evaluation.runner.journal import Journal
journal = Journal(Path(sys.argv[1]), {"scenes": 1})
number = len(journal)
while True:
    journal.add(["plain", number], {"said": "x" * 5000, "number": number})
    print(number, flush=True)
    number += 1
"""


def test_kill_9_loses_at_most_what_was_being_written(tmp_path, rng):
    path, known = tmp_path / "run.jsonl", -1
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(float(rng.random() * 0.1))
        process.send_signal(signal.SIGKILL)
        told = process.communicate()[0].split()
        known = max([known, *map(int, told[:-1])])
        journal = Journal(path, {"scenes": 1})
        assert len(journal) > known
        assert [journal.get(key)["number"] for key in journal] == [*range(len(journal))]
