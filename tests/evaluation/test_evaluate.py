"""A user's own model and COCO folder: POPE and CHAIR with methods, resumed, and compared."""

import json
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("transformers")

import torch
from reattend import ACT, VAR, VHR, HeadSteering, HeadVectors, Method
from reattend.adaptors.transformers import attached
from reattend.evaluation.datasets import Answer, DataError, load_dataset
from reattend.evaluation.datasets.counting import summed
from reattend.evaluation.report.comparison import compare, verdict
from reattend.evaluation.report.score_tables import write_comparison, write_scores
from reattend.evaluation.report.scores import score
from reattend.evaluation.runner.answerers import (
    FileAnswerer,
    FunctionAnswerer,
    TransformersAnswerer,
    VisionLanguageAnswerer,
    yes_margin,
)
from reattend.evaluation.runner.evaluate import AnswererOf, evaluate
from reattend.evaluation.runner.journal import Journal, JournalError
from reattend.testing.coco_folder import write_coco_folder
from reattend.testing.tiny_llava import tiny_llava

SETTINGS = {"plain": [], "var": [VAR(sink_dims=(3,), tau=1.0)], "vhr": [VHR()], "act": [ACT()]}


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return write_coco_folder(tmp_path_factory.mktemp("coco") / "folder", pictures=12)


@pytest.fixture(scope="module")
def answerer():
    return TransformersAnswerer(*tiny_llava())


def pope(coco, **options):
    return load_dataset("pope-from-instances", data=coco / "instances_val2014.json",
                        images=coco / "val2014", pictures=4, **options)  # fmt: skip


def chair(coco):
    return load_dataset("chair", data=coco / "instances_val2014.json", images=coco / "val2014",
                        captions=coco / "captions_val2014.json", max_new_tokens=12)  # fmt: skip


def test_pope_and_chair_of_a_llava_model(tmp_path, coco, answerer):
    for data in (pope(coco, rule="logits"), chair(coco)):
        found = evaluate(data, answerer, SETTINGS, tmp_path / f"{data.name}.jsonl", batch=5)
        assert {name: len(each) for name, each in found.answers.items()} == dict.fromkeys(
            SETTINGS, len(data.cases)
        )
        scores = json.loads(json.dumps(score(found)))
        derived = {"unsure"} if data.name == "chair" else set()
        assert scores["settings"].keys() == SETTINGS.keys() | derived
        changed = [name for name in SETTINGS if found.answers[name] != found.answers["plain"]]
        assert "vhr" in changed  # it doubles heads at every row
        table = write_scores(scores)
        assert "| vhr - plain |" in table
        assert all(measure in table for measure in data.measures)


def test_a_batch_answers_what_each_case_alone_is_answered(coco, answerer):
    """Padding, template and picture are right: as generate alone says it, one by one."""
    data = pope(coco)
    cases = data.cases[:5]
    together = answerer(cases, [])
    model, processor = answerer.model, answerer.processor
    from PIL import Image

    for case, answer in zip(cases, together, strict=True):
        text = f"USER: <image> {case.prompt} ASSISTANT:"
        with Image.open(case.image) as picture:
            inputs = processor(images=[picture.convert("RGB")], text=[text], return_tensors="pt")
        with torch.no_grad():
            found = model.generate(**inputs, do_sample=False, max_new_tokens=case.max_new_tokens,
                                   output_logits=True, return_dict_in_generate=True)  # fmt: skip
        said = found.sequences[0, inputs["input_ids"].shape[1] :]
        assert answer.text == processor.tokenizer.decode(said, skip_special_tokens=True).strip()
        first = found.logits[0][0]
        assert answer.margin == pytest.approx(
            float(first[[7, 9]].max() - first[[8, 10]].max()), abs=1e-4
        )
        assert answerer([case], [])[0].text == answer.text
    assert processor.tokenizer.padding_side == "right"
    with attached(model):
        pass


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_each_token_of_a_description_has_its_probability(coco, options):
    model, processor = tiny_llava()
    answerer = TransformersAnswerer(model, processor, **options)
    case = chair(coco).cases[0]
    (answer,) = answerer([case], [])
    assert "".join(text for text, _ in answer.tokens) == answer.text
    from PIL import Image

    text = f"USER: <image> {case.prompt} ASSISTANT:"
    with Image.open(case.image) as picture:
        inputs = processor(images=[picture.convert("RGB")], text=[text], return_tensors="pt")
    with torch.no_grad():
        whole = model.generate(**inputs, do_sample=False, max_new_tokens=12, **options)
        start = inputs["input_ids"].shape[1]
        inputs = {**inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)}
        sure = model(**inputs).logits[0].softmax(-1)
    wanted = [
        (processor.tokenizer.decode([token]), float(sure[place - 1, token]))
        for place, token in enumerate(whole[0].tolist())
        if place >= start and processor.tokenizer.decode([token], skip_special_tokens=True)
    ]
    assert [(text.strip(), pytest.approx(p, rel=1e-3)) for text, p in answer.tokens] == wanted
    assert len(wanted) > 3
    (question,) = answerer(pope(coco).cases[:1], [])
    assert question.margin is not None
    assert not question.tokens


