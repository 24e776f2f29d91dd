"""Methods on outputs and on whole maps equal their formulas, written out in float64."""

import numpy as np
import pytest
from cases import EVIDENCE, VECTORS
from full_matrix import expected, holds, holds_on_scores, scores_of, softmax
from reattend import Plan, Reweight, Session
from reattend.epilogue import Epilogue
from reattend.head_vectors import HeadVectors
from reattend.method import Method
from reattend.methods import EAH, ILVAD, HeadSteering, SoftInjection
from reattend.plan import compose
from reattend.policy import KEEP
from reattend.profile import ProfileError
from reattend.testing import run
from reattend.testing.laws import TOLERANCE
from reattend.testing.sample import sample

INPUTS = sample(0)
LAST = INPUTS.prompt_len - 1


def plain():
    return expected(INPUTS, lambda weights, layer, item: None)[0]


@pytest.mark.parametrize("rows", ["last", "all"])
def test_soft_injection_and_steering(rows):
    heads = {0: (1, 2), 2: (0, 1, 2)}
    mixed, added = plain(), plain()
    first = 0 if rows == "all" else LAST
    for layer, vectors in VECTORS.vectors.items():
        for head in range(4):
            own = VECTORS.amounts[layer][head]
            t = vectors[head].astype(float)
            if head in heads.get(layer, ()):
                some = mixed[layer, :, head, first:]
                mixed[layer, :, head, first:] = (1 - 0.3 * own) * some + 0.3 * own * t
            added[layer, :, head, first:] += -2 * own * t
    assert np.abs(run(SoftInjection(VECTORS, 0.3, heads, rows), INPUTS) - mixed).max() < TOLERANCE
    assert np.abs(run(HeadSteering(VECTORS, -2, None, rows), INPUTS) - added).max() < TOLERANCE


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_outputs_of_16_bits(dtype):
    arrays = [x[2].astype(np.float16) for x in (INPUTS.query, INPUTS.key, INPUTS.value)]
    if dtype == "bfloat16":
        arrays = [(x[2].view(np.uint32) >> 16).astype(np.uint16)
                  for x in (INPUTS.query, INPUTS.key, INPUTS.value)]  # fmt: skip
    bits = None if dtype == "float16" else dtype
    session = Session(HeadSteering(VECTORS, rows="all"), num_layers=5)
    out = np.empty(arrays[0].shape, arrays[0].dtype)
    with session.generation():
        found = session.attend(2, *arrays, out=out, dtype=bits)
    without = Session([], num_layers=5)
    with without.generation():
        bare = without.attend(2, *arrays, dtype=bits)

    def widened(array):
        if array.dtype == np.uint16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32)

    shift = VECTORS.vectors[2] * VECTORS.amounts[2][:, None]
    assert found is out
    assert found.dtype == arrays[0].dtype
    assert np.abs(widened(found) - widened(bare) - shift[None, :, None]).max() < 0.04
    assert session.report().prompt_changed[2] == pytest.approx(3 / 4)  # one head's amount is 0


def test_an_epilogue_of_other_rows_is_refused_where_few_are_changed(rng):
    """Of a prompt only the rows from the first to the last that change are touched."""
    shift = rng.standard_normal((1, 4, 6, 8))
    where = np.zeros((1, 1, 6), bool)
    where[..., [1, 3]] = True
    outputs = rng.standard_normal((2, 4, 6, 8), np.float32)
    wanted = Epilogue(0.5, shift)(outputs, where)
    found = outputs.copy()
    compose([Plan(None, KEEP, where, epilogue=Epilogue(0.5, shift))]).finish(found)
    assert np.array_equal(found, wanted.astype(np.float32))
    assert np.array_equal(found[:, :, [0, 2, 4, 5]], outputs[:, :, [0, 2, 4, 5]])
    other = Plan(None, KEEP, where, epilogue=Epilogue(0.5, shift[:, :, :4]))
    with pytest.raises(ValueError, match="scale and shift must broadcast"):
        compose([other]).finish(found)


def test_a_gate_is_an_epilogue():
    """Of numbers that a trained gate gives for each row, head by head or number by number."""
    states = INPUTS.hidden_states[:, :, :, :8]
    weights = np.random.default_rng(0).standard_normal((8, 4 * 16)).astype(np.float32)

    class Gated(Method):
        def plan(self, call, state):
            x = states[call.layer][:, call.first_row : call.key_len].clip(-3, 3)
            logits = (x @ weights).reshape(*x.shape[:2], 4, 16).swapaxes(1, 2)
            return Plan(None, Reweight((1,)), epilogue=Epilogue.gate(logits)), None

    x = states.clip(-3, 3).astype(float)
    logits = (x @ weights).reshape(*x.shape[:3], 4, 16).swapaxes(2, 3)
    right = plain() / (1 + np.exp(-logits))
    assert np.abs(run(Gated(), INPUTS) - right).max() < TOLERANCE


