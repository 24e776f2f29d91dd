"""AMBER: its files read, its scorer restated, and what differs from it written down."""

import json

import numpy as np
import pytest
from reattend.evaluation.datasets import Answer, DataError, load_dataset
from reattend.evaluation.datasets.amber import spacy_similarity
from reattend.evaluation.report.scores import score
from reattend.evaluation.runner.answerers import FileAnswerer
from reattend.evaluation.runner.evaluate import evaluate

RELATION = {
    "dog": ["puppy", "pet"], "cat": ["kitten", "pet"], "tree": ["trunk"], "sky": [], "cloud": [],
    "grass": ["lawn"], "car": ["wheel"], "beach": ["sand"],
}  # fmt: skip
SAFE = ["picture", "wheel"]
GENERATIVE = [
    {"id": 1, "type": "generative", "truth": ["dog", "cat", "grass"], "hallu": ["tree", "sky"]},
    {"id": 2, "type": "generative", "truth": ["car", "sky"], "hallu": ["cloud"]},
]
TYPES = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "relation": "relation",
}
QUESTIONS = [
    {"id": 3 + place, "type": kind, "truth": truth}
    for place, (kind, truth) in enumerate((k, t) for k in TYPES for t in ("yes", "no", "no"))
]
SAID = {
    1: "a puppy and a dog on the lawn by a tree, a picture of a kitten and a beach",
    2: "a cloud, a trunk",
}


@pytest.fixture
def amber(tmp_path):
    data = tmp_path / "data"
    (data / "query").mkdir(parents=True)
    rows = [*GENERATIVE, *QUESTIONS]
    (data / "annotations.json").write_text(json.dumps(rows))
    (data / "relation.json").write_text(json.dumps(RELATION))
    (data / "safe_words.txt").write_text("\n".join(SAFE) + "\n")
    (data / "metrics.txt").write_text("chair_num=0.001\nchair_score=0\n")
    queries = [
        {"id": row["id"], "image": f"AMBER_{row['id']}.jpg",
         "query": "Describe this image." if row["type"] == "generative" else "Is it so?"}
        for row in rows
    ]  # fmt: skip
    (data / "query" / "query_all.json").write_text(json.dumps(queries))
    return data


def official(rows, said, similar):
    """The public scorer's sums, from its description; nouns are taken apart by blanks."""
    association = RELATION
    known = [w for key, some in association.items() for w in (key, *some)]
    sums = dict.fromkeys(
        ["made", "kept", "covered", "there", "expected_named", "expected", "clean", "described"], 0
    )
    for row in rows:
        if row["type"] != "generative":
            continue
        nouns = [w for w in said[row["id"]].replace(",", "").split() if w in known]
        targets = {}
        for side in ("truth", "hallu"):
            also = [(w, n) for n, name in enumerate(row[side]) for w in association[name]]
            targets[side] = also + [(name, n) for n, name in enumerate(row[side])]
        covered, expected, wrong = set(), set(), 0
        for noun in nouns:
            if noun in SAFE:
                continue
            hits = [n for w, n in targets["truth"] if w == noun]
            if hits:
                covered.add(hits[0])
                continue
            hits = [n for w, n in targets["hallu"] if w == noun]
            expected.update(hits[:1])
            expected.update([n for w, n in targets["hallu"] if similar(noun, w)][:1])
            hits = [n for w, n in targets["truth"] if similar(noun, w)]
            covered.update(hits[:1])
            wrong += not hits
        found = (wrong, len(nouns), len(covered), len(row["truth"]), len(expected),
                 len(row["hallu"]), wrong == 0, 1)  # fmt: skip
        sums = {name: sums[name] + each for name, each in zip(sums, found, strict=True)}

    def percent(part, whole):
        return round(sums[part] / (sums[whole] + 0.001) * 100, 1)

    return {"chair": percent("made", "kept"), "cover": percent("covered", "there"),
            "hal": round(100 - percent("clean", "described"), 1),
            "cog": percent("expected_named", "expected")}  # fmt: skip


def official_questions(rows, said):
    right = sum(said[row["id"]] == row["truth"].capitalize() for row in rows)
    no = [row for row in rows if said[row["id"]] == "No"]
    true_no = [row for row in rows if row["truth"] == "no"]
    both = sum(row["truth"] == "no" for row in no)
    precision = round(both / (len(no) + 0.001) * 100, 1) / 100
    recall = round(both / (len(true_no) + 0.001) * 100, 1) / 100
    f1 = 2 * precision * recall / (precision + recall + 0.0001)
    accuracy = right / (len(rows) + 0.001)
    return {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1}


def measures(data, said, folder, **settings):
    path = folder / "answers.json"
    path.write_text(json.dumps([{"id": key, "response": text} for key, text in said.items()]))
    found = evaluate(data, FileAnswerer(path, data.cases), {"plain": []}, folder / "run.jsonl")
    values = score(found)["settings"]["plain"]["measures"]
    return {name: each[0] for name, each in values.items()}