class Counting:
    """Counts batches, and fails at one of them."""

    def __init__(self, answerer, fail_at=None):
        self.answerer, self.fail_at, self.calls = answerer, fail_at, 0

    def identity(self):
        return self.answerer.identity()

    def __call__(self, cases, methods):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return self.answerer(cases, methods)


def test_a_run_that_was_stopped_goes_on_and_another_is_refused(tmp_path, coco, answerer):
    data, settings = pope(coco), {"plain": [], "vhr": [VHR()]}
    whole = evaluate(data, answerer, settings, tmp_path / "whole.jsonl", batch=8)
    path = tmp_path / "run.jsonl"
    first = Counting(answerer, fail_at=4)
    with pytest.raises(KeyboardInterrupt):
        evaluate(data, first, settings, path, batch=8)
    second = Counting(answerer)
    again = evaluate(data, second, settings, path, batch=8)
    batches = 2 * -(-len(data.cases) // 8)
    assert second.calls == batches - 3
    assert again.answers == whole.answers
    # Another setting joins the same run; what is there is not answered again.
    third = Counting(answerer)
    more = evaluate(data, third, {**settings, "strong": [VHR(alpha=3.0)]}, path, batch=8)
    assert third.calls == batches // 2
    assert more.answers["plain"] == whole.answers["plain"]
    other = pope(coco, seed=1)
    with pytest.raises(JournalError, match="of another run, with data"):
        evaluate(other, answerer, settings, path, batch=8)
    with pytest.raises(JournalError, match="of another run, with model"):
        evaluate(data, FunctionAnswerer(len, "other"), settings, path, batch=8)


@pytest.mark.parametrize("spread", [False, True])
def test_a_wrong_number_of_answers_is_not_kept(tmp_path, coco, spread):
    data, path = pope(coco), tmp_path / "run.jsonl"

    class Short:
        lacks = 2

        def identity(self):
            return {"model": "short"}

        def __call__(self, cases, methods):
            return [Answer("Yes")] * (len(cases) - self.lacks)

    executor, model = ThreadPoolExecutor(1) if spread else None, Short()
    with pytest.raises(ValueError, match="an answer for each of 8 cases, got 6"):
        evaluate(data, model, {"plain": []}, path, executor=executor)
    assert len(Journal(path)) == 0
    model.lacks = 0
    found = evaluate(data, model, {"plain": []}, path, executor=executor)
    assert len(found.answers["plain"]) == len(data.cases)


def test_settings_that_differ_in_their_arrays_alone_are_two(tmp_path, coco):
    """The journal knows methods by what they look like: vectors must show."""
    data = pope(coco)
    vectors = [HeadVectors({2: np.full((2, 2000), each)}) for each in (0.1, 0.1 + 1e-6)]
    settings = {
        "one": [HeadSteering(vectors[0])], "other": [HeadSteering(vectors[1])],
        "gated": [Gated(np.zeros(2000))], "ungated": [Gated(np.eye(1, 2000, 1000)[0])],
    }  # fmt: skip
    seen = []

    def answer(cases, methods):
        (method,) = methods
        if method not in seen:
            seen.append(method)
        return [str(seen.index(method))] * len(cases)

    model = FunctionAnswerer(answer, "which")
    found = evaluate(data, model, settings, tmp_path / "run.jsonl", batch=99)
    said = {name: answers[0].text for name, answers in found.answers.items()}
    assert said == {"one": "0", "other": "1", "gated": "2", "ungated": "3"}


@dataclass(frozen=True, eq=False)
class Gated(Method):
    """One of somebody's own, with an array."""

    gates: Any = None

    def plan(self, call, state):
        return None, None


def read_llava():
    return TransformersAnswerer(*tiny_llava())


def test_processes_give_the_same_table(tmp_path, coco, answerer):
    data, settings = pope(coco), {"plain": [], "vhr": [VHR()]}
    alone = evaluate(data, answerer, settings, tmp_path / "alone.jsonl")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        spread = evaluate(data, AnswererOf(read_llava), settings, tmp_path / "spread.jsonl",
                          executor=executor)  # fmt: skip
    texts = [{n: [a.text for a in e] for n, e in each.answers.items()} for each in (alone, spread)]
    assert texts[0] == texts[1]
    assert write_scores(score(alone)) == write_scores(score(spread))


def test_answers_of_a_file_join_by_key(tmp_path, coco):
    data = pope(coco)
    rows = [{"question_id": int(c.key), "answer": "Yes" if c.truth else "No"} for c in data.cases]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, rows[::-1])))
    found = evaluate(data, FileAnswerer(path, data.cases), {"plain": []}, tmp_path / "run.jsonl")
    assert score(found)["settings"]["plain"]["measures"]["f1"] == [1.0, 1.0, 1.0]
    wrong = [*rows[1:], rows[1], {"question_id": 999, "answer": "No"}, {"question_id": 3}]
    path.write_text("\n".join(map(json.dumps, wrong)))
    with pytest.raises(DataError) as raised:
        FileAnswerer(path, data.cases)
    last = len(wrong)
    assert [each.line for each in raised.value.problems] == [last - 2, last - 1, last, None]
    assert "has no answer to '1'" in str(raised.value)
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="methods must be none"):
        FileAnswerer(path, data.cases)(data.cases, [VHR()])


