"""MME, HallusionBench and MMHal: verdicts that were made elsewhere, scored by restated rules."""

import itertools
import json

import pytest
from reattend.evaluation.datasets import DataError, load_dataset
from reattend.evaluation.datasets.mme import COGNITION, PERCEPTION, read_mme
from reattend.evaluation.report.score_tables import write_scores
from reattend.evaluation.report.scores import score
from reattend.evaluation.runner.answerers import RecordedAnswerer
from reattend.evaluation.runner.evaluate import evaluate

ANSWERS = ["Yes", "No", "yes.", "y", "N", "It is.", "no, sir", "a no", "Y.", "Nope", "", "Say yes"]


def scored(data, folder):
    scores = score(evaluate(data, RecordedAnswerer(data), {"plain": []}, folder / "run.jsonl"))
    values = scores["settings"]["plain"]["measures"]
    return {name: each[0] for name, each in values.items()}, scores


def mme_label(text):
    """The public rule, restated."""
    text = text.lower().strip().replace(".", "")
    if text in ("yes", "no"):
        return text
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    return next((label for label in ("yes", "no") if label in text[:4]), "other")


def test_mme_reads_answers_by_its_rule():
    for text in ANSWERS:
        assert read_mme(text) == {"yes": True, "no": False, "other": None}[mme_label(text)], text


def test_mmes_scores(tmp_path, rng):
    wanted, rows = {}, {}
    for place, name in enumerate((*PERCEPTION, *COGNITION)):
        lines, total = [], 0.0
        pictures = 3 + place % 4
        for picture in range(pictures):
            said = [str(rng.choice(ANSWERS)) for _ in range(2)]
            right = [mme_label(a) == label for a, label in zip(said, ("yes", "no"), strict=True)]
            total += 100 * sum(right) / 2 + 100 * all(right)
            for label, text in zip(("Yes", "No"), said, strict=True):
                lines.append(f"{picture}.jpg\tIs it {label}?\t{label}\t{text}")
        wanted[name], rows[name] = total / pictures, lines
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    data = load_dataset("mme", data=tmp_path)
    found, scores = scored(data, tmp_path)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-4), name
    assert found["perception"] == pytest.approx(sum(wanted[n] for n in PERCEPTION), abs=1e-4)
    assert found["cognition"] == pytest.approx(sum(wanted[n] for n in COGNITION), abs=1e-4)
    hallucination = ("existence", "count", "position", "color")
    assert found["hallucination"] == pytest.approx(sum(wanted[n] for n in hallucination), abs=1e-4)
    every = [line.split("\t")[3] for lines in rows.values() for line in lines]
    others = sum(mme_label(text) == "other" for text in every)
    assert found["unparsed"] == pytest.approx(others / len(every), abs=1e-6)
    table = write_scores(scores)
    assert "| perception |" in table  # a line each, as there are many
    assert "rule: official (MME's)" in table
    first, _ = scored(load_dataset("mme", data=tmp_path, rule="first"), tmp_path)
    assert first["unparsed"] != found["unparsed"]


def test_a_picture_of_two_subtasks_is_drawn_again_as_one(tmp_path):
    """COCO's names mean the same picture in all of them, others do not."""

    def lines(name, said):
        pairs = zip(("Yes", "No"), said, strict=True)
        return [f"{name}\tIs it {right}?\t{right}\t{text}" for right, text in pairs]

    (tmp_path / "existence.txt").write_text("\n".join(
        [*lines("000000000009.jpg", ("Yes", "No")), *lines("0001.png", ("Yes", "Yes"))]
    ))  # fmt: skip
    (tmp_path / "color.txt").write_text("\n".join(
        [*lines("000000000009.jpg", ("No", "No")), *lines("0001.png", ("Yes", "No"))]
    ))  # fmt: skip
    data = load_dataset("mme", data=tmp_path)
    assert len({case.key for case in data.cases}) == 8
    found, scores = scored(data, tmp_path)
    assert scores["pictures"] == 3
    assert found["existence"] == 100 * 3 / 4 + 100 / 2
    assert found["color"] == 100 * 3 / 4 + 100 / 2
    assert scores["counts"]["plain"]["asked"] == [4, 2, 2]


