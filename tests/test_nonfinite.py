"""Numbers that are not finite, or huge, touch only the rows that see them; rows may see no key."""

import numpy as np
import pytest
from cases import POLICIES
from reattend import Reweight, apply_policy, attention, column_sums, merge, reference, segment_pass
from tensors import EVERYTHING, Sizes, agree, close, labels_of, same_bytes, tensors

KINDS = pytest.mark.parametrize("length", [6, 40, 300], ids=["decode", "one-tile", "many-tiles"])
# The quiet NaN of the processor, two with a payload (R's NA has this one), a signalling one.
NANS = {"default": 0x7FC00000, "payload-1": 0x7FC00001, "na": 0x7FC007A2, "signalling": 0x7F800001}
NAN, INF = 0x7FC00000, 0x7F800000
bad_numbers = pytest.mark.parametrize("bits", [NAN, INF], ids=["nan", "inf"])
nans = pytest.mark.parametrize("bits", NANS.values(), ids=NANS)

MASKS = {
    "full": lambda length: {},
    "causal": lambda length: {"causal": True},
    "window": lambda length: {"window": 3},
    "causal+window": lambda length: {"causal": True, "window": 3},
    "hidden": lambda length: {"key_mask": (np.arange(length) != length // 2)[None]},
    "causal+hidden": lambda length: {
        "causal": True,
        "key_mask": (np.arange(length) != length // 2)[None],
    },
    "right-padding": lambda length: {"key_mask": (np.arange(length) < length // 2)[None]},
    "left-padding": lambda length: {"key_mask": (np.arange(length) > length // 2)[None]},
}
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
interventions = pytest.mark.parametrize("weighs", [False, True], ids=["plain", "policy"])


def case(rng, length):
    sizes = Sizes(length, length, batch=1, heads=2, kv_heads=1)
    return tensors(rng, sizes), labels_of(rng, sizes, "random")


def put(array, index, bits):
    """Write a number by its bits: a signalling NaN does not survive arithmetic."""
    array.view(np.uint32)[index] = bits


def how_of(weighs, labels):
    return {"segments": labels, "policy": POLICIES["hand_on"]} if weighs else {}


def check_rows(clean, found, touched):
    """Assert that rows [N] that are touched hold NaN, and all others are as without the number."""
    out, before = found.out[0], clean.out[0]
    assert np.isnan(out[:, touched]).any(-1).all(), "a row that sees it came out as a number"
    close(out[:, ~touched], before[:, ~touched], "rows that do not see it")
    for name in ("masses", "logsumexp", "factors"):
        ours, theirs = getattr(found, name), getattr(clean, name)
        close(ours[0][:, ~touched], theirs[0][:, ~touched], name)


@KINDS
@masks
@interventions
@bad_numbers
def test_a_key_touches_the_rows_that_see_it(rng, length, mask, weighs, bits):
    (query, key, value), labels = case(rng, length)
    query[..., 0] = 1  # so that an infinite key has scores of +inf
    how = {**mask(length), **how_of(weighs, labels), "returns": EVERYTHING}
    clean = attention(query, key, value, **how)
    seen = reference.weights(query, key, **mask(length))[2][0, 0, :, length // 2]
    put(key, (0, 0, length // 2, 0), bits)
    check_rows(clean, attention(query, key, value, **how), seen)


@KINDS
@masks
@interventions
@bad_numbers
def test_a_value_touches_the_rows_that_see_it(rng, length, mask, weighs, bits):
    (query, key, value), labels = case(rng, length)
    how = {**mask(length), **how_of(weighs, labels), "returns": EVERYTHING}
    clean = attention(query, key, value, **how)
    put(value, (0, 0, length // 2, 3), bits)
    found = attention(query, key, value, **how)
    seen = reference.weights(query, key, **mask(length))[2][0, 0, :, length // 2]
    assert not np.isfinite(found.out[0][:, seen, 3]).any()
    columns = np.arange(16) != 3
    close(found.out[..., columns], clean.out[..., columns], "other columns")
    close(found.out[0][:, ~seen], clean.out[0][:, ~seen], "rows that do not see it")
    for name in ("masses", "logsumexp", "column_sums", "factors"):  # know nothing of values
        close(getattr(found, name), getattr(clean, name), name)


@KINDS
@nans
@pytest.mark.parametrize("where", ["key", "value"])
def test_every_nan_is_one(rng, length, bits, where):
    arrays = dict(zip(("query", "key", "value"), case(rng, length)[0], strict=True))
    put(arrays[where], (0, 0, 1, slice(None)), bits)
    assert np.isnan(attention(**arrays)).all()


@KINDS
@interventions
@nans
@pytest.mark.parametrize("row", [0, 4])
def test_a_query_row_touches_itself(rng, length, weighs, bits, row):
    (query, key, value), labels = case(rng, length)
    how = {"causal": True, **how_of(weighs, labels), "returns": EVERYTHING}
    clean = attention(query, key, value, **how)
    put(query, (0, 0, row, 5), bits)
    found = attention(query, key, value, **how)
    assert np.isnan(found.out[0, 0, row]).all()
    assert np.isnan(found.logsumexp[0, 0, row])
    assert np.isnan(found.masses[0, 0, row]).any()
    rows = np.arange(length) != row
    for name in ("out", "masses", "logsumexp", "factors"):
        close(getattr(found, name)[0, 0, rows], getattr(clean, name)[0, 0, rows], name)
        close(getattr(found, name)[0, 1], getattr(clean, name)[0, 1], name)
    # Keys that the row sees have no sum, the others keep theirs.
    assert np.isnan(found.column_sums[0, 0, : row + 1]).all()
    close(found.column_sums[0, 0, row + 1 :], clean.column_sums[0, 0, row + 1 :], "column_sums")
    close(found.column_sums[0, 1], clean.column_sums[0, 1], "column_sums of another head")


@pytest.mark.parametrize("rows", [1, 6, 40, 300])
@pytest.mark.parametrize("mask", ["hidden", "causal+hidden", "left-padding"])
@pytest.mark.parametrize("where", ["last", "middle"])
@pytest.mark.parametrize("null", [False, True], ids=["", "null-key"])
def test_a_query_row_gives_nothing_to_masked_keys(rng, rows, mask, where, null):
    """Nor to any where it stands at padding itself."""
    length = max(rows, 40)
    query, key, value = case(rng, length)[0]
    query = query[:, :, length - rows :].copy()
    row = rows - 1 if where == "last" else max(0, length // 2 - (length - rows))
    query[0, 0, row] = np.nan
    how = {**MASKS[mask](length), "causal": True}
    if null:
        how["null_logit"] = np.zeros((1, 2, rows), np.float32)
        agree((query, key, value), returns=("masses", "logsumexp"), **how)
    else:
        agree((query, key, value), **how)


@KINDS
@pytest.mark.parametrize("last", [False, True], ids=["middle", "last"])
def test_a_value_touches_the_rows_that_see_it_where_a_policy_comes_later(rng, length, last):
    arrays = case(rng, length)[0]
    sink = length - 1 if last else length // 2
    labels = (np.arange(length) == sink).astype(np.uint8)[None, None]
    arrays[2][0, 0, sink, 3] = np.nan
    how = {"causal": True, "segments": labels, "policy": Reweight((1, 0.5), to=(0,))}
    plain = attention(*arrays, causal=True, returns="logsumexp")
    close(apply_policy(plain, *arrays, **how).out, reference.attention(*arrays, **how))


@KINDS
def test_segments_without_the_number_stay_clean(rng, length):
    arrays, labels = case(rng, length)
    clean = segment_pass(*arrays, segments=labels, num_segments=4)
    label = labels[0, 0, length // 2]
    arrays[2][0, 0, length // 2] = np.nan
    found = segment_pass(*arrays, segments=labels, num_segments=4)
    assert np.isnan(found.partials[..., label, :]).all()
    others = np.arange(4) != label
    close(found.partials[..., others, :], clean.partials[..., others, :])
    close(found.masses, clean.masses)


@KINDS
def test_a_bias_of_minus_infinity_is_a_score(rng, length):
    """Weight 0, not a mask: finite keys are hidden, but NaN and infinite ones still count."""
    (query, key, value), _ = case(rng, length)
    hidden = np.arange(length) == length // 2
    bias = np.where(hidden, -np.inf, 0).astype(np.float32)
    close(
        attention(query, key, value, bias=bias),
        reference.attention(query, key, value, key_mask=~hidden[None]),
    )
    value[:, :, length // 2] = np.nan
    assert np.isnan(attention(query, key, value, bias=bias)).all()
    value[:, :, length // 2] = 0
    key[:, :, length // 2] = np.nan
    assert np.isnan(attention(query, key, value, bias=bias)).all()
    key[:, :, length // 2] = 0  # without any other score it is no key
    nowhere = np.full_like(bias, -np.inf)
    value[...] = np.nan
    assert not agree((query, key, value), bias=nowhere).out.any()


@KINDS
@bad_numbers
def test_a_bias_touches_its_row(rng, length, bits):
    (query, key, value), _ = case(rng, length)
    bias = np.zeros((length, length), np.float32)
    clean = attention(query, key, value, bias=bias)
    put(bias, (2, 1), bits)
    found = attention(query, key, value, bias=bias)
    assert np.isnan(found[:, :, 2]).all()
    rows = np.arange(length) != 2
    close(found[:, :, rows], clean[:, :, rows])


@pytest.mark.parametrize("rows", [1, 20])
def test_the_smallest_weights_count(rows):
    """Down to float32's smallest normal number: a value of 1e37 shows one of exp(-85)."""
    query = np.ones((1, 1, rows, 1), np.float32)
    key, value = np.array([[0, -85], [1, 1e37]], np.float32).reshape(2, 1, 1, 2, 1)
    out = attention(query, key, value, scale=1.0)
    close(out, np.full_like(out, 1 + 1e37 * np.exp(-85.0)))


@KINDS
@pytest.mark.parametrize("scale", [1e4, -1e5, 1e6, 1e9, -3.3e15, 1e20, 2.0**124])
@interventions
def test_huge_scores(rng, length, scale, weighs):
    # Products and sums of small whole numbers are exact, and so are the scores.
    most = 1 if scale > 1e30 else 5
    query, key = (
        rng.integers(-most, most + 1, (1, 2, length, 4)).astype(np.float32) for _ in range(2)
    )
    arrays = query, key, rng.standard_normal((1, 2, length, 8), np.float32)
    how = {"scale": scale, "causal": True}
    how |= how_of(weighs, rng.integers(0, 4, (1, 1, length), np.uint8))
    agree(arrays, returns=("masses", "logsumexp", "factors"), **how)
    # Column sums know the rows' sums from logsumexp alone, a float32 as large as the scores.
    if scale < 1e6:
        sums = attention(*arrays, returns="column_sums", **how).column_sums
        expected = reference.attention(*arrays, returns=("column_sums",), **how).column_sums
        close(sums, expected, tolerance=float(np.spacing(np.float32(100 * abs(scale)))))


@KINDS
def test_scores_that_overflow(rng, length):
    query, key, value = case(rng, length)[0]
    query[:, :, 1, 0] = key[:, :, 0, 0] = 3e38
    found = attention(query, key, value, returns="logsumexp")
    assert np.isnan(found.out[:, :, 1]).all(), "inf - inf"
    assert np.isfinite(found.out[:, :, 2:][query[:, :, 2:, 0] < 0]).all(), "-inf is weight 0"
    query[:, :, 1, 0] = -3e38
    agree((query, key, value), returns=("logsumexp",), causal=True, softcap=30.0)
    only = attention(query[:, :, 1:2], key[:, :, :1], value[:, :, :1], returns=EVERYTHING)
    assert not only.out.any(), "one key with a score of -inf is no key"
    assert np.isneginf(only.logsumexp).all()


EMPTY = {
    "no-keys": (lambda x: x[:, :, :0], lambda n: {}),
    "all-padding": (lambda x: x, lambda n: {"key_mask": np.zeros((1, n), bool)}),
    "all-minus-inf": (lambda x: x, lambda n: {"bias": np.float32(-np.inf)}),
}


@KINDS
@pytest.mark.parametrize("kind", EMPTY)
@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: lambda m: p(m)], ids=["fused", "callable"])
def test_rows_without_keys(rng, length, kind, wrap):
    (query, key, value), labels = case(rng, length)
    labels[..., 0] = 3
    cut, mask = EMPTY[kind]
    key, value, labels = cut(key), cut(value), labels[..., : cut(key).shape[2]]
    policy = POLICIES["scale"] if kind != "no-keys" else np.ones_like
    out = np.full_like(query, np.nan)
    found = attention(
        query, key, value, segments=labels, policy=wrap(policy), out=out, returns=EVERYTHING,
        **mask(length),
    )  # fmt: skip
    assert not out.any()
    assert not found.masses.any()
    assert np.isneginf(found.logsumexp).all()
    assert (found.factors == 1).all()
    assert not found.column_sums.any()
    state = segment_pass(query, key, value, segments=labels, **mask(length))
    assert not state.partials.any()
    both = merge([state, state])
    assert np.isneginf(both.logsumexp).all()
    assert not both.masses.any()


@KINDS
def test_column_sums_of_rows_without_keys(rng, length):
    (query, key, _), _ = case(rng, length)
    logsumexp = np.full((1, 2, length), -np.inf, np.float32)
    assert not column_sums(query, key, logsumexp).any()


@KINDS
def test_a_callable_that_gives_nan_touches_its_rows(rng, length):
    arrays, labels = case(rng, length)

    def half(masses):
        factors = np.ones_like(masses)
        factors[:, :, ::2] = np.nan
        return factors

    found = attention(*arrays, segments=labels, policy=half)
    assert np.isnan(found[:, :, ::2]).all()
    close(found[:, :, 1::2], attention(*arrays)[:, :, 1::2])


@KINDS
def test_denormals_count_as_they_are(rng, length):
    (query, key, value), _ = case(rng, length)
    value[...] = np.float32(1e-40)
    out = attention(query, key, value)
    np.testing.assert_allclose(out, 1e-40, rtol=1e-2, atol=0)
    same_bytes(out, attention(query, key, value, num_threads=2))


@pytest.mark.parametrize("heads", [2, 4], ids=["a-row-alone", "rows-that-share"])
@bad_numbers
def test_a_sink_in_an_image_touches_its_own_segment_in_a_step(rng, heads, bits):
    query, key, value = tensors(rng, Sizes(1, 200, batch=1, heads=heads, kv_heads=2))
    labels = np.zeros((1, 1, 200), np.uint8)
    labels[..., 40:160] = 1
    labels[..., [60, 61, 100]] = 2  # few: taken out of the image's run
    clean = segment_pass(query, key, value, segments=labels)
    put(value, (0, 0, 61, 3), bits)
    found = segment_pass(query, key, value, segments=labels)
    close(found.partials[:, :, :, :2], clean.partials[:, :, :, :2], "other segments")
    sharing = heads // 2  # query heads of the key head
    assert not np.isfinite(found.partials[:, :sharing, :, 2, 3]).any()
    close(found.partials[:, sharing:], clean.partials[:, sharing:], "heads that do not read it")
