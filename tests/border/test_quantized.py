"""int8 storage: rounded once to the nearest, nothing out of range, read as it is written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reattend import KVCache, Quantized, attention, quantize, reference
from reattend.border.dtypes import to_float32

FLOATS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=4, max_dims=4, min_side=0, max_side=5),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True),
)


@given(FLOATS)
def test_no_number_is_off_by_more_than_half_a_step(array):
    stored = quantize(array)
    assert (stored.numbers.dtype, stored.scale.dtype) == (np.int8, np.float32)
    assert (stored.shape, stored.ndim, stored.dtype) == (array.shape, 4, np.int8)
    assert stored.nbytes == array.size + 4 * stored.scale.size
    assert np.abs(stored.numbers.astype(int)).max(initial=0) <= 127
    scale = stored.scale.astype(np.float64)[..., None]
    smallest = 127 * np.finfo(np.float32).tiny  # rows below it are zeros
    off = np.abs(array - stored.numbers * scale)
    assert (off <= np.where(scale, scale / 2 * (1 + 1e-5), smallest)).all()
    assert stored.to_float32().dtype == np.float32
    np.testing.assert_allclose(stored.to_float32(), stored.numbers * scale, rtol=1e-7)


def test_the_scale_is_each_rows_own():
    array = np.array([[[[1, -2], [0, 0], [300, 0.5]]]], np.float16)
    stored = quantize(array)
    np.testing.assert_array_equal(stored.numbers[0, 0], [[64, -127], [0, 0], [127, 0]])
    np.testing.assert_allclose(stored.scale[0, 0], [2 / 127, 0, 300 / 127], rtol=1e-6)


def test_halves_go_to_even():
    row = np.array([[[[127, 0.5, 1.5, 2.5, -0.5, -1.5]]]])
    np.testing.assert_array_equal(quantize(row).numbers[0, 0, 0], [127, 0, 2, 2, 0, -2])


@pytest.mark.parametrize("largest", [2e-43, 2.7e-43, 1e-38, 1.4e-36, 1.6e-36, 3.4028235e38])
def test_at_the_ends_of_float32(largest):
    row = np.array([[[[largest, -largest / 2]]]], np.float32)
    found = quantize(row).to_float32()
    np.testing.assert_allclose(found, row, rtol=0.01, atol=1.5e-36)
    assert (np.abs(found - row) <= np.abs(row)).all()  # never worse than a zero


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_refused(number):
    array = np.ones((2, 1, 3, 4))
    array[1, 0, 2, 3] = number
    with pytest.raises(
        ValueError, match=f"array must be finite to be stored as int8, got {number}"
    ):
        quantize(array)


def test_the_reference_reads_the_numbers_it_stands_for(rng):
    query = rng.standard_normal((2, 4, 5, 8))
    key, value = (quantize(rng.standard_normal((2, 2, 9, 8))) for _ in range(2))
    assert to_float32(key).dtype == np.float32
    exact = [s.numbers.astype(np.float64) * s.scale[..., None] for s in (key, value)]
    how = {"causal": True, "returns": ("logsumexp", "column_sums", "masses")}
    found = reference.attention(query, key, value, **how)
    expected = reference.attention(query, *exact, **how)
    for ours, theirs in zip(found, expected, strict=True):
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "step"), [("float16", 2**-11), ("bfloat16", 2**-8), ("int8", 0)])
def test_attention_is_off_by_what_was_rounded_and_no_more(rng, dtype, step):
    """A score moves by at most e = |q| |key's rounding| scale, a weight by a factor of exp(2 e)."""
    query = rng.standard_normal((1, 8, 3, 32))
    key, value = (rng.standard_normal((1, 4, 200, 32)) for _ in range(2))
    stored = KVCache(1, dtype=dtype).append(0, key, value)
    found = reference.attention(query, *(to_float32(s) for s in stored))
    expected = reference.attention(query, key, value)

    def rounding(array):  # the most that each number is off
        return quantize(array).scale[..., None] / 2 if step == 0 else np.abs(array) * step

    norm = np.linalg.norm(query, axis=-1).max() * 32**-0.5
    error = norm * np.linalg.norm(rounding(key) * np.ones(32), axis=-1).max()
    bound = (np.exp(2 * error) - 1) * np.abs(value).max() + rounding(value).max()
    off = np.abs(found - expected).max()
    assert 0 < off <= bound * 1.0001
    # What is typical: roundings are independent, and a row averages over many keys.
    assert off < bound / 5
    if dtype != "int8":
        out = attention(*(np.asarray(a, stored[0].dtype) for a in (query, *stored)))
        np.testing.assert_allclose(to_float32(out), found, atol=0.05)


def test_it_is_a_pair():
    numbers, scale = quantize(np.ones((1, 1, 1, 2)))
    assert Quantized(numbers, scale).numbers is numbers