def test_mme_names_what_is_wrong(tmp_path):
    good = ["a.jpg\tIs it?\tYes\tYes", "a.jpg\tIs it not?\tNo\tYes"]
    wrong = ["b.jpg\tIs it?\tYes\tYes", "c.jpg\tIs it?", "d.jpg\tIs it?\tPerhaps\tYes"]
    (tmp_path / "existence.txt").write_text("\n".join([*good, *wrong]))
    (tmp_path / "riddles.txt").write_text("")
    with pytest.raises(DataError) as raised:
        load_dataset("mme", data=tmp_path)
    said = {(each.file.rpartition("/")[2], each.line): each.what for each in raised.value.problems}
    assert said["riddles.txt", None] == "is no subtask of MME"
    assert said["existence.txt", 3] == "existence/b.jpg must have 2 different questions, got 1"
    assert said["existence.txt", 4] == "must have 3 or 4 fields between tabs, got 2"
    assert said["existence.txt", 5] == "the right answer must be yes or no, got 'Perhaps'"
    data = load_dataset("mme", data=tmp_path, skip_problems=True)
    assert (len(data.cases), len(data.problems)) == (2, 4)
    with pytest.raises(DataError, match="is not a folder"):
        load_dataset("mme", data=tmp_path / "nothing")
    (tmp_path / "existence.txt").write_text("\n".join(line.rpartition("\t")[0] for line in good))
    unanswered = load_dataset("mme", data=tmp_path, skip_problems=True)
    with pytest.raises(DataError, match=r"mme: has no answer to 'existence/a.jpg 1'"):
        RecordedAnswerer(unanswered)


def hallusion_rows(rng):
    rows = []
    for category, set_, figure, question in itertools.product(("VD", "VS"), "12", "012", "01"):
        rows.append(
            {"category": category, "subcategory": "map", "set_id": set_, "figure_id": figure,
             "question_id": question, "question": "Is it?",
             "gpt4v_output_gpt_check": str(rng.choice([0, 1, 2], p=[0.1, 0.8, 0.1]))}
        )  # fmt: skip
    return rows


def test_hallusion_bench_counts_questions_and_figures(tmp_path, rng):
    rows = hallusion_rows(rng)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    found, _ = scored(load_dataset("hallusion-bench", data=path), tmp_path)
    by_figure, by_question, right = {}, {}, []
    for row in rows:
        verdict, no_figure = row["gpt4v_output_gpt_check"], row["figure_id"] == "0"
        no_figure &= row["category"] == "VS"
        right.append(verdict == "1" or (no_figure and verdict == "2"))
        name = row["category"], row["set_id"]
        by_question.setdefault((*name, row["question_id"]), []).append(right[-1])
        if not no_figure:
            by_figure.setdefault((*name, row["figure_id"]), []).append(right[-1])
    assert found["aAcc"] == pytest.approx(sum(right) / len(right), abs=1e-6)
    for name, groups in (("qAcc", by_question), ("fAcc", by_figure)):
        wanted = sum(map(all, groups.values())) / len(groups)
        assert found[name] == pytest.approx(wanted, abs=1e-6)
    assert 0 < found["qAcc"] < found["aAcc"]


def test_hallusion_bench_names_what_is_wrong(tmp_path, rng):
    rows = hallusion_rows(rng)[:3]
    wrong = [rows[0], {**rows[1], "question_id": 9, "gpt4v_output_gpt_check": "maybe"},
             {"category": "VD"}]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, *wrong])))
    with pytest.raises(DataError) as raised:
        load_dataset("hallusion-bench", data=path)
    said = [str(each).rpartition("rows.jsonl:")[2] for each in raised.value.problems]
    assert said[0].startswith("4: VD_map_1_0_0 was there in row 1")
    assert said[1] == "5: the verdict must be one of correct, incorrect, unclear, got 'maybe'"
    assert said[2] == "6: has none of subcategory"
    assert len(load_dataset("hallusion-bench", data=path, skip_problems=True).cases) == 3


def test_mmhal_reads_ratings_in_every_form(tmp_path):
    rows = [
        {"question_type": "attribute", "rating": 4, "image_id": "a"},
        {"question_type": "attribute", "evaluation": "It is so.\nRating: 2, hallucination"},
        {"question_type": "counting", "choices": [{"message": {"content": "Rating: 6"}}]},
        {"score": 0},
    ]
    path = tmp_path / "ratings.json"
    path.write_text(json.dumps(rows))
    found, scores = scored(load_dataset("mmhal", data=path), tmp_path)
    assert found == {"score": 3, "hallucination": 0.5, "unparsed": 0, "attribute": 3, "counting": 6}
    assert "a judge's, imported" in write_scores(scores)
    wrong = [{"rating": 7}, {"evaluation": "Rating: 2 or Rating: 3"}, {}, {"rating": "high"}]
    path.write_text(json.dumps([*rows, *wrong]))
    with pytest.raises(DataError) as raised:
        load_dataset("mmhal", data=path)
    assert [(each.line, each.what) for each in raised.value.problems] == [
        (5, "the rating must be from 0 to 6, got 7"),
        (6, "must have one rating, got [2, 3]"),
        (7, "must have one rating, got none"),
        (8, "the rating must be a number, got 'high'"),
    ]
