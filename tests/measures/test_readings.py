"""Measures of given arrays equal their papers' formulas, written out in loops."""

import numpy as np
import pytest
from reattend import measures as m

RNG = np.random.default_rng(0)


def causal_weights(*shape):
    weights = np.tril(RNG.random(shape) + 1e-3)
    return weights / weights.sum(-1, keepdims=True)


def test_sink_metric():
    weights = causal_weights(3, 4, 9, 9)
    counts = 9 - np.arange(9)
    found = m.sink_metric(weights.sum(-2), counts, 0.25)
    for k in range(9):
        flags = [
            weights[layer, head, k:, k].sum() / (9 - k) > 0.25
            for layer in range(3)
            for head in range(4)
        ]
        assert found[k] == pytest.approx(np.mean(flags))
    assert len(set(found.tolist())) > 2
    assert np.isnan(m.sink_metric(np.zeros((2, 2)), np.array([0, 1]))).tolist() == [True, False]


def test_value_drain_and_dormant_heads():
    value, sinks = RNG.normal(size=(2, 3, 8, 5)), np.zeros((2, 8), bool)
    sinks[0, [0, 3]] = True
    found = m.value_drain(value, sinks)
    norms = np.linalg.norm(value[0], axis=-1)
    expected = norms[:, [0, 3]].mean(-1) / norms[:, [1, 2, 4, 5, 6, 7]].mean(-1)
    assert np.allclose(found[0], expected)
    assert np.isnan(found[1]).all()
    assert m.dormant_heads(np.array([[0.5, 0.5], [0.5, 0.6]])).tolist() == [False, True]
    with pytest.raises(ValueError, match=r"sinks must be bool \[M\]"):
        m.value_drain(value, np.zeros(7, bool))


def test_massive_activations():
    states = RNG.normal(size=(2, 6, 32)).astype(np.float32) * 0.05
    states[0, 2, 7], states[0, 4, 1], states[1, 0, 0] = -300, 150, 90
    found = m.massive_activations(states)
    for layer in range(2):
        flat = np.sort(np.abs(states[layer]).ravel())[::-1]
        assert np.array_equal(found.top[layer], flat[:3])
        assert found.median[layer] == np.median(flat)
    assert found.massive.tolist() == [[True, True, False], [False, False, False]]
    assert found.places[0, :2].tolist() == [[2, 7], [4, 1]]
    with pytest.raises(ValueError, match="at least k numbers"):
        m.massive_activations(states, k=0)


def test_cosines():
    states = RNG.normal(size=(2, 5, 7))
    image = np.array([False, True, True, False, False])

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    for x, first, aligned in zip(
        states, m.cosine_to_first(states), m.modality_alignment(states, image), strict=True
    ):
        assert np.allclose(first, [cosine(x[0], y) for y in x])
        pairs = [cosine(x[i], x[j]) for i in (1, 2) for j in (0, 3, 4)]
        assert aligned == pytest.approx(np.mean(pairs))
    assert np.isnan(m.cosine_to_first(np.zeros((2, 3)))).all()
    with pytest.raises(ValueError, match="mark some tokens, not all"):
        m.modality_alignment(states, np.ones(5, bool))


def test_rollout():
    weights = causal_weights(3, 6, 6)
    reached = np.eye(6)
    for layer in weights:
        both = 0.5 * layer + 0.5 * np.eye(6)
        reached = both @ reached
    assert np.allclose(m.rollout(weights), reached)
    assert np.allclose(m.rollout(weights).sum(-1), 1)


def test_flow_equals_the_smallest_cut():
    """The most that flows is the least that must be cut: tried for every set of nodes."""
    weights = causal_weights(2, 3, 3)
    capacity = {}
    for depth, layer in enumerate(weights):
        both = (layer + np.eye(3)) / 2
        for i in range(3):
            for j in range(3):
                capacity[(depth + 1, i), (depth, j)] = both[i, j]
    nodes = sorted({node for edge in capacity for node in edge})
    for row in range(3):
        found = m.flow(weights, row)
        for token in range(3):
            source, target = (2, row), (0, token)
            others = [node for node in nodes if node not in (source, target)]
            least = np.inf
            for bits in range(2 ** len(others)):
                side = {source, *(node for i, node in enumerate(others) if bits >> i & 1)}
                cut = sum(c for (a, b), c in capacity.items() if a in side and b not in side)
                least = min(least, cut)
            assert found[token] == pytest.approx(least)


def test_absurd_lengths_are_refused():
    with pytest.raises(ValueError, match="at most 256 tokens, got 300"):
        m.flow(np.zeros((1, 300, 300), np.float32))
    big = np.broadcast_to(np.float32(0), (1, 5000, 5000))
    with pytest.raises(ValueError, match="at most 4096 tokens, got 5000"):
        m.rollout(big)
    with pytest.raises(ValueError, match=r"\[L, N, N\], heads averaged"):
        m.rollout(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="row must be from -3 to 2"):
        m.flow(np.zeros((2, 3, 3)), 3)


def test_jensen_shannon():
    weights = causal_weights(2, 4, 5, 6)
    found = m.jensen_shannon(weights)
    for layer in range(2):
        for a in range(4):
            for b in range(4):
                total = 0.0
                for p, q in zip(weights[layer, a], weights[layer, b], strict=True):
                    mid = (p + q) / 2
                    for x in (p, q):
                        some = x > 0
                        total += (x[some] * np.log(x[some] / mid[some])).sum() / 2
                assert found[layer, a, b] == pytest.approx(total, abs=1e-12)


