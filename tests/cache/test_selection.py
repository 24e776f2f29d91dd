"""Kept keys give what a mask over all keys gives; scores equal their formulas."""

import numpy as np
import pytest
from reattend import KVCache, attention, reference
from reattend.cache import selection
from reattend.measures import attention_rows

B, H, KV, M, D = 2, 4, 2, 30, 16


@pytest.fixture
def arrays(rng):
    query = rng.standard_normal((B, H, M, D), np.float32)
    return query, *rng.standard_normal((2, B, KV, M, D), np.float32)


def chosen(name, query, key):
    weights = reference.weights(query, key, causal=True)[0]
    if name == "H2O":
        return selection.highest(selection.observed_scores(weights.sum(2), KV), 9)
    if name == "SnapKV":
        rows = attention_rows(query, key, range(M - 4, M))
        return selection.highest(selection.window_scores(rows, KV), 9)
    if name == "TOVA":
        return selection.highest(selection.last_row_scores(attention_rows(query, key), KV), 9)
    if name == "A2SF":
        return selection.highest(selection.forgetting_scores(weights, KV), 9)
    return selection.streaming(M, sinks=2, recent=5)


@pytest.mark.parametrize("name", ["H2O", "SnapKV", "TOVA", "A2SF", "streaming"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_kept_keys_equal_a_mask(name, dtype, arrays, rng):
    query, key, value = arrays
    cache = KVCache(2, dtype=dtype)
    cache.append(1, key, value)
    branch = cache.fork()
    kept = chosen(name, query, key)
    cache.keep(1, kept)
    new_key, new_value = rng.standard_normal((2, B, KV, 1, D), np.float32)
    row = rng.standard_normal((B, H, 1, D), np.float32)
    found = attention(row, *cache.append(1, new_key, new_value))
    bias = np.full((B, KV, 1, M + 1), -np.inf, np.float32)
    np.put_along_axis(bias, np.broadcast_to(kept, (B, KV, kept.shape[-1]))[:, :, None], 0, -1)
    bias[..., -1] = 0
    whole = branch.append(1, new_key, new_value)  # the fork still has them all
    masked = attention(row, *whole, bias=bias.repeat(H // KV, 1))
    assert np.abs(found - masked).max() < 2e-6
    assert cache.length(1) == kept.shape[-1] + 1
    assert branch.length(1) == M + 1
    cache.crop(3)
    assert cache.length(1) == 3


def test_scores_equal_their_formulas(arrays):
    query, key, _ = arrays
    weights = reference.weights(query, key, causal=True)[0]
    h2o = selection.observed_scores(weights.sum(2), KV)
    a2sf = selection.forgetting_scores(weights, KV, forget=0.9)
    snap = selection.window_scores(weights[:, :, -4:], KV, pool=3)
    for b in range(B):
        for g in range(KV):
            pair = weights[b, 2 * g : 2 * g + 2].mean(0)
            for j in range(M):
                assert h2o[b, g, j] == pytest.approx(pair[:, j].sum() / (M - j))
                old = sum(0.9 ** (M - 1 - i) * pair[i, j] for i in range(M))
                assert a2sf[b, g, j] == pytest.approx(old)
            for j in range(M - 4):
                near = [pair[-4:, i].mean() for i in (j - 1, j, j + 1) if 0 <= i < M - 4]
                assert snap[b, g, j] == pytest.approx(sum(near) / 3)
            assert np.isinf(snap[b, g, -4:]).all()
    tova = selection.last_row_scores(weights[:, :, -1:], KV)
    assert np.allclose(tova[:, 0, :-1], weights[:, :, -1, :-1].mean(1))
    assert np.isinf(tova[..., -1]).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: c.keep(0, np.array([0, 5])), ValueError, "keys from 0 to 4, got 0 to 5"),
        (lambda c: c.keep(0, np.array([-1])), ValueError, "keys from 0 to 4"),
        (lambda c: c.keep(0, np.array([0.5])), TypeError, "indices must be integers"),
        (lambda c: c.keep(0, np.zeros((3, 1, 2), int)), ValueError, "must broadcast to"),
        (lambda c: c.keep(9, np.array([0])), ValueError, "layer must be from 0 to 0"),
        (lambda c: selection.highest(np.zeros((1, 1, 3)), 4), ValueError, "count must be from 0"),
        (lambda c: selection.observed_scores(np.zeros((1, 3, 2)), 2), ValueError, "must divide 3"),
        (lambda c: selection.streaming(3, sinks=-1), ValueError, "sinks must be at least 0"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    cache = KVCache(1)
    cache.append(0, np.ones((2, 2, 5, 3)), np.ones((2, 2, 5, 3)))
    with pytest.raises(error, match=message):
        call(cache)
