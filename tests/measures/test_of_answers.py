"""Measures for methods around attention equal their formulas, written out in plain loops."""

import itertools

import numpy as np
import pytest
from reattend import measures

RNG = np.random.default_rng(0)


def attention(*shape):
    weights = RNG.random(shape) ** 3
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("rows", [1, 4, 9])
def test_over_trust(rows):
    weights = attention(2, 3, rows, 12)
    found = measures.over_trust(weights, scale=20.0, base=0.5)
    for item in range(2):
        most = weights[item].max(0)
        most /= most.sum(-1, keepdims=True)
        own = most[:, 12 - rows :]
        phi = [0.5 * np.prod([20 * own[i, j] for i in range(j, rows)]) for j in range(rows)]
        assert np.exp(found.log_penalty[item]) == pytest.approx(max(phi))
        assert found.place[item] == int(np.argmax(phi))


def test_over_trust_stays_a_number_over_long_answers():
    weights = np.full((1, 900, 900), 0.0)
    weights[0, :, 3] = 1.0  # all lean on one token
    weights[0, :3] = np.eye(900)[:3]
    found = measures.over_trust(weights)
    assert found.place == 3
    assert found.log_penalty == pytest.approx(897 * np.log(50) + np.log(1e-7))


def test_head_pursuit_finds_what_was_mixed():
    dictionary = RNG.standard_normal((40, 16)) * RNG.uniform(0.1, 9, (40, 1))
    wanted = [7, 22, 31]
    amounts = RNG.standard_normal((50, 3)) * (9, 3, 1)
    unit = dictionary / np.linalg.norm(dictionary, axis=1, keepdims=True)
    outputs = amounts @ unit[wanted]
    found = measures.head_pursuit(outputs, dictionary, 5)
    assert found.atoms[:3].tolist() == wanted
    assert len(found.atoms) == 3, "nothing is left to explain"
    for n in (1, 2, 3):
        basis = unit[wanted[:n]].T
        left = outputs.T - basis @ np.linalg.lstsq(basis, outputs.T, rcond=None)[0]
        assert found.explained[n - 1] == pytest.approx(1 - (left**2).sum() / (outputs**2).sum())
    assert measures.head_pursuit(np.zeros((3, 16)), dictionary, 2).atoms.size == 0


def test_side_branch():
    weights, value = attention(2, 4, 14), RNG.standard_normal((2, 2, 14, 5))
    image = np.zeros((2, 14), bool)
    image[:, 4:9] = True
    seen = np.ones((2, 14), bool)
    seen[1, :3] = False
    found = measures.side_branch(weights, value, image, seen)
    for item in range(2):
        first = [0, 3][item]
        text = [j for j in range(first + 1, 14) if not image[item, j]]
        ratios, outputs = [], []
        for head in range(4):
            row, entropies = weights[item, head].copy(), []
            row[~seen[item]] = 0
            for keys in (text, range(4, 9)):
                keys = [*keys]
                limit = row[keys].mean() + row[keys].std(ddof=1)
                row[keys] = np.where(row[keys] > limit, 0, row[keys])
                p = row[keys] / row[keys].sum()
                entropies.append(-(p * np.log(p + 1e-6)).sum())
            ratios.append(entropies[0] / entropies[1])
            outputs.append(row @ value[item, head // 2])
        assert found.ratio[item] == pytest.approx(ratios)
        assert found.kept[item].tolist() == [r >= np.mean(ratios) for r in ratios]
        for head in range(4):
            right = outputs[head] if found.kept[item, head] else np.zeros(5)
            assert found.outputs[item, head] == pytest.approx(right)
    assert 0 < found.kept.sum() < 8
    with pytest.raises(ValueError, match="at least two keys of image, the first key aside"):
        measures.side_branch(weights, value, np.zeros((2, 14), bool))


def test_evidence_saliency():
    weights = RNG.random((3, 6, 4, 10)) ** 8
    found = measures.evidence_saliency(weights, tau=1.5, share=0.5)
    lit = []
    for layer in range(6):
        mean = weights[:, layer].mean(0)
        heads = sorted(range(4), key=lambda h: -mean[h].sum())[:2]
        mean = mean[heads].mean(0)
        lit.append(mean > 1.5 * mean.mean())
    count = np.zeros(10)
    for before, now in itertools.pairwise(lit):
        count += now & ~before
    assert count.max() > 1
    assert found == pytest.approx(count / count.max())
    assert not measures.evidence_saliency(np.ones((1, 2, 1, 4))).any()
