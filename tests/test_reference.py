"""The specification against the formulas, written as loops over rows and keys."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from reattend import Epilogue, Reweight, Share, Transform, quantize, reference
from reattend.border.dtypes import to_float32
from reattend.policy import LARGEST

EXACT = 1e-12  # float64, a dozen numbers
BATCH, HEADS, KV_HEADS, DIM, VALUE_DIM = 3, 4, 2, 3, 2
SIZES = [(3, 5), (5, 5), (1, 4), (6, 4)]  # rows and keys
STATISTICS = ("score_sums", "abs_score_sums", "entropies", "largest", "largest_keys")


def inputs(rng, num_rows, num_keys):
    shapes = (HEADS, num_rows, DIM), (KV_HEADS, num_keys, DIM), (KV_HEADS, num_keys, VALUE_DIM)
    return [rng.normal(size=(BATCH, *shape)) for shape in shapes]


def masks(rng, num_rows, num_keys):
    """Give each mask argument alone, and all of them together."""
    hidden = rng.random((BATCH, num_keys)) < 0.6
    hidden[:, 0] = True, False, True
    ramp = rng.normal(size=(1, HEADS, num_keys - 1))
    each = {
        "scale": 0.7,
        "softcap": 0.5,
        "causal": True,
        "window": 2,
        "key_mask": hidden,
        "bias": rng.normal(size=(BATCH, HEADS, num_rows, num_keys)),
        "null_logit": rng.normal(size=(BATCH, HEADS, num_rows)),
        "transform": Transform(shift=ramp, slope=0.3 * ramp, first_row=num_keys - 2),
    }
    return [{}, *({name: value} for name, value in each.items()), each]


def rows_of(query, key, value, *, scale=None, softcap=None, causal=False, window=None,
            key_mask=None, bias=None, null_logit=None, transform=None):  # fmt: skip
    """Give each row's scores, attention and logsumexp by places (item, head, row)."""
    (_, _, num_rows, dim), num_keys = query.shape, key.shape[2]
    found = {}
    for b, h, i in np.ndindex(BATCH, HEADS, num_rows):
        here = num_keys - num_rows + i  # the place of the row among the keys
        scores = []
        for j in range(num_keys):
            dot = sum(query[b, h, i, d] * key[b, h // 2, j, d] for d in range(dim))
            score = dot / math.sqrt(dim) if scale is None else dot * scale
            if softcap is not None:
                score = softcap * math.tanh(score / softcap)
            if transform is not None and j < num_keys - 1 and here >= transform.first_row:
                shift, slope = transform.shift[0, h, j], transform.slope[0, h, j]
                score += shift + slope * abs(score)
            if bias is not None:
                score += bias[b, h, i, j]
            sees = not (causal and j > here)
            sees = sees and (window is None or here - window < j < here + window)
            sees = sees and (key_mask is None or key_mask[b, j])
            scores.append(score if sees else -math.inf)
        total = sum(math.exp(score) for score in scores)
        if null_logit is not None and total:
            total += math.exp(null_logit[b, h, i])
        found[b, h, i] = SimpleNamespace(
            scores=scores,
            weights=[math.exp(score) / total if total else 0.0 for score in scores],
            logsumexp=math.log(total) if total else -math.inf,
            values=value[b, h // 2],
        )
    return found


def masses_of(row, labels, count):
    return [sum(w for w, g in zip(row.weights, labels, strict=True) if g == label)
            for label in range(count)]  # fmt: skip


def weighed(row, factors):
    """Give sum_j factor_j A_j V_j."""
    each = zip(factors, row.weights, row.values, strict=True)
    return sum(factor * weight * value for factor, weight, value in each)


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("sizes", SIZES)
def test_weights_and_outputs(rng, sizes, number):
    arrays = inputs(rng, *sizes)
    mask = masks(rng, *sizes)[number]
    matrix, logsumexp, seen = reference.weights(*arrays[:2], **mask)
    out = reference.attention(*arrays, **mask)
    for place, row in rows_of(*arrays, **mask).items():
        np.testing.assert_allclose(matrix[place], row.weights, EXACT, EXACT)
        np.testing.assert_allclose(logsumexp[place], row.logsumexp, EXACT, EXACT)
        np.testing.assert_array_equal(seen[place], np.isfinite(row.scores))
        np.testing.assert_allclose(out[place], weighed(row, np.ones(sizes[1])), EXACT, EXACT)


@pytest.mark.parametrize("shape", [(1, 1), (BATCH, 1), (1, HEADS), (BATCH, HEADS)])
def test_segments(rng, shape):
    arrays = inputs(rng, 3, 5)
    labels = rng.integers(0, 3, (*shape, 4), np.uint8)  # the key beyond them is in segment 0
    labels[..., 0] = 2
    whole = np.pad(np.broadcast_to(labels, (BATCH, HEADS, 4)), ((0, 0), (0, 0), (0, 1)))
    state = reference.segment_pass(*arrays, segments=labels, causal=True)
    wider = reference.segment_pass(*arrays, segments=labels, num_segments=4, causal=True)
    assert state.masses.shape[-1] == 3
    assert not wider.masses[..., 3].any()
    assert not wider.partials[..., 3, :].any()
    np.testing.assert_array_equal(wider.masses[..., :3], state.masses)
    for (b, h, i), row in rows_of(*arrays, causal=True).items():
        masses = masses_of(row, whole[b, h], 3)
        np.testing.assert_allclose(state.masses[b, h, i], masses, EXACT, EXACT)
        for g in range(3):
            part = weighed(row, whole[b, h] == g)
            np.testing.assert_allclose(state.partials[b, h, i, g], part, EXACT, EXACT)


def test_policies_act_one_after_the_other(rng):
    arrays = inputs(rng, 3, 5)
    labels = np.array([[[0, 1, 2, 1, 0]]], np.uint8)
    first = Reweight((0.5, 1.0, 1.0), to=(2,))
    second = Reweight((1.0, 0.25, 1.0), to=(), when=Share(2, 0.3))
    where = rng.random((BATCH, HEADS, 3)) < 0.5
    ends = [Epilogue(scale=2.0), None]
    found = reference.attention(
        *arrays, segments=labels, policy=[first, second], where=[where, None], epilogue=ends,
        returns=("factors", "changed"),
    )  # fmt: skip
    for place, row in rows_of(*arrays).items():
        masses = masses_of(row, labels[0, 0], 3)
        factors = [1.0, 1.0, 1.0]
        if where[place]:
            factors = [0.5, 1.0, (masses[2] + 0.5 * masses[0]) / masses[2]]
        if masses[2] * factors[2] >= 0.3:
            factors[1] = 0.25
        out = weighed(row, [factors[g] for g in labels[0, 0]]) * (2.0 if where[place] else 1.0)
        np.testing.assert_allclose(found.factors[place], factors, EXACT, EXACT)
        np.testing.assert_allclose(found.out[place], out, EXACT, EXACT)
        assert found.changed[place] == (factors != [1.0, 1.0, 1.0])
    assert found.changed.any()
    assert not found.changed.all()


def test_one_policy_and_one_epilogue_are_for_the_same_rows(rng):
    arrays = inputs(rng, 3, 5)
    half, twice = Reweight((0.5,)), Epilogue(scale=2.0, shift=1.0)
    where = np.zeros((1, 1, 3), bool)
    where[..., 1] = True
    plain = reference.attention(*arrays)
    found = reference.attention(*arrays, policy=half, where=where, epilogue=twice)
    np.testing.assert_allclose(found[:, :, 1], plain[:, :, 1] + 1, EXACT)
    np.testing.assert_array_equal(found[:, :, ::2], plain[:, :, ::2])
    both = reference.attention(*arrays, policy=[half, half], where=where, epilogue=(twice, None))
    np.testing.assert_allclose(both[:, :, 1], 0.5 * plain[:, :, 1] + 1, EXACT)


def test_a_factor_beyond_float32_leaves_its_row(rng):
    arrays = inputs(rng, 3, 5)
    large, most = Reweight((1e30,)), Reweight((LARGEST,))
    first = np.array([[[True, False, False]]])
    found = reference.attention(
        *arrays, policy=[large, most], where=[first, None], returns="factors"
    )
    # The second passes the range in the row that the first has changed, and there alone.
    expected = np.broadcast_to(np.where(first, 1e30, LARGEST), (BATCH, HEADS, 3))
    np.testing.assert_array_equal(found.factors[..., 0], expected)


def test_there_is_an_epilogue_for_each_policy(rng):
    half, twice = Reweight((0.5,)), Epilogue(scale=2.0)
    with pytest.raises(ValueError, match="zip"):
        reference.attention(*inputs(rng, 1, 3), policy=[half], epilogue=[twice, twice])


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_heads_of_a_group_share_their_keys(rng, heads):
    query, key, value = inputs(rng, 2, 4)
    key, value = (np.repeat(x, 2, axis=1)[:, :heads] for x in (key, value))
    each = [np.repeat(x, HEADS // heads, axis=1) for x in (key, value)]
    found = reference.attention(query, key, value)
    np.testing.assert_array_equal(found, reference.attention(query, *each))


def test_a_callable_is_asked_for_factors(rng):
    arrays = inputs(rng, 1, 3)
    found = reference.attention(*arrays, policy=lambda masses: 3 * masses, returns="masses")
    np.testing.assert_allclose(found.out, 3 * reference.attention(*arrays), EXACT)
    np.testing.assert_allclose(found.masses, 1, EXACT)


@pytest.mark.parametrize("shape", [(1, HEADS), (BATCH, HEADS)])
def test_heads_that_read_with_anothers_weights(rng, shape):
    arrays = inputs(rng, 2, 4)
    sources = rng.permuted(np.broadcast_to(np.arange(HEADS), shape), axis=1)
    found = reference.attention(*arrays, heads_from=sources)
    rows = rows_of(*arrays)
    for b, h, i in rows:
        row = rows[b, np.broadcast_to(sources, (BATCH, HEADS))[b, h], i]
        row = SimpleNamespace(weights=row.weights, values=arrays[2][b, h // 2])
        np.testing.assert_allclose(found[b, h, i], weighed(row, np.ones(4)), EXACT, EXACT)


def test_out_and_what_is_returned(rng):
    arrays = inputs(rng, 2, 4)
    out = np.empty((BATCH, HEADS, 2, VALUE_DIM))
    assert reference.attention(*arrays, out=out) is out
    np.testing.assert_array_equal(out, reference.attention(*arrays))
    found = reference.attention(*arrays, out=out, returns=("masses", "column_sums"))
    assert found.out is out
    assert found.logsumexp is None
    np.testing.assert_array_equal(found.column_sums, reference.column_sums(*arrays[:2]))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("causal", [False, True])
def test_column_sums(rng, sizes, causal):
    """With a causal mask rows stand at keys, and those at padding do not count."""
    arrays = inputs(rng, *sizes)
    key_mask = masks(rng, *sizes)[-1]["key_mask"]
    for mask in ({}, {"key_mask": key_mask}):
        sums = np.zeros((BATCH, HEADS, sizes[1]))
        for (b, h, i), row in rows_of(*arrays, causal=causal, **mask).items():
            here = sizes[1] - sizes[0] + i
            if not (causal and mask) or (here >= 0 and key_mask[b, here]):
                sums[b, h] += row.weights
        found = reference.column_sums(*arrays[:2], causal=causal, **mask)
        np.testing.assert_allclose(found, sums, EXACT, EXACT)
        heads = np.array([True, False, False, True])
        some = reference.column_sums(*arrays[:2], causal=causal, heads=heads, **mask)
        np.testing.assert_array_equal(some, np.where(heads[:, None], found, 0))


@pytest.mark.parametrize("parts", [(2, 3), (0, 5), (1, 1, 3)])
def test_merged_states_are_that_of_all_keys(rng, parts):
    query, key, value = inputs(rng, 3, 5)
    labels = np.array([[[0, 1, 1, 0, 1]]], np.uint8)
    hidden = np.array([[True] * 5, [False] * 4 + [True], [False] * 5])
    states, begin = [], 0
    for size in parts:
        some = slice(begin, begin := begin + size)
        states.append(reference.segment_pass(
            query, key[:, :, some], value[:, :, some], segments=labels[..., some], num_segments=2,
            key_mask=hidden[:, some],
        ))  # fmt: skip
    whole = reference.segment_pass(query, key, value, segments=labels, key_mask=hidden)
    for found, expected in zip(reference.merge(states), whole, strict=True):
        np.testing.assert_allclose(found, expected, EXACT, EXACT)


def test_merged_states_without_keys_are_of_no_key(rng):
    query, key, value = inputs(rng, 3, 0)
    none = reference.segment_pass(query, key, value, segments=None)
    found = reference.merge([none, none])
    assert np.isneginf(found.logsumexp).all()
    assert not found.masses.any()


def test_combine(rng):
    partials, factors = rng.normal(size=(2, 1, 3, 4, 5)), rng.normal(size=(2, 1, 3, 4))
    expected = np.einsum("bhngd,bhng->bhnd", partials, factors)
    np.testing.assert_allclose(reference.combine(partials, factors), expected, EXACT, EXACT)


def test_statistics_of_segments(rng):
    arrays = inputs(rng, 2, 5)
    labels = np.array([[[0, 1, 1, 2, 2]]], np.uint8)
    found = reference.attention(
        *arrays, segments=labels, causal=True, returns=("scores", *STATISTICS)
    )
    for place, row in rows_of(*arrays, causal=True).items():
        np.testing.assert_allclose(found.scores[place], row.scores, EXACT, EXACT)
        for g in range(3):
            keys = [j for j in range(5) if labels[0, 0, j] == g and math.isfinite(row.scores[j])]
            scores, some = [row.scores[j] for j in keys], [row.weights[j] for j in keys]
            expected = {
                "score_sums": sum(scores),
                "abs_score_sums": sum(map(abs, scores)),
                "entropies": -sum(w * math.log(w) for w in some),
                "largest": max(some, default=0.0),
                "largest_keys": max(keys, key=lambda j: row.scores[j], default=-1),
            }
            for name, value in expected.items():
                got = getattr(found, name)
                assert got.shape == (BATCH, HEADS, 2, 3)
                np.testing.assert_allclose(got[(*place, g)], value, EXACT, EXACT, err_msg=name)


def test_rows_and_keys_that_are_none(rng):
    query, key, value = inputs(rng, 2, 4)
    out = reference.attention(
        query, key[:, :, :0], value[:, :, :0], returns=("masses", "logsumexp")
    )
    assert not out.out.any()
    assert not out.masses.any()
    assert np.isneginf(out.logsumexp).all()
    none = reference.attention(query[:, :0], key[:, :0], value[:, :0])
    assert none.shape == (BATCH, 0, 2, VALUE_DIM)


def test_what_is_not_finite_stays_with_the_rows_that_see_it(rng):
    query, key, value = inputs(rng, 5, 5)
    labels = np.array([[[0, 0, 1, 1, 1]]], np.uint8)
    value[0, 1, 3, 1] = np.inf
    state = reference.segment_pass(query, key, value, segments=labels, causal=True)
    expected = np.zeros(state.partials.shape, bool)
    expected[0, 2:, 3:, 1, 1] = True  # of the item, the heads, the rows, the segment, the number
    np.testing.assert_array_equal(np.isnan(state.partials), expected)
    value[0, 1, 3, 1] = 0
    clean = reference.segment_pass(query, key, value, segments=labels, causal=True)
    np.testing.assert_array_equal(state.partials[~expected], clean.partials[~expected])
    value[0, 1, 3, 1] = np.nan  # a score of -inf is no key
    bias = np.array([[[[-np.inf]]]])
    assert not reference.attention(query, key[:, :, 3:4], value[:, :, 3:4], bias=bias).any()


def test_scores_whose_exponential_is_infinite(rng):
    query, key, _ = inputs(rng, 2, 4)
    bias = np.zeros((BATCH, HEADS, 2, 4))
    bias[0, 0, 0] = 800.0, 0.0, 0.0, 0.0
    matrix, logsumexp, _ = reference.weights(query, key, bias=bias)
    np.testing.assert_allclose(matrix[0, 0, 0], [1, 0, 0, 0], atol=EXACT)
    assert 700 < logsumexp[0, 0, 0] < 900


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_beyond_all_keys_hides_none(rng, causal):
    arrays = inputs(rng, 3, 5)
    wide = reference.attention(*arrays, causal=causal, window=2**63 - 1)
    np.testing.assert_array_equal(wide, reference.attention(*arrays, causal=causal))


def test_types_that_are_stored_are_their_numbers(rng):
    query, key, value = (x.astype(np.float32) for x in inputs(rng, 2, 4))
    bits = [(x.view(np.uint32) >> 16).astype(np.uint16) for x in (query, key, value)]
    cut = [to_float32(x, "bfloat16").astype(np.float64) for x in bits]
    found = reference.attention(*bits, dtype="bfloat16")
    np.testing.assert_array_equal(found, reference.attention(*cut))
    heads = np.array([[1, 0, 3, 2]])
    found = reference.attention(*bits, dtype="bfloat16", heads_from=heads)
    np.testing.assert_array_equal(found, reference.attention(*cut, heads_from=heads))
    eight = [quantize(x) for x in (key, value)]
    numbers = [to_float32(x).astype(np.float64) for x in eight]
    found = reference.attention(query, *eight)
    np.testing.assert_array_equal(found, reference.attention(query.astype(np.float64), *numbers))
