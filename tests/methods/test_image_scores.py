"""More methods on image scores equal their formulas on the full matrix, written out in float64."""

from functools import partial

import numpy as np
import pytest
from full_matrix import holds_on_scores, scores_of, softmax
from reattend import Session
from reattend.decoding import Confidence
from reattend.methods import CAAC, OWL, PAINT, EvenHeads, MiddleLayers
from reattend.testing import run
from reattend.testing.laws import TOLERANCE
from reattend.testing.sample import sample

INPUTS = sample(0)
LAST = INPUTS.prompt_len - 1
holds = partial(holds_on_scores, INPUTS)


def image_of(item):
    return np.flatnonzero(INPUTS.image[item])


@pytest.mark.parametrize("alpha", [0.5, -0.7])
def test_middle_layers(alpha):
    def edit(scores, layer, item):
        image = image_of(item)
        if layer in (0, 3):
            size = np.abs(scores[:, LAST:, image]).mean(0)
            scores[:, LAST:, image] += alpha * size

    assert holds(MiddleLayers(alpha, layers=(3, 0)), edit) == 2 * 2 * 4 * 4


def test_middle_layers_see_what_a_window_leaves_under_a_softcap():
    query, key, value = (x[1, :2] for x in (INPUTS.query, INPUTS.key, INPUTS.value))
    session = Session(MiddleLayers(0.5, layers=(1,)), num_layers=5)
    with session.generation(INPUTS.image[:2]):
        out = session.attend(
            1, *(x[:, :, :24] for x in (query, key, value)), window=12, softcap=3.0
        )
    full = key[:, :, :24].astype(float).repeat(2, 1)
    scores = query[:, :, LAST].astype(float)[:, :, None] @ full.swapaxes(-1, -2) / 4
    scores = 3 * np.tanh(scores[:, :, 0] / 3)  # [B, H, M]
    seen = np.arange(24) > LAST - 12
    for item in range(2):
        image = image_of(item)[image_of(item) > LAST - 12]
        scores[item][:, image] += 0.5 * np.abs(scores[item][:, image]).mean(0)
    weights = softmax(np.where(seen, scores, -np.inf))
    right = np.einsum("bhm,bhmd->bhd", weights, value[:, :, :24].astype(float).repeat(2, 1))
    assert np.abs(out[:, :, LAST] - right).max() < TOLERANCE


def test_what_is_read_off_one_row_needs_it_on_its_own():
    with pytest.raises(ValueError, match="in calls of their own, got rows 0 to 26 of a prompt of"):
        run(MiddleLayers(layers=(0,)), INPUTS, one_pass=True)
    assert MiddleLayers().layers_for(32) == tuple(range(5, 18))


@pytest.mark.parametrize("each", [False, True])
def test_paint(each):
    top, bottom = ((0, 3), (1, 2), ()), ((3,), (5,), ())

    def edit(scores, layer, item):
        image = image_of(item)
        if layer in (1, 4) and len(image):
            some = item if each else 0
            low = image[list(bottom[some])]
            high = np.setdiff1d(image[list(top[some])], low)
            scores[:, LAST:, high] += 0.9 * np.abs(scores[:, LAST:, high])
            scores[:, LAST:, low] += 0.3 * np.abs(scores[:, LAST:, low])

    method = PAINT(top, bottom, layers=(1, 4)) if each else PAINT((0, 3), (3,), layers=(1, 4))
    assert holds(method, edit) == 2 * 2 * 4 * 4


def test_paint_finds_its_sets_in_the_encoder(rng):
    first, late = rng.random((2, 3, 20))
    late[:, 7] += 5  # an outlier
    first[:, 7] += 9
    found = PAINT.from_vision(first, late, alpha=1.0)
    assert found.bottom == ((7,),)
    most = sorted(range(20), key=lambda j: -first[:, j].sum())[:5]
    assert found.top == (tuple(sorted(set(most) - {7})),)
    assert found.alpha == 1.0
    assert PAINT.from_vision(first, np.ones(20)).bottom == ((),)


@pytest.mark.parametrize("strength", [1.4, 0.7])
def test_caac_with_a_strength(strength):
    def edit(scores, layer, item):
        for i in range(INPUTS.length):
            seen = [j for j in image_of(item) if j <= i]
            scores[:, i, seen] *= strength

    assert holds(CAAC(strength=strength), edit) == 5 * 4 * ((27 - 4) + (27 - 3))


