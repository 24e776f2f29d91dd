"""Where an answer looks, and the methods to compare with: against the full matrix."""

import numpy as np
import pytest
from reattend import ACT, VAR, Session
from reattend.demo.tracing import WatchedAnswer
from reattend.evaluation.baselines import Brighten, OnePassVHR
from reattend.measures import head_divergence
from reattend.sinks import sink_score

LAYERS, HEADS, PROMPT, STEPS, SIZE = 6, 4, 11, 3, 8
IMAGE = slice(3, 8)


@pytest.fixture
def arrays(rng):
    shape = (LAYERS, 1, HEADS, PROMPT + STEPS, SIZE)
    query, key, value = rng.standard_normal((3, *shape), dtype=np.float32)
    key[:, :, :, 5] *= 3
    states = rng.standard_normal((LAYERS, 1, PROMPT + STEPS, 16), dtype=np.float32)
    states[:, :, [0, 4], 7] = 40
    return 2 * query, key, value, states


def run(session, arrays):
    """Read the prompt, then its steps, and give the outputs of all rows [L, H, N, D]."""
    image = np.zeros((1, PROMPT), dtype=bool)
    image[:, IMAGE] = True
    outs = []
    with session.generation(image):
        for start, stop in ((0, PROMPT), *((PROMPT + i, PROMPT + i + 1) for i in range(STEPS))):
            rows = []
            for layer, (query, key, value, states) in enumerate(zip(*arrays, strict=True)):
                out = session.attend(
                    layer, query[:, :, start:stop], key[:, :, :stop], value[:, :, :stop],
                    hidden_states=states[:, start:stop],
                )  # fmt: skip
                rows.append(out[0])
            outs.append(np.stack(rows))
    return np.concatenate(outs, axis=2)


def full_matrix(arrays):
    query, key = (each[:, 0].astype(np.float64) for each in arrays[:2])
    scores = query @ key.swapaxes(-1, -2) / SIZE**0.5
    scores[:, :, ~np.tri(scores.shape[-1], dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)  # [L, H, N, M]


def test_what_is_watched_is_in_the_full_matrix(arrays):
    session = WatchedAnswer([], num_layers=LAYERS, num_heads=HEADS, sink_dims=(7,))
    run(session, arrays)
    seen, weights = session.watched(), full_matrix(arrays)[:, :, PROMPT:]
    on_image = weights[..., IMAGE].sum(-1).mean(-1)
    np.testing.assert_allclose(seen.before, on_image, atol=1e-6)
    np.testing.assert_allclose(seen.after, on_image, atol=1e-6)
    np.testing.assert_allclose(seen.keys, weights.mean((1, 2))[:, :PROMPT], atol=1e-6)
    np.testing.assert_allclose(seen.scores, sink_score(arrays[3][:, 0, :PROMPT], (7,)), rtol=1e-6)


@pytest.mark.parametrize(
    "method", [VAR(sink_dims=(7,), tau=0.5, image_mass=0.0, rho=0.0), ACT(theta=0.1), Brighten(0.7)]
)
def test_tracing_changes_nothing(arrays, method):
    watched = WatchedAnswer(method, num_layers=LAYERS, num_heads=HEADS, sink_dims=(7,))
    np.testing.assert_array_equal(
        run(watched, arrays), run(Session(method, num_layers=LAYERS), arrays)
    )
    seen = watched.watched()
    changed = np.abs(seen.after - seen.before).max(-1) > 1e-4
    assert changed[2:-1].any()
    assert not changed[[0, 1, -1]].any()


def test_brighten_is_its_formula(arrays):
    keep, weights = 0.7, full_matrix(arrays)
    watched = WatchedAnswer(Brighten(keep), num_layers=LAYERS, num_heads=HEADS)
    out = run(watched, arrays)
    image = np.zeros(PROMPT + STEPS, dtype=bool)
    image[IMAGE] = True
    mass = weights[..., image].sum(-1, keepdims=True)
    edited = np.where(
        image, weights * (1 + (1 - keep) * (1 - mass) / np.maximum(mass, 1e-30)), keep * weights
    )
    edited[:, :, : IMAGE.stop] = weights[:, :, : IMAGE.stop]
    edited[[0, 1, -1]] = weights[[0, 1, -1]]
    np.testing.assert_allclose(edited.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(out, edited @ arrays[2][:, 0], atol=1e-5)
    after = edited[:, :, PROMPT:][..., image].sum(-1).mean(-1)
    np.testing.assert_allclose(watched.watched().after, after, atol=1e-6)
    with pytest.raises(ValueError, match="keep must be from 0 to 1"):
        Brighten(1.5)


def test_the_shortcut_compares_with_the_row_without_its_image(arrays):
    method = OnePassVHR(alpha=1.5)
    session = Session(method, num_layers=LAYERS)
    out = run(session, arrays)
    value = arrays[2][:, 0]
    weights = full_matrix(arrays)
    last = weights[:, :, PROMPT - 1, :PROMPT]
    blind = last.copy()
    blind[..., IMAGE] = 0
    blind /= blind.sum(-1, keepdims=True)
    plain, without = (np.einsum("lhm,lhmd->lhd", w, value[:, :, :PROMPT]) for w in (last, blind))
    found = head_divergence(plain, without)
    factors = np.ones((LAYERS, HEADS))
    for reading in session.report().readings:
        layer = reading.layer
        np.testing.assert_allclose(
            reading.found["divergence"][0], found.divergence[layer], rtol=1e-4
        )
        if layer in method.layers_for(LAYERS):
            factors[layer] = np.where(found.chosen[layer], 1.5, 1)
    assert (factors > 1).any()
    expected = weights @ value * factors[..., None, None]
    np.testing.assert_allclose(out, expected, atol=1e-5)