def saying(right):
    """Answer so many of each ten questions right."""

    def answer(cases, methods):
        return ["Yes" if c.truth == (int(c.key) % 10 < right) else "No" for c in cases]

    return FunctionAnswerer(answer, f"{right} of 10")


def test_runs_are_compared_pair_by_pair(tmp_path, coco):
    data = load_dataset("pope-from-instances", data=coco / "instances_val2014.json", pictures=12)
    runs = [
        evaluate(data, saying(right), {"plain": []}, tmp_path / f"{right}.jsonl")
        for right in (9, 9, 2)
    ]
    scores = [json.loads(json.dumps(score(run))) for run in runs]
    same, worse = compare(scores[0], scores[1]), compare(scores[0], scores[2])
    assert {each["verdict"] for each in same["measures"].values()} == {"no difference shown"}
    assert {each["p"] for each in same["measures"].values()} == {1.0}
    assert worse["measures"]["accuracy"]["verdict"] == "lower"
    assert worse["measures"]["accuracy"]["p"] < 0.01
    assert same["missing"] == ["brighten", "unsure"]
    sums = [summed(data, run.answers["plain"]) for run in runs]
    by_hand = (sums[2]["right"].sum() - sums[0]["right"].sum()) / len(data.cases)
    assert worse["measures"]["accuracy"]["difference"][0] == pytest.approx(by_hand, abs=1e-6)
    other = evaluate(pope(coco), saying(9), {"plain": []}, tmp_path / "other.jsonl")
    with pytest.raises(ValueError, match="must be of the same data"):
        compare(scores[0], score(other))
    relabelled = [replace(case, truth=not case.truth) for case in data.cases]
    other = score(runs[0]._replace(dataset=replace(data, cases=relabelled)))
    with pytest.raises(ValueError, match="must be of the same data"):
        compare(scores[0], other)
    fewer = {**scores[1], "measures": {**scores[1]["measures"], "ratios": {}}}
    with pytest.raises(ValueError, match="runs must have the same measures"):
        compare(scores[0], fewer)
    with pytest.raises(ValueError, match="setting must be one of plain, got 'vhr'"):
        compare(scores[0], scores[1], "vhr")
    with pytest.raises(ValueError, match="must be scores of an evaluation"):
        compare({}, scores[1])
    assert verdict([0.1, 0.0, 0.2]) == "no difference shown"


def describing(sure):
    """Name a cat and a giraffe, of which the second is never there, as sure as is said."""

    def answer(cases, methods):
        tokens = (("A", 1.0), (" cat", 0.9), (" and a", 1.0), (" giraffe", sure))
        return [Answer("".join(text for text, _ in tokens), tokens=tokens) for _ in cases]

    return FunctionAnswerer(answer, f"giraffes {sure}")


