"""Cross-attention: keys are an image's, and each method is its formula on the full matrix."""

import numpy as np
import pytest
from reattend.methods import ACT, PAI, VAR, VHR
from reattend.session import Session

LAYERS, CROSS, HEADS, PROMPT, STEPS, KEYS, SIZE = 6, (1, 2, 3), 4, 7, 3, 13, 8
DIMS, TAU = (3, 9), 1.4
VALID = np.arange(KEYS) < np.array([[KEYS], [KEYS - 4]])  # the second image is smaller
TOLERANCE = 2e-6


@pytest.fixture
def arrays():
    rng = np.random.default_rng(5)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    query = normal(LAYERS, 2, HEADS, PROMPT + STEPS, SIZE) * 1.5
    key, value = normal(2, LAYERS, 2, 2, KEYS, SIZE)
    return query, key, value, normal(LAYERS, 2, KEYS, 16)


def ran(method, arrays, cuts, bias=None, reorder=None):
    """Run the layers of cross-attention; gives each call's output, in float64."""
    query, key, value, states = arrays
    session = Session(method, num_layers=LAYERS, cross_layers=CROSS)
    found, mask = {}, VALID
    with session.generation(prompt_len=PROMPT):
        for start, end in zip([0, *cuts], [*cuts, PROMPT + STEPS], strict=True):
            if start == PROMPT and reorder is not None:
                session.reorder(reorder)
                query, key, value, mask = (
                    query[:, reorder], key[:, reorder], value[:, reorder], mask[reorder]
                )  # fmt: skip
            for layer in CROSS:
                some = None if bias is None else bias[:, :, start:end]
                found[layer, start] = session.attend(
                    layer, query[layer][:, :, start:end], key[layer], value[layer], key_mask=mask,
                    hidden_states=states[layer] if not start else None, bias=some,
                )  # fmt: skip
    return found, session


def softmax(arrays, layer, bias=0.0):
    query, key, value, _ = (x[layer].astype(np.float64) for x in arrays)
    key, value = key.repeat(2, 1), value.repeat(2, 1)
    scores = query @ key.swapaxes(2, 3) / np.sqrt(SIZE) + bias
    scores = np.where(VALID[:, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True), value


CUTS = [(PROMPT, 8, 9), (3, PROMPT, 9), (PROMPT,)]
HIDING = np.where(np.random.default_rng(2).random((2, 1, PROMPT + STEPS, KEYS)) < 0.3, -np.inf, 0)
HIDING[..., :2] = 0  # each row sees some
BIASES = [None, HIDING.astype(np.float32)]


@pytest.mark.parametrize("bias", BIASES, ids=["all", "hidden"])
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_var_moves_attention_from_sinks_among_image_keys(cuts, bias, arrays):
    method = VAR(sink_dims=DIMS, tau=TAU, p=0.3, rho=0.4)
    found, session = ran(method, arrays, cuts, bias)
    changed = 0
    for (layer, start), out in found.items():
        weights, value = softmax(arrays, layer, 0 if bias is None else bias)
        x = arrays[3][layer].astype(np.float64)
        phi = np.abs(x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6))[..., DIMS].max(-1)
        sink = (phi > TAU) & VALID
        for b, h, i in np.ndindex(weights.shape[:3]) if layer >= 2 else ():
            row, on = weights[b, h, i], weights[b, h, i] * sink[b]
            rest = row - on
            if on.sum() and rest.sum() >= 0.4:
                weights[b, h, i] = 0.3 * on + rest * (1 + 0.7 * on.sum() / rest.sum())
                changed += 1
        expected = (weights @ value)[:, :, start : start + out.shape[2]]
        assert np.abs(out - expected).max() < TOLERANCE, (layer, start)
    assert changed > 50
    sinks = {r.layer: r.found["visual sinks"] for r in session.report().readings}
    assert set(sinks) == {2, 3}
    assert all(key < KEYS - 4 for key in sinks[2][1])


@pytest.mark.parametrize("bias", BIASES, ids=["all", "hidden"])
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_act_calibrates_by_means_over_the_rows_so_far_that_see_a_key(cuts, bias, arrays):
    theta, beta = 0.12, 0.4
    found, session = ran(ACT(theta=theta, beta=beta), arrays, cuts, bias)
    sinks = 0
    for (layer, start), out in found.items():
        weights, value = softmax(arrays, layer, 0 if bias is None else bias)
        end = start + out.shape[2]
        seen = np.broadcast_to(VALID[:, None], (2, PROMPT + STEPS, KEYS))
        seen = seen if bias is None else seen & (bias[:, 0] == 0)
        counts = np.maximum(seen[:, :end].sum(1), 1)[:, None]
        sink = weights[:, :, :end].sum(2) / counts > theta  # [B, H, M]; the first key may be one
        on = (weights * sink[:, :, None]).sum(-1, keepdims=True)
        off = (weights * ~sink[:, :, None]).sum(-1, keepdims=True)
        other = weights * (1 + (1 - beta) * on / np.where(off > 0, off, 1))
        if layer >= 2:  # a row in which nobody can receive stays as it is
            calibrated = np.where(sink[:, :, None], beta * weights, other)
            weights = np.where(off > 0, calibrated, weights)
            sinks += sink.sum()
        expected = (weights @ value)[:, :, start:end]
        assert np.abs(out - expected).max() < TOLERANCE, (layer, start)
    assert sinks > 20
    assert any(0 in item for r in session.report().readings for item in r.found["sinks"])


