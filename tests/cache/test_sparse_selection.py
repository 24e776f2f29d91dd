"""Selections for steps and heads equal their formulas, and attention on them is exact."""

import itertools

import numpy as np
import pytest
from reattend import attention, reference
from reattend.cache import selection
from reattend.measures import attention_rows

B, H, KV, M, D = 2, 4, 2, 30, 16


@pytest.fixture
def arrays(rng):
    query = rng.standard_normal((B, H, 1, D), np.float32)
    return query, *rng.standard_normal((2, B, KV, M, D), np.float32)


def on_keys(query, key, value, indices):
    """Attention of one row on chosen keys [B, H, K], key by key in float64."""
    out = np.empty((B, H, 1, D))
    for b in range(B):
        for h in range(H):
            some = np.unique(indices[b, h])
            near, read = key[b, h // 2, some].astype(float), value[b, h // 2, some].astype(float)
            weights = np.exp(near @ query[b, h, 0].astype(float) / np.sqrt(D))
            out[b, h, 0] = weights / weights.sum() @ read
    return out


def on_bias(query, key, value, indices):
    return attention(query, key, value, bias=selection.selection_bias(indices, M))


def test_loki_of_full_rank_ranks_as_attention_does(arrays):
    query, key, value = arrays
    components = selection.key_components(key)
    scores = selection.low_rank_scores(query[:, :, 0], key, components, D)
    right = query.astype(float) @ key.astype(float).repeat(2, 1).swapaxes(-1, -2) / 4
    assert np.abs(scores - right[:, :, 0]).max() < 1e-6
    few = selection.low_rank_scores(query[:, :, 0], key, components, 3)
    for b in range(B):
        for h in range(H):
            p = components[h // 2][:, :3]
            by_hand = (query[b, h, 0] @ p) @ (key[b, h // 2] @ p).T / 4
            assert np.abs(few[b, h] - by_hand).max() < 1e-6
    indices = selection.highest(few, 7)
    right = on_keys(query, key, value, indices)
    assert np.abs(on_bias(query, key, value, indices) - right).max() < 2e-6


def test_components_are_those_of_the_covariance(arrays):
    key = arrays[1]
    components = selection.key_components(key)
    for head in range(KV):
        flat = key[:, head].reshape(-1, D).astype(float)
        variance = ((flat - flat.mean(0)) @ components[head]).var(0)
        assert (np.diff(variance) <= 1e-9).all()
        assert np.abs(components[head].T @ components[head] - np.eye(D)).max() < 1e-9


def test_stripes_are_the_fewest_keys(arrays):
    query, key, _ = arrays
    weights = attention_rows(np.repeat(query, 3, 2), key, range(3))
    chosen = selection.stripes(weights, 0.8)
    total = weights.sum(2)
    for b in range(B):
        for h in range(H):
            falling = np.sort(total[b, h])[::-1]
            need = np.flatnonzero(np.cumsum(falling) >= 0.8 * falling.sum() - 1e-9)[0] + 1
            assert chosen[b, h].sum() == need
            assert total[b, h][chosen[b, h]].min() >= total[b, h][~chosen[b, h]].max()
    assert selection.stripes(weights, 1.0).all()


def test_a_compensation_key_stands_for_its_number(arrays):
    """If all keys left out are equal, nothing is lost."""
    query, key, value = arrays
    kept = np.array([[0, 1, 5], [2, 3, 29]])  # of each key head
    gone = np.ones((KV, M), bool)
    np.put_along_axis(gone, kept, False, -1)
    same = np.where(gone[..., None], key[:, :, :1], key)
    values = np.where(gone[..., None], value[:, :, :1], value)
    found = selection.compensated(same, values, kept)
    out = attention(query, found.key, found.value, bias=found.bias.repeat(2, 1))
    assert np.abs(out - reference.attention(query, same, values)).max() < 2e-6
    all_kept = selection.compensated(key, value, np.arange(M))
    out = attention(query, all_kept.key, all_kept.value, bias=all_kept.bias.repeat(2, 1))
    assert np.abs(out - reference.attention(query, key, value)).max() < 2e-6


def test_recycled_keys_are_those_of_the_last_full_step(arrays, rng):
    query, key, _value = arrays
    recycled = selection.Recycled(5, every=3, similarity=0.5)
    full = []
    for step in range(8):
        num_keys = M - 8 + step
        row = query + 0.01 * step if step != 4 else -query
        keys = recycled.keys(row[:, :, 0], num_keys)
        full.append(keys is None)
        if keys is None:
            weights = attention_rows(row, key[:, :, :num_keys])[:, :, 0]
            recycled.note(row[:, :, 0], weights)
            best, length = selection.highest(weights, 5), num_keys
            continue
        since = np.arange(length, num_keys)
        for b in range(B):
            for h in range(H):
                assert keys[b, h].tolist() == [*best[b, h], *since]
        assert np.isfinite(selection.selection_bias(keys, num_keys)).sum() == B * H * keys.shape[-1]
    # All at first; after three steps; where the query turns, and where it turns back.
    assert full == [True, False, False, True, True, True, False, False]


def test_lazy_layers_and_far_heads(rng):
    weights = rng.random((3, H, M))
    weights /= weights.sum(-1, keepdims=True)
    share = selection.lazy_share(weights, sinks=2, recent=4)
    for layer in range(3):
        near = [weights[layer, h, [0, 1, 26, 27, 28, 29]].sum() for h in range(H)]
        assert share[layer] == pytest.approx(np.mean(near))
    assert selection.lazy_share(weights, sinks=20, recent=20) == pytest.approx(np.ones(3))
    outputs = rng.random((H, D))
    far = [np.linalg.norm(outputs[h] - outputs.mean(0)) for h in range(H)]
    assert selection.centre_distance(outputs) == pytest.approx(far)
    scores = rng.random((B, KV, M))
    kept = selection.sinks_recent_middle(scores, sinks=2, recent=3, middle=4)
    for b in range(B):
        for g in range(KV):
            middle = sorted(range(2, M - 3), key=lambda j: -scores[b, g, j])[:4]
            assert kept[b, g].tolist() == [0, 1, *sorted(middle), 27, 28, 29]
    assert selection.sinks_recent_middle(scores, recent=99).shape == (B, KV, M)


def test_image_tiers_are_nested(rng):
    scores = rng.random((B, KV, M))
    found = selection.image_tiers(scores, core=3, stored=9)
    for b in range(B):
        for g in range(KV):
            order = np.argsort(-scores[b, g])
            assert {*found.core[b, g]} == {*order[:3]}
            assert {*found.stored[b, g]} == {*order[:9]}


def test_chunks_score_by_their_mean_and_length(arrays):
    query, key, _ = arrays
    starts = np.array([0, 1, 9, 20])
    scores = selection.chunk_scores(query[:, :, 0], key, starts)
    for b in range(B):
        for h in range(H):
            for start, end in zip(starts, [1, 9, 20, M], strict=True):
                mean = key[b, h // 2, start:end].astype(float).mean(0)
                right = query[b, h, 0] @ mean * np.sqrt(end - start)
                assert scores[b, h, start:end] == pytest.approx(right)


@pytest.mark.parametrize(("keep", "block"), [(2, 3), (3, 1), (1, 4), (40, 1)])
def test_a_tree_goes_where_its_middle_keys_score(keep, block, arrays):
    query, key, value = arrays
    found = selection.tree_keys(query[:, :, 0], key, keep=keep, block=block)
    for b in range(B):
        for h in range(H):
            edges = [M * i // keep for i in range(keep + 1)]
            ranges = list(itertools.pairwise(edges))
            while keep * block < M and max(b - a for a, b in ranges) > block:
                halves = [(a, (a + c) // 2) for a, c in ranges]
                halves += [((a + c) // 2, c) for a, c in ranges]
                halves = [each for each in halves if each[0] < each[1]]
                score = {r: key[b, h // 2, (r[0] + r[1]) // 2] @ query[b, h, 0] for r in halves}
                ranges = sorted(halves, key=lambda r: -score[r])[:keep]
            right = sorted(j for a, c in ranges for j in range(a, c))
            assert sorted({*found[b, h].tolist()}) == right
    right = on_keys(query, key, value, found)
    assert np.abs(on_bias(query, key, value, found) - right).max() < 2e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: selection.selection_bias(np.array([[[5]]]), 5), "indices must be keys from 0 to"),
        (lambda: selection.stripes(np.ones((1, 2)), 0), "share must be above 0"),
        (lambda: selection.chunk_scores(np.ones((1, 1, 2)), np.ones((1, 1, 3, 2)), [1]), "starts"),
        (lambda: selection.tree_keys(np.ones((1, 3, 2)), np.ones((1, 2, 3, 2)), keep=1, block=1),
         "query must be"),
        (lambda: selection.image_tiers(np.ones((1, 1, 3)), core=2, stored=1), "core must be"),
        (lambda: selection.compensated(np.ones((1, 2, 3, 1)), np.ones((1, 2, 3, 1)),
                                       np.zeros((5, 2, 1), int)), "indices must broadcast"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
