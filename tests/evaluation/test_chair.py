"""CHAIR: by hand, and against another package on captions that both read alike."""

import pytest
from reattend.evaluation.metrics.chair import CHAIR_MEASURES, count_caption, finished_part
from reattend.evaluation.metrics.coco_words import coco_vocabulary
from reattend.evaluation.metrics.counts import columns, estimate, resample

COCO = coco_vocabulary()


def places(*names):
    return {COCO.names.index(name) for name in names}


def scored(counts):
    summed = columns(counts)
    weights = resample(len(counts), resamples=1)
    return {
        name: estimate(summed[part], summed[whole], weights).value
        for name, (part, whole) in CHAIR_MEASURES.items()
    }


def test_by_hand():
    counts = [
        # dog dog cat pizza of dog, person: two of four hallucinated, one of two found.
        count_caption("A dog, another dog, a cat. A pizza", places("dog", "person"), COCO),
        count_caption("A hot dog.", places("hot dog"), COCO),
        count_caption("", places("bus"), COCO),
    ]
    assert scored(counts) == {
        "chair_i": 2 / 5, "chair_s": 1 / 3, "recall": 2 / 4, "mentions": 5 / 3,
        "words": (8 + 2 + 0) / 3, "unfinished": 1 / 3,
    }  # fmt: skip


def test_the_unfinished_sentence_goes_by_option():
    text = "A dog sits. Behind it a cat and a"
    assert finished_part(text) == "A dog sits."
    kept = count_caption(text, places("dog"), COCO)
    dropped = count_caption(text, places("dog"), COCO, drop_unfinished=True)
    assert (kept["made_up"], dropped["made_up"]) == (1, 0)
    assert kept["unfinished"] == dropped["unfinished"] == 1
    alone = count_caption("A cat and a", places("dog"), COCO, drop_unfinished=True)
    assert alone["made_up"] == 1


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ('He says "a dog."', 'He says "a dog."'),
        ("A dog (or a cat.)", "A dog (or a cat.)"),
        ("**A dog.**", "**A dog.**"),
        ("A dog!?", "A dog!?"),
        ("A dog sits.It runs", "A dog sits."),
        ("A dog sits 3.5", ""),
        ("A dog. A cat 2.5 m from", "A dog."),
        ("A dog", ""),
        ("", ""),
    ],
)
def test_where_a_sentence_ends(text, finished):
    assert finished_part(text) == finished
    assert count_caption(text, {0}, COCO)["unfinished"] == (finished != text)


def test_another_package_agrees(rng):
    chair = pytest.importorskip("mitigv.evaluation.chair")
    # Known differences: it knows no adult or baby animals and no passenger trains, takes an s from
    # these three, knows the plurals that WordNet lacks, and joins words over commas.
    words = sorted(set(COCO.noun_of) - {"scissors", "airbus", "minibus"} - {"seat", "toilet"})
    truth = {number: rng.choice(COCO.names, 4, replace=False).tolist() for number in range(60)}
    said = []
    for number in truth:
        some = rng.choice(words, 5, replace=False)
        said.append({"image_id": number, "caption": f"A {' and a '.join(some)}."})
    theirs = chair.ChairEvaluator(truth).evaluate(said, bootstrap_samples=1)["summary"]
    found = scored(
        [count_caption(each["caption"], places(*truth[each["image_id"]]), COCO) for each in said]
    )
    names = {"chair_i": "CHAIRi", "chair_s": "CHAIRs", "recall": "object_recall"}
    for ours, other in names.items():
        assert found[ours] == pytest.approx(theirs[other]["value"], abs=1e-12), ours