def test_vhr_compares_with_nothing(arrays):
    """Without an image there is nothing to attend to: VHD is the norm of a head's output."""
    found, session = ran(VHR(alpha=3.0, layers=(1, 3)), arrays, (PROMPT, 8))
    for (layer, start), out in found.items():
        weights, value = softmax(arrays, layer)
        plain = weights @ value
        norm = np.linalg.norm(plain[:, :, PROMPT - 1], axis=-1)
        chosen = norm > np.median(norm, -1, keepdims=True)
        gate = np.where(chosen & (layer in (1, 3)), 3.0, 1.0)[..., None, None]
        expected = (plain * gate)[:, :, start : start + out.shape[2]]
        assert np.abs(out - expected).max() < TOLERANCE, (layer, start)
    assert session.report().readings
    with pytest.raises(ValueError, match="the prompt must be read in one call, got rows 0 to 2 of"):
        ran(VHR(), arrays, (3, PROMPT))


@pytest.mark.parametrize(
    "method", [VAR(sink_dims=DIMS, tau=TAU, p=0.3), ACT(theta=0.12), VHR()], ids=str
)
def test_states_follow_beams(method, arrays):
    plain, _ = ran(method, arrays, (PROMPT, 8))
    order = np.array([1, 0, 1])
    beams, _ = ran(method, arrays, (PROMPT, 8), reorder=order)
    for (layer, start), out in beams.items():
        expected = plain[layer, start] if start < PROMPT else plain[layer, start][order]
        np.testing.assert_allclose(out, expected, atol=1e-6)


def test_layers_of_both_kinds_in_one_generation(arrays):
    """Layers of the rows' own past are what they are without the others."""
    query, key, value, _ = arrays
    rng, outs = np.random.default_rng(1), []
    past = rng.standard_normal((2, 2, 2, PROMPT, SIZE), dtype=np.float32)
    for cross in ((), CROSS):
        session = Session(ACT(theta=0.1), num_layers=LAYERS, cross_layers=cross)
        with session.generation():
            for layer in cross[:1]:
                session.attend(layer, query[layer][:, :, :PROMPT], key[layer], value[layer])
            outs.append(session.attend(4, query[4][:, :, :PROMPT], *past))
    np.testing.assert_array_equal(*outs)


def test_items_without_an_image_are_left_alone(arrays):
    query, key, value, states = arrays
    image = np.zeros((2, PROMPT), bool)
    image[0, 2] = True
    for method in (VAR(sink_dims=DIMS, tau=TAU, p=0.1, rho=0), VHR(layers=(2,))):
        out = {}
        for methods in ((), method):
            session = Session(methods, num_layers=LAYERS, cross_layers=CROSS)
            with session.generation(image):
                out[bool(methods)] = session.attend(
                    2, query[2][:, :, :PROMPT], key[2], value[2], hidden_states=states[2]
                )
        np.testing.assert_array_equal(out[True][1], out[False][1])
        assert not np.array_equal(out[True][0], out[False][0])


def test_what_is_refused(arrays):
    query, key, value, states = arrays
    rows = query[3][:, :, :PROMPT]

    def session(method, **how):
        return Session(method, num_layers=LAYERS, cross_layers=CROSS, **how)

    with pytest.raises(ValueError, match="PAI does not say what it does in cross-attention"):
        session([ACT(), PAI()])
    with pytest.raises(ValueError, match=r"cross_layers must be from 0 to 5, got \[6\]"):
        Session((), num_layers=LAYERS, cross_layers=(6,))
    with pytest.raises(TypeError, match="cross_layers must hold integers"):
        Session((), num_layers=LAYERS, cross_layers=(1.5,))
    with pytest.raises(ValueError, match=r"layers \[1, 2, 3\] of this session have others"):
        session(()).record()
    one = session(VAR(tau=TAU))
    with one.generation(), pytest.raises(ValueError, match="sink_dims must be given for cross-"):
        one.attend(3, rows, key[3], value[3], hidden_states=states[3])
    one = session(VAR(sink_dims=DIMS, tau=TAU))
    with one.generation():
        with pytest.raises(ValueError, match=r"\[B, M, C\] that the keys are made of"):
            one.attend(3, rows, key[3], value[3])
        with pytest.raises(ValueError, match=r"hidden_states must be \[B, M, C\] with key's B, M"):
            one.attend(3, rows, key[3], value[3], hidden_states=states[3][:, :PROMPT])
        with pytest.raises(ValueError, match="window must be None in layer 3"):
            one.attend(3, rows, key[3], value[3], window=4)
        one.attend(3, rows, key[3], value[3], hidden_states=states[3])
        with pytest.raises(ValueError, match="keys of cross-attention must be the same in all"):
            one.attend(3, rows, key[3][:, :, :5], value[3][:, :, :5])
    with one.text_only(), pytest.raises(ValueError, match="leave it out of the text-only run"):
        one.attend(3, rows, key[3], value[3])
