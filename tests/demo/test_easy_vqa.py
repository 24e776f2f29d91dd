"""Pictures and questions that others made: read as they are, answered in turns, summed up."""

import pytest

pytest.importorskip("easy_vqa")

from reattend import VHR
from reattend.evaluation.datasets.easy_vqa import (
    Question,
    answer_questions,
    read_pictures,
    read_questions,
    run_questions,
    write_table,
)
from reattend.evaluation.loading import Loaded
from reattend.evaluation.runner.journal import Journal


def test_the_set_is_what_it_says():
    assert len(read_questions(1000)) == 9673
    assert len(read_questions(4000, "train")) == 38575
    first = read_questions(1)
    assert first[0] == Question(0, "What is the red shape?", "Triangle")
    pixels = read_pictures(first[:2])
    assert pixels.shape == (2, 120, 120, 3)
    assert (pixels[0] == pixels[1]).all()


def test_questions_are_answered_and_summed_up(tiny_model, tmp_path):
    loaded = Loaded(tiny_model, {}, (), tuned=False)
    questions = read_questions(2)[:15]
    methods = {"plain": [], "vhr": [VHR(alpha=1.0)], "act": [VHR(alpha=-3.0)]}
    journal = Journal(tmp_path / "shapes.jsonl", {})
    told = []
    summary = run_questions(loaded, methods, questions, 4, journal, lambda *at: told.append(at))
    assert told[-1] == (12, 12)
    answers = answer_questions(loaded, [], questions[:3], read_pictures(questions[:3]))
    assert journal.get(["plain", 0])["answers"][:3] == answers
    found = summary["all"]["settings"]
    said = [a for start in (0, 4, 8, 12) for a in journal.get(["plain", start])["answers"]]
    right = sum(a == q.answer for a, q in zip(said, questions, strict=True))
    assert found["plain"]["accuracy"][0] == pytest.approx(right / 15, abs=1e-5)
    assert found["vhr"]["difference"] == [0, 0, 0]
    counts = [summary[kind]["questions"] for kind in ("all", "yes or no", "shape or colour")]
    assert counts[0] == counts[1] + counts[2] == 15
    assert run_questions(loaded, methods, questions, 4, Journal(journal.path, {})) == summary
    assert "| VHR |" in write_table(summary, "yes or no")
