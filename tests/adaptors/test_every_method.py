"""Every method through an unchanged `generate`: greedy, beams, and a batch with left padding."""

from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from cases import ACTING  # noqa: E402
from models import MODELS  # noqa: E402
from reattend.adaptors.transformers import attached  # noqa: E402
from reattend.decoding import Confidence  # noqa: E402
from reattend.methods import ACT, CAAC, ILVAD, PAINT, VAR  # noqa: E402
from runs import METHODS, generate  # noqa: E402
from test_generation import loop  # noqa: E402

MODEL = next(case for case in MODELS if case.name == "LLaVA-1.5")
OTHERS = [case for case in MODELS if case.name in ("Qwen2-VL", "LLaVA-NeXT", "Gemma 3")]
STEPS = 3
# These ask for what differs between models.
EVERY = {
    **ACTING,
    "ACT": ACT(**METHODS["ACT"]),
    "ILVAD": ILVAD(saliency=(0.0, 1.0, 0.5, 0.0) * 4),
    "VAR": VAR(**METHODS["VAR"]),
}

every_method = pytest.mark.parametrize("name", EVERY)


def told(session, method):
    """Give the processors that a method needs."""
    return {"logits_processor": [Confidence(session)]} if isinstance(method, CAAC) else {}


@cache
def plain_logits():
    return generate(MODEL.load(), MODEL.inputs(), STEPS).logits[0]


@every_method
def test_greedy_and_beams_of_a_padded_batch(name):
    """The shorter prompt's tokens score what they do when they are fed to it alone."""
    model, method = MODEL.load(), EVERY[name]
    with attached(model, method):
        greedy = generate(model, MODEL.inputs(), STEPS)
        beams = generate(model, MODEL.inputs(), STEPS, num_beams=2, output_scores=True)
        followed = torch.stack([greedy.sequences[1, -STEPS:], beams.sequences[1, -STEPS:]])
        _, totals = loop(model, MODEL.inputs((1, 1)), STEPS, follow=followed)
    scores = torch.stack(greedy.logits, 1)[1].log_softmax(-1)  # [steps, V]
    assert float(totals[0]) == pytest.approx(
        float(scores[range(STEPS), followed[0]].sum()), abs=1e-4
    )
    assert float(totals[1]) / STEPS == pytest.approx(float(beams.sequences_scores[1]), abs=1e-4)
    assert (greedy.logits[0] - plain_logits()).abs().max() > 1e-3, "it changes nothing"


def test_confidence_reaches_caac_in_beams_and_batches():
    """A step's strength is that of the token before, of the beam that it goes on from."""
    model, inputs = MODEL.load(), MODEL.inputs((0, 1))
    method = CAAC(threshold=1, most=1.5)
    for options in ({}, {"num_beams": 2}):
        with attached(model, method) as session:
            moved = generate(model, inputs, STEPS, **told(session, method), **options)
        plain = generate(model, inputs, STEPS, **options)
        assert torch.allclose(moved.logits[0], plain.logits[0], atol=1e-4)  # nobody had told it yet
        assert (moved.logits[1] - plain.logits[1]).abs().max() > 1e-3


def for_pictures_of(case, name):
    """Give a method for a family whose pictures are of another number of tokens."""
    tokens = int(case.shown(case.inputs((0,))["input_ids"]).sum())
    if name == "ILVAD":
        return ILVAD(saliency=(0.0, 1.0, 0.5, 0.0) * (tokens // 4) + (0.3,) * (tokens % 4))
    return PAINT(top=(0, 2), bottom=(3,)) if name == "PAINT" else EVERY[name]


# Gemma 3 lets an image's tokens see each other, which reaches attention as a bias.
REFUSED = {("EAH", "Gemma 3"): "without a bias", ("SPIN", "Gemma 3"): "without softcap and bias"}


@pytest.mark.nightly
@pytest.mark.parametrize("case", OTHERS, ids=str)
@every_method
def test_in_other_families(case, name):
    """Greedy, with all its items; a model of its own may give a method nothing to do."""
    model, method = case.load(), for_pictures_of(case, name)
    if (name, case.name) in REFUSED:
        with (
            pytest.raises(ValueError, match=REFUSED[name, case.name]),
            attached(model, method) as session,
        ):
            generate(model, case.inputs(), 2)
        return
    found = []
    for items in ((0, 1), (0,), (1,)):
        with attached(model, method) as session:
            out = generate(model, case.inputs(items), 8, **told(session, method))
        found.append(torch.stack(out.logits).numpy())
    both, *alone = found
    for item, each in enumerate(alone):
        assert np.abs(both[:, item] - each[:, 0]).max() < 1e-4 * np.abs(each).max()
