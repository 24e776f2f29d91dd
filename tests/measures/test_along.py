"""Measures along a generation equal their formulas on the full matrix, in the rows that choose."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from reattend import Session, reference
from reattend.measuring import MEASURES, Measured
from reattend.methods import HeadMask
from reattend.testing import run
from reattend.testing.sample import sample

INPUTS = sample(0)
LAST = INPUTS.prompt_len - 1


def weights_of(inputs, layer, item):
    """One item's causal weights [H, N, M]."""
    some = slice(item, item + 1)
    return reference.weights(inputs.query[layer, some], inputs.key[layer, some], causal=True)[0][0]


def gathered(inputs, measures, methods=(), **how):
    session = Session(methods, num_layers=5)
    session.measure(measures)
    run((), inputs, session=session, **how)
    return session.measured()


def formula(name, row, image, i, first=0):
    """One head's row of weights [i + 1] in plain NumPy."""
    keys = np.arange(len(row))
    picture = np.zeros(len(row), bool)
    picture[: len(image)] = image[: len(row)]
    return {
        "entropy": -sum(a * np.log(a) for a in row if a > 0),
        "image_mass": row[picture].sum(),
        "text_mass": row[~picture & (keys <= LAST)].sum(),
        "answer_mass": row[keys > LAST].sum(),
        "first_mass": row[first],
        "distance": sum(a * (i - j) for j, a in enumerate(row)),
        "largest": row.max(),
        "largest_key": row.argmax(),
    }[name]


def test_every_measure_of_every_row():
    found = gathered(INPUTS, [*MEASURES])
    assert {*found} == {*MEASURES}
    for name, each in found.items():
        assert each.axes == ("step", "layer", "item", "head")
        assert each.values.shape == (4, 5, 3, 4)
        assert each.layers == (0, 1, 2, 3, 4)
        for step, i in enumerate(range(LAST, INPUTS.length)):
            for layer in range(5):
                for item in range(3):
                    rows = weights_of(INPUTS, layer, item)[:, i, : i + 1]
                    right = [formula(name, row, INPUTS.image[item], i) for row in rows]
                    assert each.values[step, layer, item] == pytest.approx(right, abs=1e-5), name
    whole = [found[name].values for name in ("image_mass", "text_mass", "answer_mass")]
    assert sum(whole) == pytest.approx(np.ones((4, 5, 3, 4)), abs=1e-5)


def test_padding_and_chunks_change_no_measure():
    names = ["entropy", "first_mass", "distance", "image_mass"]
    plain = gathered(INPUTS, names)
    padded = gathered(INPUTS.pad_left(5), names)
    chunked = gathered(INPUTS, names, chunks=(7,))
    for name in names:
        assert padded[name].values == pytest.approx(plain[name].values, abs=1e-5)
        assert chunked[name].values == pytest.approx(plain[name].values, abs=1e-5)


def test_a_right_padded_item_is_measured_at_its_own_last_row():
    mask = np.ones((3, INPUTS.length), bool)
    mask[1, 20:24] = False  # its prompt has 20 tokens
    found = gathered(replace(INPUTS, key_mask=mask), ["entropy", "distance"])
    row = weights_of(INPUTS, 2, 1)[:, 19, :20]
    for name in found:
        right = [formula(name, each, INPUTS.image[1], 19) for each in row]
        assert found[name].values[0, 2, 1] == pytest.approx(right, abs=1e-5)


def test_beams_are_followed_back():
    order = np.array([2, 0, 0])
    plain, moved = gathered(INPUTS, ["entropy"]), gathered(INPUTS, ["entropy"], reorder=order)
    assert np.array_equal(moved["entropy"].values, plain["entropy"].values[:, :, order])


def test_functions_of_ones_own_and_what_heads_give():
    def last_key(weights, call):
        return weights[..., -1]

    def prompts(weights, call):
        return np.full(call.batch, call.num_prompt)

    measures = [last_key, prompts, "head_outputs"]
    found = gathered(INPUTS, measures, HeadMask({2: (1,)}))
    assert found["last_key"].values[1, 3, 0] == pytest.approx(
        weights_of(INPUTS, 3, 0)[:, LAST + 1, LAST + 1], abs=1e-6
    )
    assert found["prompts"].axes == ("step", "layer", "item")
    outputs = found["head_outputs"]
    assert outputs.axes == ("step", "layer", "item", "head", "number")
    assert np.array_equal(
        outputs.values, np.moveaxis(run(HeadMask({2: (1,)}), INPUTS)[..., LAST:, :], 3, 0)
    )
    assert not outputs.values[:, 2, :, 1].any()
    assert outputs.mean("head", "number").shape == (4, 5, 3)


def test_measures_change_nothing_and_end_with_their_generation():
    session = Session(HeadMask({2: (1,)}), num_layers=5)
    session.measure(["entropy"])
    out = run((), INPUTS, session=session)
    assert np.array_equal(out, run(HeadMask({2: (1,)}), INPUTS))
    run((), INPUTS.take(np.array([0])), session=session)
    assert session.measured()["entropy"].values.shape == (4, 5, 1, 4)


def test_long_answers_take_little():
    """4,096 steps of 32 layers and heads would take 16 MiB a measure: here an eighth of it all."""
    session = Session((), num_layers=4)
    session.measure(["largest", "first_mass"])
    key = np.zeros((1, 32, 1100, 4), np.float32)
    with session.generation(prompt_len=1):
        tracemalloc.start()
        for end in range(1, 1025):
            for layer in range(4):
                session.attend(layer, key[:, :, :1], key[:, :, :end], key[:, :, :end])
        now, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert session.measured()["largest"].values.nbytes == 1024 * 4 * 32 * 4
    assert now < 4 * 2**20  # two of these, and what stands around them


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.measure(["entropie"]), ValueError, "measures must be among entropy"),
        (lambda s: s.measure([3]), TypeError, "measures must be names or functions, got 3"),
        (lambda s: s.measure("entropy"), TypeError, "measures must be a sequence of names"),
        (lambda s: s.measure(["largest"] * 2), ValueError, "different names, got 'largest' twice"),
        (lambda s: s.measured(), RuntimeError, r"needs session\.measure"),
        (lambda s: (s.measure(["largest"]), s.measured()), ValueError, "needs rows of all layers"),
        (lambda s: (s.measure([lambda w, c: 1.0]), run((), INPUTS, session=s)), ValueError,
         r"must give numbers \[B, ...\] with B = 3"),
        (lambda s: Measured(np.zeros(2), ("step",), ()).mean("head"), ValueError, "axes must be"),
    ],
)  # fmt: skip
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(Session((), num_layers=5))
