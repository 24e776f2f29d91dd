"""Data sets that need no file: the emoji world and easy-VQA, through the same road as any other."""

import numpy as np
import pytest

pytest.importorskip("PIL")

from reattend import VHR
from reattend.evaluation.datasets import Answer, load_dataset
from reattend.evaluation.datasets.emoji_world.cases import Cases, Cell
from reattend.evaluation.datasets.emoji_world.sentences import describe
from reattend.evaluation.datasets.emoji_world.world import NOUNS
from reattend.evaluation.report.score_tables import write_scores
from reattend.evaluation.report.scores import score
from reattend.evaluation.runner.answerers import VisionLanguageAnswerer
from reattend.evaluation.runner.evaluate import evaluate

CELLS = [Cell("clear"), Cell("dim", filler=True)]


@pytest.mark.parametrize(
    "options",
    [
        {"name": "emoji-world", "scenes": 6, "cells": CELLS},
        {"name": "emoji-world-questions", "scenes": 6, "cells": CELLS, "rule": "logits"},
        {"name": "easy-vqa", "pictures": 3},
    ],
    ids=lambda options: options["name"],
)
def test_the_whole_road(tmp_path, tiny_model, options):
    if options["name"] == "easy-vqa":
        pytest.importorskip("easy_vqa")
    data = load_dataset(**options)
    settings = {"plain": [], "vhr": [VHR(alpha=3.0)]}
    answerer = VisionLanguageAnswerer(tiny_model, "tiny")
    found = evaluate(data, answerer, settings, tmp_path / "run.jsonl", batch=4)
    again = evaluate(data, answerer, settings, tmp_path / "run.jsonl", batch=4)
    assert again.answers == found.answers
    scores = score(found)
    assert scores["pictures"] == options.get("scenes", options.get("pictures"))
    assert all(scores["settings"][name]["measures"].keys() >= data.measures.keys()
               for name in settings)  # fmt: skip
    assert "| vhr - plain |" in write_scores(scores)
    assert load_dataset(**options).identity() == data.identity()


def test_descriptions_of_scenes_are_counted_against_what_is_drawn():
    data = load_dataset("emoji-world", scenes=4, cells=CELLS)
    for case in data.cases:
        scene = case.truth
        right = data.count(case, Answer(describe(scene.nouns)))
        assert (right["made_up"], right["found"]) == (0, len(scene.nouns))
        absent = next(noun for noun in range(len(NOUNS)) if noun not in scene.nouns)
        wrong = data.count(case, Answer(f"{describe([absent])} And {NOUNS[scene.nouns[0]]}"))
        assert (wrong["made_up"], wrong["found"], wrong["unfinished"]) == (1, 1, 1)
    assert data.cases[0].prompt == "Describe the picture."
    assert len(data.cases[1].prompt.split()) > 80  # other text before the question
    dropping = load_dataset("emoji-world", scenes=1, cells=CELLS, drop_unfinished=True)
    case = dropping.cases[0]
    assert dropping.count(case, Answer("It is. A unicorn and a cow"))["said"] == 0


def test_questions_are_those_that_the_world_draws():
    drawn = Cases("test", 0, cells=CELLS, asked=5)
    for sampling in ("random", "popular", "adversarial"):
        data = load_dataset("emoji-world-questions", scenes=5, cells=CELLS, sampling=sampling)
        assert len(data.cases) == 10
        for there, absent in zip(data.cases[::2], data.cases[1::2], strict=True):
            case = drawn.draw(int(there.group))
            nouns = {each.kind: NOUNS[each.noun] for each in case.inquiries}
            assert nouns["there"] in there.prompt
            assert nouns[sampling] in absent.prompt
            assert (there.truth, absent.truth) == (True, False)
            np.testing.assert_array_equal(there.image, case.scene.pixels)
    with pytest.raises(ValueError, match="sampling must be one of random, popular, adv"):
        load_dataset("emoji-world-questions", sampling="usual")
    with pytest.raises(ValueError, match="scenes must be at least 1, got 0"):
        load_dataset("emoji-world", scenes=0)


def test_shapes_and_colours_are_read_from_answers():
    pytest.importorskip("easy_vqa")
    data = load_dataset("easy-vqa", pictures=2)
    named = next(case for case in data.cases if not case.yes_or_no)
    right = data.count(named, Answer(f"It is a {named.truth.lower()}."))
    assert (right["named"], right["named_right"], right["asked"]) == (1, 1, 0)
    assert data.count(named, Answer("I see"))["named_unparsed"] == 1
    asked = next(case for case in data.cases if case.yes_or_no)
    assert data.count(asked, Answer(f"{asked.truth}."))["right"] == 1
    assert data.count(asked, Answer("Perhaps"))["unparsed"] == 1
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        load_dataset("easy-vqa", split="val")


def test_each_token_has_its_probability(tiny_model):
    data = load_dataset("emoji-world", scenes=3, cells=CELLS[:1])
    answers = VisionLanguageAnswerer(tiny_model, "tiny")(data.cases, [])
    for answer in answers:
        assert "".join(text for text, _ in answer.tokens) == answer.text
        assert all(0 < p <= 1 for _, p in answer.tokens)
        assert Answer.from_json(answer.to_json()).text == answer.text
