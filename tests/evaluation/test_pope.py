"""POPE's rules: the official one restated, others by hand, and other packages' scorers."""

import re
from pathlib import Path

import numpy as np
import pytest
from reattend.evaluation.metrics.counts import columns, estimate, resample
from reattend.evaluation.metrics.pope import POPE_MEASURES, RULES, count_yes_no, read_yes_no

ANSWERS = [
    "Yes",
    "No",
    "yes",
    "no",
    "NO",
    "YES",
    "Yes, there is.",
    "No, there is not.",
    "There is no dog.",
    "There is not.",
    "Not at all",
    "It is. No.",
    "Nothing",
    "I cannot tell",
    "no,",
    "Yes\nNo",
    "",
    "",
    ". no",
    "yes no",
    "No dog, yes a cat",
    "I know",
]


def official(answers, labels):
    """The official scorer's counting, from its description."""
    said = []
    for answer in answers:
        words = answer.partition(".")[0].replace(",", "").split(" ")
        said.append(0 if ("No" in words or "not" in words or "no" in words) else 1)
    true = [1 if label else 0 for label in labels]
    tp = sum(a == t == 1 for a, t in zip(said, true, strict=True))
    fp = sum(a == 1 and t == 0 for a, t in zip(said, true, strict=True))
    tn = sum(a == t == 0 for a, t in zip(said, true, strict=True))
    fn = sum(a == 0 and t == 1 for a, t in zip(said, true, strict=True))
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    return {
        "accuracy": (tp + tn) / len(said),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "yes": sum(said) / len(said),
        "unparsed": 0.0,
    }


def scored(answers, labels, rule):
    counts = columns(
        [count_yes_no(t, read_yes_no(a, rule)) for a, t in zip(answers, labels, strict=True)]
    )
    weights = resample(len(answers), resamples=1)
    return {
        name: estimate(counts[part], counts[whole], weights).value
        for name, (part, whole) in POPE_MEASURES.items()
    }


def test_the_official_rule_to_the_digit(rng):
    for _ in range(20):
        answers = rng.choice(ANSWERS, 300).tolist()
        labels = (rng.random(300) < 0.5).tolist()
        found, wanted = scored(answers, labels, "official"), official(answers, labels)
        assert found.keys() == wanted.keys()
        np.testing.assert_allclose([found[n] for n in found], [wanted[n] for n in found], 1e-14)


@pytest.mark.parametrize(
    ("text", "readings"),
    [
        ("Yes", (True, True, True)),
        (" no ", (False, False, False)),
        ("NO", (True, False, False)),
        ("", (True, None, None)),
        ("It is not there", (False, None, None)),
        ("It is. No.", (True, False, None)),
        ("I know nothing", (True, None, None)),
        ("no, yes", (False, False, None)),
        ("Yes.", (True, True, None)),
    ],
)
def test_rules_by_hand(text, readings):
    assert tuple(read_yes_no(text, rule) for rule in RULES[:3]) == readings


def test_logits_need_a_margin():
    assert read_yes_no("No", "logits", 0.5) is True
    assert read_yes_no("Yes", "logits", -0.5) is False
    with pytest.raises(ValueError, match="needs answers with a margin"):
        read_yes_no("Yes", "logits")
    with pytest.raises(ValueError, match="margin of yes above no, got nan"):
        read_yes_no("Yes", "logits", float("nan"))
    with pytest.raises(ValueError, match="rule must be one of official, first"):
        read_yes_no("Yes", "last")


def test_unparsed_answers_are_wrong_and_counted():
    found = scored(["Yes", "perhaps", "perhaps", "No"], [True, True, False, False], "first")
    assert found == {
        "accuracy": 0.5, "precision": 1.0, "recall": 0.5, "f1": 2 / 3, "yes": 0.25, "unparsed": 0.5,
    }  # fmt: skip


def test_other_packages_agree_where_answers_are_one_word(rng):
    mitigv = pytest.importorskip("mitigv.evaluation.pope")
    audit = pytest.importorskip("pope_audit.evaluate")
    answers = rng.choice(["yes", "no"], 200).tolist()
    labels = (rng.random(200) < 0.5).tolist()
    words = ["yes" if label else "no" for label in labels]
    theirs = mitigv.compute_metrics(words, answers)
    for rule in RULES[:3]:
        found = scored(answers, labels, rule)
        for name in ("accuracy", "precision", "recall", "f1"):
            assert 100 * found[name] == pytest.approx(theirs[name], abs=1e-9)
        assert 100 * found["yes"] == pytest.approx(theirs["yes_proportion"])
        assert found["f1"] == pytest.approx(audit.compute_f1(answers, words)["f1"], abs=1e-4)


def by_mitigv(answers, labels):
    package = pytest.importorskip("mitigv.evaluation.pope")
    found = package.compute_metrics(["yes" if label else "no" for label in labels], answers)
    return {name: value / 100 for name, value in found.items()}


def by_audit(answers, labels):
    package = pytest.importorskip("pope_audit.evaluate")
    return package.compute_f1(answers, ["yes" if label else "no" for label in labels])


# What docs/guides/evaluate.md lists: answers, whether the thing is there, the rule compared,
# the measure, the other package's value and ours.
DIFFERENCES = {
    "mitigv finds yes and no inside words": (
        by_mitigv, ["I know"], [False], "first", "accuracy", 1, 0,
    ),
    "mitigv looks only for what is right": (
        by_mitigv, ["yes and no", "yes and no"], [True, False], "first", "accuracy", 1, 0.5,
    ),
    "mitigv counts what is neither yes nor no as a yes": (
        by_mitigv, ["yes", "perhaps"], [True, False], "first", "precision", 0.5, 1,
    ),
    "pope-audit takes a yes or no with anything behind it": (
        by_audit, ["Yes."], [True], "first", "precision", 0, 1,
    ),
    "pope-audit leaves out of recall what is neither": (
        by_audit, ["yes", "perhaps"], [True, True], "exact", "recall", 1, 0.5,
    ),
    "pope-audit rounds to four digits": (
        by_audit, ["yes", "no", "no"], [True, True, True], "exact", "recall", 0.3333, 1 / 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_known_differences_from_other_packages(difference):
    scorer, answers, labels, rule, measure, theirs, ours = DIFFERENCES[difference]
    assert scorer(answers, labels)[measure] == theirs
    assert scored(answers, labels, rule)[measure] == ours


def test_the_guide_lists_these_differences_and_no_others():
    guide = Path(__file__).parents[2] / "docs" / "guides" / "evaluate.md"
    if not guide.exists():
        pytest.skip("needs the source folder")
    listed = re.findall(r"^- ((?:mitigv|pope-audit) .*)", guide.read_text("utf-8"), re.MULTILINE)
    assert len(listed) == len(DIFFERENCES)
    for line, difference in zip(listed, DIFFERENCES, strict=True):
        assert line.startswith(difference)