def test_vectors_are_kept_and_refused_by_another_model(tmp_path):
    made = VECTORS.of_model({"num_layers": 5, "num_heads": 4})
    made.save(tmp_path / "task.npz")
    found = HeadVectors.load(tmp_path / "task.npz")
    assert found == made
    assert hash(found) == hash(made)
    assert found != VECTORS
    assert SoftInjection(found) == SoftInjection(made)
    Session(SoftInjection(found), num_layers=5, num_heads=4)
    with pytest.raises(ProfileError, match="is of another model: num_layers 5, not 6"):
        Session(SoftInjection(found), num_layers=6)
    with pytest.raises(ValueError, match="vectors must be of layers below 3"):
        Session(HeadSteering(VECTORS), num_layers=3)
    with pytest.raises(ValueError, match="vectors must be of 8 heads"):
        Session(HeadSteering(VECTORS), num_layers=5, num_heads=8)
    (tmp_path / "other.npz").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="holds no vectors of heads"):
        HeadVectors.load(tmp_path / "other.npz")
    np.savez(tmp_path / "arrays.npz", vectors_0=np.ones((1, 2)))
    with pytest.raises(ValueError, match="holds no vectors of heads"):
        HeadVectors.load(tmp_path / "arrays.npz")
    with pytest.raises(FileNotFoundError):
        HeadVectors.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"path must end in \.npz"):
        made.save(tmp_path / "task.json")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeadVectors({}), "vectors must hold arrays"),
        (lambda: HeadVectors({0: np.ones((2, 3)), 1: np.ones((2, 4))}), "of one shape"),
        (lambda: HeadVectors({0: np.full((2, 3), np.nan)}), "vectors must hold finite numbers"),
        (lambda: HeadVectors({0: np.ones((2, 3))}, {1: np.ones(2)}), "amounts must be"),
        (lambda: HeadVectors({0: np.ones((2, 3))}, {0: np.ones(3)}), "amounts must be"),
        (lambda: SoftInjection(VECTORS, amount=2), "amount must be from 0 to 1"),
        (lambda: HeadSteering(VECTORS, alpha=np.inf), "alpha must be a finite number"),
        (lambda: ILVAD(saliency=(2,)), "saliency must hold numbers from 0 to 1"),
        (lambda: run(ILVAD(saliency=EVIDENCE), INPUTS), "each of 12 image tokens of item 1, got"),
        (lambda: EAH(threshold=np.nan), "threshold must be a finite number"),
        (lambda: run(EAH(), INPUTS, chunks=(5,)), "read in one call of its own, got rows 0 to 4"),
    ],
)
def test_errors_name_the_parameter(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("alpha", [5.0, -1.0])
def test_ilvad(alpha):
    saliency = EVIDENCE, (*EVIDENCE, 0.5, 0.0), ()

    def edit(scores, layer, item):
        image = np.flatnonzero(INPUTS.image[item])
        if not len(image):
            return
        s = np.array(saliency[item])
        weights = softmax(scores_of(INPUTS, layer, item))
        for i in range(LAST, INPUTS.length):
            on = weights[:, i, image]
            ratio = (on * s).sum(-1) / on.sum(-1)
            for head in sorted(range(4), key=lambda h: -ratio[h])[:2]:
                scores[head, i, image] += alpha * s

    assert holds_on_scores(INPUTS, ILVAD(saliency, alpha), edit) == 5 * 2 * 4 * 2


@pytest.mark.parametrize("published", [False, True])
def test_eah(published):
    limit = 0.00015 if published else 0.05
    seen = []

    def edit(weights, layer, item):
        image = np.flatnonzero(INPUTS.image[item])
        if not len(image) or not (published or layer in (1, 3)) or (published and item):
            return
        size = INPUTS.prompt_len
        dense = []
        for head in weights:
            found = 0
            for k, j in enumerate(image):
                total = head[:size, j].sum() - head[j, j]
                found += total / (611 - k if published else size - 1 - j) > limit
            dense.append(found)
        best = int(np.argmax(dense))
        seen.append(best)
        if dense[best] and not (published and best == 0):
            weights[:, :size] = weights[best, :size]

    method = EAH(limit, layers=(1, 3), as_published=published)
    assert holds(INPUTS, method, edit) > 60
    assert len({*seen}) > 1
    assert not published or 0 in seen


def test_eah_does_nothing_where_no_column_is_dense():
    assert np.array_equal(run(EAH(threshold=0.9), INPUTS), run((), INPUTS))
    assert EAH().limit == 0.002


def test_a_policy_behind_an_epilogue_is_refused():
    from reattend.methods import PAI, HeadMask

    steer = HeadSteering(VECTORS, rows="all")
    with pytest.raises(ValueError, match="put the method that has it last"):
        run((steer, HeadMask({2: (1,)})), INPUTS)
    one = run((PAI(layers=(2,)), steer), INPUTS)
    assert np.array_equal(run((steer, PAI(layers=(2,))), INPUTS), one)  # scores come before
