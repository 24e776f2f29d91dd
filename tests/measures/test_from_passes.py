"""Measures that read the pass equal the plain formula on the full matrix."""

import numpy as np
import pytest
from reattend import quantize, reference
from reattend.measures import (
    attention_rows,
    collapsed,
    entropy,
    future_influence,
    local_share,
    mass_by_segment,
    mean_distance,
)

RNG = np.random.default_rng(0)
SHAPES = [(2, 4, 2, 40, 40, 16), (1, 3, 1, 7, 30, 32), (1, 2, 2, 1, 90, 64), (1, 1, 1, 1, 1, 8)]


def arrays(shape):
    batch, heads, kv_heads, rows, keys, size = shape
    query = RNG.standard_normal((batch, heads, rows, size), np.float32) * 2
    return query, RNG.standard_normal((batch, kv_heads, keys, size), np.float32)


def padded(shape):
    """The first keys of the items hidden, more in each."""
    first = np.arange(shape[0])[:, None] * 3 + 2
    return None if shape[4] < 30 else np.arange(shape[4]) >= first


def matrix(query, key, **mask):
    return reference.weights(query, key, **{"causal": True, **mask})[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "mask", [{}, {"causal": False}, {"window": 5}, {"softcap": 3.0}, {"scale": 0.3}], ids=str
)
def test_attention_rows(shape, mask):
    query, key = arrays(shape)
    full = matrix(query, key, key_mask=padded(shape), **mask)
    rows = [-1, 0, shape[3] // 2]
    found = attention_rows(query, key, rows, key_mask=padded(shape), **mask)
    assert found.dtype == np.float32
    assert np.abs(found - full[:, :, rows]).max() < 2e-6
    last = attention_rows(query, key, key_mask=padded(shape), **mask)
    assert np.abs(last - found[:, :, :1]).max() < 1e-6


def test_attention_rows_of_stored_keys():
    query, key = arrays(SHAPES[0])
    for stored in (key.astype(np.float16), quantize(key)):
        assert np.abs(attention_rows(query, stored) - matrix(query, stored)[:, :, -1:]).max() < 2e-6
    bits = key.astype(np.float16).view(np.uint16)
    same = attention_rows(query, bits, dtype="float16")
    assert np.array_equal(same, attention_rows(query, key.astype(np.float16)))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([7], ValueError, "rows must be from -7 to 6, got"),
        ([0.5], TypeError, "rows must be integers"),
    ],
)
def test_attention_rows_must_be_there(rows, error, message):
    with pytest.raises(error, match=message):
        attention_rows(*arrays(SHAPES[1]), rows)


def test_attention_rows_names_what_does_not_fit():
    query, key = arrays(SHAPES[0])
    with pytest.raises(ValueError, match=r"key_mask must be bool \[B, M\] of key = \(2, 40\)"):
        attention_rows(query, key, key_mask=np.ones((2, 39), bool))
    with pytest.raises(ValueError, match="multiple of key's 2 heads, got 3"):
        attention_rows(query[:, :3], key)
    with pytest.raises(ValueError, match="query and key must be"):
        attention_rows(query[:1], key)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mask", [{}, {"causal": False}, {"window": 5}, {"scale": 0.3}], ids=str)
def test_entropy(shape, mask):
    query, key = arrays(shape)
    found = entropy(query, key, key_mask=padded(shape), **mask)
    full = matrix(query, key, key_mask=padded(shape), **mask)
    expected = -(full * np.log(np.where(full > 0, full, 1))).sum(-1)
    sees = full.sum(-1) > 0
    assert np.isnan(found[~sees]).all()
    assert np.abs(found - expected)[sees].max(initial=0) < 2e-5


def test_collapsed_heads():
    entropies = np.array([[np.nan, 0.5, 1.4], [np.nan, 3.0, 0.1]])
    assert collapsed(entropies).tolist() == [True, False]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("clip", [None, 1, 6, 1000])
def test_mean_distance(shape, clip):
    query, key = arrays(shape)
    full = matrix(query, key, key_mask=padded(shape))
    back = np.arange(shape[4] - shape[3], shape[4])[:, None] - np.arange(shape[4])
    back = back if clip is None else np.minimum(back, clip)
    found = mean_distance(query, key, clip=clip, key_mask=padded(shape))
    assert np.abs(found - (full * back).sum(-1)).max() < 2e-5 * shape[4]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_local_share(shape, causal):
    query, key = arrays(shape)
    full = matrix(query, key, key_mask=padded(shape), causal=causal)
    apart = np.arange(shape[4] - shape[3], shape[4])[:, None] - np.arange(shape[4])
    expected = np.where(np.abs(apart) < 4, full, 0).sum(-1)
    found = local_share(query, key, 4, causal=causal, key_mask=padded(shape))
    assert np.abs(found - expected).max() < 2e-6


@pytest.mark.parametrize(("first", "last"), [(1, None), (3, 8), (1, 1), (2, 1000)])
@pytest.mark.parametrize("padding", [False, True])
def test_future_influence(first, last, padding):
    query, key = arrays(SHAPES[0])
    key_mask = padded(SHAPES[0]) if padding else None
    full = matrix(query, key, key_mask=key_mask)
    expected = np.full(full.shape[:2] + full.shape[3:], np.nan)
    for item in range(2):
        start = 0 if key_mask is None else key_mask[item].argmax()
        for key_at in range(start, 40):
            rows = [t for t in range(key_at + first, key_at + (last or 99) + 1) if t < 40]
            if rows:
                expected[item, :, key_at] = full[item][:, rows, key_at].mean(-1)
    found = future_influence(query, key, first=first, last=last, key_mask=key_mask)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.nanmax(np.abs(found - expected)) < 2e-6


def test_future_influence_needs_all_rows():
    with pytest.raises(ValueError, match="a row for each of key's 30, got 7"):
        future_influence(*arrays(SHAPES[1]))
    with pytest.raises(ValueError, match="1 <= first <= last, got 0 and 3"):
        future_influence(*arrays(SHAPES[0]), first=0, last=3)
    with pytest.raises(ValueError, match="clip must be at least 1"):
        mean_distance(*arrays(SHAPES[0]), clip=0)


def test_distances_of_16_bit_arrays_are_not_rounded():
    """Positions up to thousands keep their digits where the query has 11 bits."""
    query = np.zeros((1, 1, 1, 8), np.float16)
    key = np.zeros((1, 1, 4001, 8), np.float16)
    assert mean_distance(query, key)[0, 0, 0] == pytest.approx(2000, rel=1e-5)


def test_mass_by_segment():
    query, key = arrays(SHAPES[0])
    labels = RNG.integers(0, 4, (2, 1, 33)).astype(np.uint8)
    full = matrix(query, key, key_mask=padded(SHAPES[0]))
    wide = np.pad(labels, ((0, 0), (0, 0), (0, 7)))
    expected = np.stack([np.where(wide[:, :, None] == g, full, 0).sum(-1) for g in range(4)], -1)
    found = mass_by_segment(query, key, labels, key_mask=padded(SHAPES[0]))
    assert np.abs(found - expected).max() < 2e-6


def test_inputs_stay_as_they_are():
    query, key = arrays(SHAPES[0])
    before = query.copy(), key.copy()
    for measure in (attention_rows, entropy, mean_distance, future_influence):
        measure(query, key)
    local_share(query, key, 3)
    assert np.array_equal(query, before[0])
    assert np.array_equal(key, before[1])