def test_caac_follows_the_last_tokens_confidence():
    """Of each item, also where the batch is reordered after it was told."""
    told = np.array([[0.9, 0.1, 0.2], [0.05, 0.3, 0.1], [0.2, 0.2, 0.2]])
    order = np.array([1, 0, 2])
    session = Session(CAAC(), num_layers=5)
    arrays = INPUTS.query[2], INPUTS.key[2], INPUTS.value[2]
    with session.generation(INPUTS.image):
        session.attend(2, *(x[:, :, :24] for x in arrays))
        for step in range(3):
            logits = np.log(np.stack([[p, *[(1 - p) / 30] * 30] for p in told[step]]))
            Confidence(session)(None, logits)
            confidence = told[step]
            if step == 2:
                session.reorder(order)
                arrays = tuple(x[order] for x in arrays)
                confidence = confidence[order]
            image = INPUTS.image if step < 2 else INPUTS.image[order]
            out = session.attend(
                2,
                arrays[0][:, :, 24 + step : 25 + step],
                *(x[:, :, : 25 + step] for x in arrays[1:]),
            )
            for item, p in enumerate(confidence):
                factor = 1 if p > 0.25 else max(1, p + 1.5 * (1 - p))
                query, key, value = (x[item].astype(float) for x in arrays)
                keys = key[:, : 25 + step].repeat(2, 0)
                scores = np.einsum("hd,hmd->hm", query[:, 24 + step], keys) / 4
                scores[:, np.flatnonzero(image[item])] *= factor
                right = np.einsum("hm,hmd->hd", softmax(scores), value[:, : 25 + step].repeat(2, 0))
                assert np.abs(out[item, :, 0] - right).max() < TOLERANCE


def test_confidence_is_refused_where_nobody_listens():
    session = Session(CAAC(), num_layers=5)
    with pytest.raises(RuntimeError, match=r"inside session\.generation"):
        session.note_confidence(np.array([0.5]))
    with pytest.raises(TypeError, match="session must be a Session"):
        Confidence(None)
    with session.generation(INPUTS.image):
        session.attend(0, *(x[0, :, :, :24] for x in (INPUTS.query, INPUTS.key, INPUTS.value)))
        with pytest.raises(ValueError, match="one number for each of 3 items, got 2"):
            session.note_confidence(np.array([0.5, 0.1]))
        with pytest.raises(ValueError, match="confidence must be from 0 to 1"):
            session.note_confidence(np.array([0.5, 0.1, 1.5]))


@pytest.mark.parametrize("path", ["visual", "textual"])
@pytest.mark.parametrize("baseline", [None, (9.0, 0.01, 3.0, 0.5, 1.0)])
def test_owl(path, baseline):
    sign = 1 if path == "visual" else -1
    raised = set()

    def edit(scores, layer, item):
        image = image_of(item)
        if not len(image):
            return
        text = np.setdiff1d(np.arange(INPUTS.prompt_len), image)
        plain = softmax(scores_of(INPUTS, layer, item))
        for i in range(LAST, INPUTS.length):
            a, b = 0.4, 0.2
            if baseline is not None:
                x = np.mean(plain[:, i, image].sum(-1) / plain[:, i, text].sum(-1))
                y = baseline[layer]
                if x < y:
                    a, b = min(0.6, a + 0.2 * (y - x) / y), min(0.6, b + 0.2 * (y - x) / y)
                raised.add(x < y)
            scores[:, i, image] += sign * a * np.abs(scores[:, i, image])
            scores[:, i, text] -= sign * b * np.abs(scores[:, i, text])

    assert holds(OWL(path, baseline=baseline), edit) == 5 * 2 * 4 * 4
    assert baseline is None or raised == {True, False}


@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
def test_even_heads(epsilon):
    def edit(scores, layer, item):
        for head in {0: (1,), 3: (0, 2)}.get(layer, ()):
            scores[head][np.isfinite(scores[head])] *= epsilon

    assert holds(EvenHeads({0: (1,), 3: (0, 2)}, epsilon), edit) >= 3 * 3 * 26


def test_even_heads_refuse_a_softcap():
    query, key, value = (x[0] for x in (INPUTS.query, INPUTS.key, INPUTS.value))
    session = Session(EvenHeads({0: (1,)}), num_layers=5)
    with session.generation(), pytest.raises(ValueError, match="layer 0: EvenHeads scales queries"):
        session.attend(0, query, key, value, softcap=5.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MiddleLayers(np.nan), "alpha must be a finite number"),
        (lambda: MiddleLayers(layers=(-1,)), "layers must be from 0"),
        (lambda: Session(MiddleLayers(layers=(9,)), num_layers=4), "layers must be below 4"),
        (lambda: PAINT(top=(-1,)), "top must hold places from 0"),
        (lambda: run(PAINT((10,), layers=(0,)), INPUTS), "below 10, the image tokens of item 0"),
        (lambda: run(PAINT(((1,), (2,))), INPUTS), "top must have one list, or one for each item"),
        (lambda: PAINT.from_vision(np.ones(4), np.ones(5)), "late must be of as many patches"),
        (lambda: CAAC(threshold=2), "threshold must be from 0 to 1"),
        (lambda: CAAC(strength=np.inf), "strength must be a finite number"),
        (lambda: OWL("both"), "path must be 'visual' or 'textual', got 'both'"),
        (lambda: OWL(baseline=(0,)), "baseline must hold numbers above 0"),
        (lambda: run(OWL(baseline=(1,)), INPUTS), "baseline must have a number for each of 5"),
    ],
)
def test_errors_name_the_parameter(make, message):
    with pytest.raises(ValueError, match=message):
        make()