def test_retrieval_score():
    prompt = np.array([5, 9, 9, 7, 3, 2])
    needle, generated = (2, 5), np.array([9, 3, 3, 8])
    weights = RNG.random((4, 2, 3, 9))
    weights[0, 0, 0, 2] = 2  # in the needle and the same: counts
    weights[1, 0, 0, 3] = 2  # in the needle, another token
    weights[0, 0, 1, 1] = 2  # the same token, outside
    weights[1, 0, 1, 4] = weights[2, 0, 1, 4] = 2  # twice
    found = m.retrieval_score(weights, prompt, generated, needle)
    for layer in range(2):
        for head in range(3):
            count = 0
            for step, token in enumerate(generated):
                top = int(np.argmax(weights[step, layer, head]))
                count += 2 <= top < 5 and prompt[top] == token
            assert found[layer, head] == pytest.approx(count / 3)
    assert found[0, 0] >= 1 / 3
    assert found[0, 1] >= 2 / 3
    with pytest.raises(ValueError, match="needle must lie within 0 to 6"):
        m.retrieval_score(weights, prompt, generated, (4, 7))
    with pytest.raises(ValueError, match="a step for each of generated_ids"):
        m.retrieval_score(weights[:3], prompt, generated, needle)


def test_logit_attribution_adds_up():
    outputs, projection = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(7, 12))
    unembedding = RNG.normal(size=(5, 7))
    found = m.logit_attribution(outputs, projection, unembedding)
    for item in range(2):
        for head in range(3):
            alone = np.zeros((3, 4))
            alone[head] = outputs[item, head]
            assert np.allclose(found[item, head], unembedding @ (projection @ alone.ravel()))
    with pytest.raises(ValueError, match=r"\[C, 12\] of head_outputs"):
        m.logit_attribution(outputs, projection[:, :11], unembedding)


def test_ships():
    logits, others = RNG.normal(size=9), RNG.normal(size=(2, 3, 9))
    p = np.exp(logits) / np.exp(logits).sum()
    for index in np.ndindex(2, 3):
        q = np.exp(others[index]) / np.exp(others[index]).sum()
        assert m.ships(logits, others)[index] == pytest.approx((p * np.log(p / q)).sum())


def test_pruning_order():
    importance = RNG.random((3, 4))
    expected = sorted(
        ((i, j) for i in range(3) for j in range(4)),
        key=lambda at: importance[at] / np.sqrt((importance[at[0]] ** 2).sum()),
    )
    assert m.pruning_order(importance) == expected
    with pytest.raises(ValueError, match="numbers from 0"):
        m.pruning_order(-importance)


def test_documents():
    weights = causal_weights(2, 3, 8, 8)[..., -1, :]
    documents = np.array([-1, 0, 0, 2, 2, 2, 1, -1])
    mean = weights.mean((0, 1))
    found = m.mass_by_document(weights, documents)
    assert np.allclose(found, [mean[1:3].sum(), mean[6], mean[3:6].sum()])
    order = m.sorting_order(found)
    assert (np.diff(found[order]) >= 0).all()
    slots = m.slot_order(found, np.array([0.1, 0.9, 0.5]))
    assert slots[found.argmax()] == 1
    assert slots[found.argmin()] == 0
    with pytest.raises(ValueError, match=r"documents must be integers \[M\] of weights = \(8,\)"):
        m.mass_by_document(weights, documents[:7])
    with pytest.raises(ValueError, match="must be below the number of keys, 8, got 1000000000000"):
        m.mass_by_document(weights, np.where(documents == 0, 10**12, documents))


def test_relative_map():
    question, generic = RNG.random((4, 5)), RNG.random((4, 5))
    assert np.allclose(m.relative_map(question, generic), question / generic)
    assert np.allclose(m.relative_map(question, generic, 0.1), question / (generic + 0.1))
    generic[0, 0] = 0
    with pytest.raises(ValueError, match="must not be 0 where weights are not"):
        m.relative_map(question, generic)
    question[0, 0] = 0
    assert m.relative_map(question, generic)[0, 0] == 0


def test_grounding_map():
    weights = RNG.random((3, 6, 10))
    top = np.argsort(-weights.sum(-1).mean(0))[:2]
    expected = (weights[:, top[0]] + weights[:, top[1]]).mean(0) / 2
    assert np.allclose(m.grounding_map(weights, 2), expected)
    with pytest.raises(ValueError, match="num_heads from 1 to H"):
        m.grounding_map(weights, 7)


def test_best_crop():
    patches = RNG.random((8, 9)) * 0.1
    patches[3:6, 4:6] += 1
    sizes = [(2, 2), (3, 2), (4, 4)]
    best = None
    for height, width in sizes:
        sums = {
            (i, j): patches[i : i + height, j : j + width].sum()
            for i in range(9 - height)
            for j in range(10 - width)
        }
        i, j = max(sums, key=sums.get)
        near = [sums[at] for at in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)) if at in sums]
        score = (sums[i, j] - np.mean(near)) / (height * width)
        if best is None or score > best[0]:
            best = (score, (i, j, i + height, j + width))
    assert tuple(m.best_crop(patches, sizes)) == best[1] == (3, 4, 6, 6)
    assert tuple(m.best_crop(patches, [(8, 9)])) == (0, 0, 8, 9)
    with pytest.raises(ValueError, match="sizes must be from 1"):
        m.best_crop(patches, [(9, 1)])


def test_neighbour_rings():
    weights = RNG.random((2, 12, 12))
    found = m.neighbour_rings(weights, (3, 4))
    for k in range(4):
        ring = [
            weights[:, a, b]
            for a in range(12)
            for b in range(12)
            if max(abs(a // 4 - b // 4), abs(a % 4 - b % 4)) == k
        ]
        assert np.allclose(found[:, k], np.mean(ring, 0))
    with pytest.raises(ValueError, match="P = 6"):
        m.neighbour_rings(weights, (2, 3))