@pytest.mark.parametrize("similar", [None, lambda a, b: {a, b} == {"beach", "grass"}])
def test_the_public_scorers_figures(tmp_path, amber, similar, rng):
    data = load_dataset("amber", data=amber / "query" / "query_all.json", similarity=similar)
    asked = {row["id"]: str(rng.choice(["Yes", "No", "no", "No."])) for row in QUESTIONS}
    found = measures(data, {**SAID, **asked}, tmp_path)
    wanted = official(GENERATIVE, SAID, similar or (lambda a, b: False))
    for name, value in wanted.items():
        assert 100 * found[name] == pytest.approx(value, abs=0.1), name  # of 0.001 beside 3
    for name, value in official_questions(QUESTIONS, asked).items():
        assert found[name] == pytest.approx(value, abs=0.0011), name
    for kind, dimension in TYPES.items():
        rows = [row for row in QUESTIONS if row["type"] == kind]
        value = official_questions(rows, asked)["accuracy"]
        assert found[f"{dimension}_accuracy"] == pytest.approx(value, abs=0.0011)
    attribute = [row for row in QUESTIONS if "attribute" in row["type"]]
    value = official_questions(attribute, asked)["f1"]
    assert found["attribute_f1"] == pytest.approx(value, abs=0.0011)
    assert found["unparsed"] == sum(a in ("no", "No.") for a in asked.values()) / len(QUESTIONS)
    assert found["amber"] == pytest.approx((1 - found["chair"] + found["f1"]) / 2, abs=1e-6)


def test_other_rules_read_more_and_parts_of_it_load(tmp_path, amber):
    asked = {row["id"]: "no." for row in QUESTIONS}
    queries = json.loads((amber / "query" / "query_all.json").read_text())
    part = amber / "query" / "query_discriminative.json"
    part.write_text(json.dumps(queries[2:]))
    data = load_dataset("amber", data=part, rule="first")
    found = measures(data, asked, tmp_path)
    assert (found["recall"], found["unparsed"], found["yes"]) == (1, 0, 0)
    assert "chair" not in found
    assert "amber" not in found
    strict = load_dataset("amber", data=part)
    assert strict.count(strict.cases[0], Answer("no."))["unparsed"] == 1
    assert data.rules == {"rule": "first", "positive class": "no"}


def test_it_is_said_if_nothing_looked_for_similar_words(amber):
    data = load_dataset("amber", data=amber / "query" / "query_all.json", similarity=None)
    assert data.rules["similar words"] == "not looked at"
    import importlib.util

    if importlib.util.find_spec("en_core_web_lg") is None:
        auto = load_dataset("amber", data=amber / "query" / "query_all.json")
        assert auto.rules["similar words"].startswith("not looked at, for want of spaCy's")


def test_spacys_vectors_say_what_is_similar(tmp_path, amber):
    spacy = pytest.importorskip("spacy")
    read = spacy.blank("en")
    for word, vector in {"grass": (1, 0), "beach": (1, 0.2), "sky": (0, 1)}.items():
        read.vocab.set_vector(word, np.array(vector, np.float32))
    read.to_disk(tmp_path / "words")
    similar = spacy_similarity(tmp_path / "words")
    assert similar("grass", "beach")
    assert not similar("grass", "sky")
    assert not similar("grass", "unknown")
    data = load_dataset("amber", data=amber / "query" / "query_all.json",
                        similarity=tmp_path / "words")  # fmt: skip
    assert data.count(data.cases[0], Answer("A beach"))["made_up"] == 0
    assert data.rules["similar words"] == "by spaCy's words, above 0.8"


def test_a_last_sentence_goes_by_option(amber):
    path = amber / "query" / "query_all.json"
    text = "A dog. And a beach and a"
    for drop, made_up in ((False, 1), (True, 0)):
        data = load_dataset("amber", data=path, similarity=None, drop_unfinished=drop)
        counts = data.count(data.cases[0], Answer(text))
        assert (counts["made_up"], counts["unfinished"]) == (made_up, 1)


def test_what_is_wrong_is_named(tmp_path, amber):
    path = amber / "query" / "query_all.json"
    queries = json.loads(path.read_text())
    wrong = [queries[1], {**queries[0], "id": 99}, {"id": 5, "query": "?"}, "text"]
    path.write_text(json.dumps([*queries, *wrong]))
    (amber / "metrics.txt").write_text("chair_num=0.001\nchair_score=7\n")
    rows = json.loads((amber / "annotations.json").read_text())
    rows[-1] = {"id": rows[-1]["id"], "type": "riddle", "truth": "no"}
    (amber / "annotations.json").write_text(json.dumps(rows))
    with pytest.raises(DataError) as raised:
        load_dataset("amber", data=path, images=amber)
    said = [str(each).removeprefix(str(amber)) for each in raised.value.problems]
    last = len(queries)
    assert said[0].startswith("/metrics.txt:2: must start at 0 or 0.001, got chair_score = '7'")
    assert said[1].startswith(f"/annotations.json:{last}: must have an id, a known type")
    assert f"/query/query_all.json:{last + 1}: id 2 was there in entry 2" in said
    assert f"/query/query_all.json:{last + 2}: id 99 joins no annotation" in said
    assert f"/query/query_all.json:{last + 3}: has none of image" in said
    assert f'/query/query_all.json:{last + 4}: must be a JSON object, got "text"' in said
    assert any(f"picture AMBER_1.jpg is not in {amber}" in each for each in said)
    data = load_dataset("amber", data=path, skip_problems=True)
    assert len(data.cases) == last - 1
    (amber / "safe_words.txt").unlink()
    with pytest.raises(DataError, match=r"safe_words.txt: cannot be read"):
        load_dataset("amber", data=path)