def test_descriptions_are_compared_where_as_much_is_said(tmp_path, coco):
    """Who is surer of the giraffe makes more up, once plain leaves out what it is unsure of."""
    data = chair(coco)
    runs = [
        score(evaluate(data, describing(sure), {"plain": [], "brighten": []}, tmp_path / f"{n}"))
        for n, sure in enumerate((0.4, 0.95))
    ]
    unsure = runs[0]["settings"]["unsure"]
    has_cat = [data_cat(data) in data.naming.there(case) for case in data.cases]
    there = sum(has_cat)
    assert unsure["measures"]["mentions"][0] == 1
    assert unsure["measures"]["chair_i"][0] == pytest.approx(1 - there / 12)
    assert runs[1]["settings"]["unsure"]["measures"]["mentions"][0] == 2
    found = compare(*json.loads(json.dumps(runs)))
    same = found["measures"]["chair_i"]
    assert (same["difference"][0], same["verdict"]) == (0, "no difference shown")
    # One word of two each: plain keeps its cat, the other its giraffe.
    assert found["matched"]["length"]["difference"][0] == pytest.approx(0)
    # Both keep all cats, which are equally sure; before them the other is sure of its giraffes.
    assert found["matched"]["recall"]["difference"][0] == pytest.approx(
        (24 - there) / 24 - (12 - there) / 12, abs=1e-6
    )
    assert found["baselines"].keys() == {"brighten", "unsure"}
    assert found["missing"] == []
    against = found["baselines"]["unsure"]["measures"]["chair_i"]
    assert against["verdict"] == "no difference shown"  # the second's own: it is sure of all
    for form in ("markdown", "latex", "html"):
        table = write_comparison(found, form)
        assert "hallucinated at matched recall" in table
        assert "no difference shown" in table


def test_the_baseline_without_unsure_words_keeps_a_later_mention_that_is_sure(tmp_path, coco):
    data = chair(coco)
    tokens = (("A", 1.0), (" cat", 0.4), (" and a", 1.0), (" cat", 0.9))

    def answer(cases, methods):
        return [Answer("".join(text for text, _ in tokens), tokens=tokens) for _ in cases]

    run = evaluate(data, FunctionAnswerer(answer, "cats"), {"plain": []}, tmp_path / "run.jsonl")
    scores = score(run)
    assert scores["settings"]["unsure"]["measures"]["mentions"][0] == 1
    assert [[each[0] for each in some] for some in scores["words"]["unsure"]] == [[0.9]] * 12


def data_cat(data):
    (mention,) = data.naming.mentions("A cat")
    return mention.noun


def test_what_was_found_so_far_is_told_with_its_interval(tmp_path, coco):
    data, told = pope(coco), []

    def progress(done, whole, so_far):
        told.append((done, whole, so_far()))

    settings = {"plain": [], "same": [VHR()]}
    found = evaluate(data, saying(7), settings, tmp_path / "run.jsonl", batch=6, progress=progress)
    whole = 2 * -(-len(data.cases) // 6)
    assert [each[:2] for each in told] == [(n, whole) for n in range(1, whole + 1)]
    assert re.fullmatch(r"f1: plain \d+\.\d( \[[\d.]+, [\d.]+\])?", told[0][2])
    last = score(found)["settings"]["plain"]["measures"]["f1"]
    shown = "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * each for each in last))
    assert told[-1][2] == f"f1: plain {shown}, same {shown}"


def test_tables_in_three_languages(tmp_path, coco):
    data = pope(coco)
    found = evaluate(data, saying(7), {"plain": [], "a_b": []}, tmp_path / "run.jsonl")
    scores = score(found)
    assert write_scores(scores, "latex").count(r"\\") == 4
    assert r"a\_b" in write_scores(scores, "latex")
    assert write_scores(scores, "html").count("<tr>") == 4
    assert "rule: official" in write_scores(scores)
    with pytest.raises(ValueError, match="form must be one of markdown, latex, html"):
        write_scores(scores, "word")


def test_the_shipped_kind_of_model_answers_too(tmp_path, coco, tiny_model):
    data = pope(coco, rule="logits")
    answerer = VisionLanguageAnswerer(tiny_model, "tiny")
    answers = answerer(data.cases[:3], [])
    alone = [answerer([case], [])[0] for case in data.cases[:3]]
    assert [each.text for each in answers] == [each.text for each in alone]
    np.testing.assert_allclose([a.margin for a in answers], [a.margin for a in alone], atol=1e-4)
    assert answerer(data.cases[:3], [VHR(alpha=3.0)]) != answers


def test_a_tokenizer_that_does_not_tell_yes_from_no_has_no_margin():
    assert yes_margin(np.arange(3.0), lambda word: 1) is None
    assert yes_margin(np.arange(3.0), lambda word: len(word) - 1) == pytest.approx(1.0)
    assert Answer("Yes").margin is None
