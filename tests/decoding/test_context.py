"""Votes for the context's tokens and merged branches equal their formulas, in plain loops."""

import numpy as np
import pytest
from reattend.decoding import DAGCD, AttentionBuckets, TwoBranch, context_votes

RNG = np.random.default_rng(0)
V = 12
IDS = np.array([3, 7, 3, 5, 7, 3])
WEIGHTS = RNG.random((4, 6))
LOGITS = RNG.standard_normal(V)


def softmax(z):
    p = np.exp(z - z.max())
    return p / p.sum()


def votes_by_hand(by, used):
    ratio = {u: [] for u in (3, 5, 7)}
    for head in WEIGHTS:
        mean = {u: np.mean([w for w, i in zip(head, IDS, strict=True) if i == u]) for u in ratio}
        for u in ratio:
            ratio[u].append(mean[u] / sum(mean.values()))
    sums = {u: np.dot(by, ratio[u]) if u in used else 0 for u in ratio}
    found = np.zeros(V)
    for u in ratio:
        found[u] = sums[u] / sum(sums.values())
    return found


def test_context_votes():
    assert context_votes(WEIGHTS, IDS, V) == pytest.approx(votes_by_hand(np.ones(4), {3, 5, 7}))
    by = np.array([1.0, 2.0, 0.5, 3.0])

    def probe(ratios):
        assert ratios.shape == (3, 4)
        assert ratios.sum(0) == pytest.approx(np.ones(4))
        return np.array([True, False, True])

    found = context_votes(WEIGHTS, IDS, V, head_weights=by, probe=probe)
    assert found == pytest.approx(votes_by_hand(by, {3, 7}))
    high = np.zeros(V)
    high[[7, 1, 5]] = 3, 2, 1
    found = context_votes(WEIGHTS, IDS, V, logits=high, top_rank=2)
    assert found == pytest.approx(np.eye(V)[7])
    assert not context_votes(WEIGHTS, IDS, V, probe=lambda ratios: ratios[:, 0] > 2).any()


def test_dagcd():
    votes = np.stack([context_votes(WEIGHTS, IDS, V), np.zeros(V)])
    rows = np.stack([LOGITS, LOGITS[::-1]])
    found = DAGCD(alpha=3.0)(rows, votes)
    for row, vote, out in zip(rows, votes, found, strict=True):
        p = softmax(row)
        right = p + 3 * -(p * np.log(p)).sum() / np.log(V) * vote
        assert np.exp(out) == pytest.approx(right)
    ends = DAGCD(end_tokens=(int(LOGITS.argmax()),))(rows, votes)
    assert np.exp(ends[0]) == pytest.approx(softmax(LOGITS))


def test_dagcd_as_a_processor_of_a_loop():
    """The votes take the place of a branch: whoever has a step's attention gives them."""

    class Votes:
        def begin(self):
            return context_votes(WEIGHTS, IDS, V)[None]

    found = TwoBranch(Votes(), setting=DAGCD())(np.array([[1, 2]]), LOGITS[None])
    assert np.array_equal(found, DAGCD()(LOGITS[None], context_votes(WEIGHTS, IDS, V)[None]))


@pytest.mark.parametrize("branches", [2, 3])
def test_attention_buckets(branches):
    all_ = [RNG.standard_normal((5, V)) * 3 for _ in range(branches)]
    found = AttentionBuckets()(*all_)
    for row in range(5):
        each = [softmax(branch[row]) for branch in all_]
        sure = [p.max() for p in each]
        right = sum(p * s for p, s in zip(each, sure, strict=True)) / sum(sure)
        assert np.exp(found[row]) == pytest.approx(right)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DAGCD(alpha=-1), "alpha must be a number from 0"),
        (lambda: DAGCD()(LOGITS), "must be given the votes"),
        (lambda: DAGCD()(LOGITS, LOGITS[:3]), "votes must have the shape of logits"),
        (lambda: AttentionBuckets()(LOGITS), "must be given other branches"),
        (lambda: AttentionBuckets()(LOGITS, LOGITS[:3]), "others must have the shape"),
        (lambda: context_votes(WEIGHTS, IDS, 5), "ids must be from 0 to 4, got 3 to 7"),
        (lambda: context_votes(WEIGHTS, IDS, V, top_rank=2), "logits must be given where top_rank"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
