"""Blocks of 32 numbers: 4 bits as `quantize` rounds them, and llama.cpp's layouts as they are."""

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reattend import QuantizedBlocks, Reweight, attention, quantize, reference
from reattend.border.dtypes import to_float32
from reattend.border.prefixed import keys_between
from tensors import EVERYTHING, Sizes, agree, tensors

FLOATS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(0, 70), st.integers(1, 40)),
    elements=st.floats(-65504, 65504, width=32, allow_subnormal=True),
)
GGML = {
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}

each_ggml = pytest.mark.parametrize("layout", GGML)
each_axis = pytest.mark.parametrize("by_channel", [False, True], ids=["by token", "by channel"])


def ggml(array, layout):
    return QuantizedBlocks.from_ggml(gguf.quants.quantize(array, GGML[layout]), layout)


@each_axis
@given(array=FLOATS)
def test_no_number_is_off_by_more_than_half_a_step(array, by_channel):
    stored = quantize(array, bits=4, by_channel=by_channel)
    whole = len(array[0, 0]) // 32 * 32 if len(array) else 0
    assert stored.shape == array.shape
    assert (stored.ndim, stored.dtype) == (4, np.uint8)
    assert stored.nbytes == stored.blocks.nbytes + stored.rest.nbytes
    found = stored.to_float32()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :, whole:], array[:, :, whole:])
    packed = array[:, :, :whole]
    if by_channel:
        groups = packed.reshape(*array.shape[:2], whole // 32, 32, array.shape[3])
        groups = groups.swapaxes(-1, -2)
    else:  # a last group of fewer channels has what the last channel has
        more = np.pad(packed, ((0, 0), (0, 0), (0, 0), (0, -array.shape[3] % 32)), "edge")
        groups = more.reshape(*more.shape[:3], more.shape[3] // 32, 32)
    low, high = groups.min(-1, initial=np.inf), groups.max(-1, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        # Half of a step, and what float16 makes of the least number and of 15 steps.
        most = (high - low) / 30 + 2**-11 * (np.abs(low) + 2 * (high - low)) + 15 * 2**-24
    if by_channel:
        most = np.broadcast_to(most[..., None, :], (*most.shape[:3], 32, most.shape[3]))
        most = most.reshape(packed.shape)
    else:
        most = most.repeat(32, axis=-1)[..., : array.shape[3]]
    assert (np.abs(found[:, :, :whole] - packed) <= most * (1 + 1e-4)).all()


def test_a_tile_by_hand():
    """As the core reads it: scales, least numbers, and 8 rows of a column in a word."""
    numbers = np.arange(8)[:, None] + np.arange(32) % 9  # [channels, keys], from 0 to 15
    numbers[:, 0], numbers[:, 1] = 0, 15
    key = (0.5 * numbers.T - 2).astype(np.float32)[None, None]
    stored = quantize(key, bits=4, by_channel=True)
    tile = stored.blocks[0, 0, 0]
    assert tile.shape == (160,)
    np.testing.assert_array_equal(tile[:16].view(np.float16), np.full(8, 0.5))
    np.testing.assert_array_equal(tile[16:32].view(np.float16), np.full(8, -2))
    words = tile[32:].view("<u4")
    for channel in range(8):
        np.testing.assert_array_equal(words >> 4 * channel & 15, numbers[channel])
    np.testing.assert_array_equal(stored.to_float32(), key)


def test_what_is_on_the_grid_stays():
    """Rounded twice is rounded once."""
    rng = np.random.default_rng(2)
    for by_channel in (False, True):
        once = quantize(rng.standard_normal((2, 3, 96, 64)), bits=4, by_channel=by_channel)
        again = quantize(once.to_float32(), bits=4, by_channel=by_channel)
        np.testing.assert_allclose(again.to_float32(), once.to_float32(), atol=2e-3)


@each_ggml
def test_llama_cpps_blocks_are_what_gguf_makes_of_them(rng, layout):
    array = rng.standard_normal((2, 3, 50, 96), np.float32)
    blocks = gguf.quants.quantize(array, GGML[layout])
    stored = QuantizedBlocks.from_ggml(blocks, layout)
    assert stored.blocks is blocks
    assert stored.shape == array.shape
    np.testing.assert_array_equal(stored.to_float32(), gguf.quants.dequantize(blocks, GGML[layout]))


@each_ggml
@pytest.mark.parametrize("query_len", [1, 3, 8, 40])
@pytest.mark.parametrize("dim", [32, 64, 160])
def test_llama_cpps_blocks_are_read_as_they_are(rng, layout, query_len, dim):
    sizes = Sizes(query_len, 300, heads=6, dim=dim, value_dim=dim)
    query, key, value = tensors(rng, sizes)
    stored = ggml(key, layout), ggml(value, layout)
    labels = rng.integers(0, 3, (2, 6, 280)).astype(np.uint8)
    how = {"causal": True, "segments": labels, "policy": Reweight((1, 0.5, 0.2), to=(0,))}
    agree((query, *stored), **how)


@pytest.mark.parametrize("layout", ["int4", "int4_by_channel", *GGML])
def test_some_rows(rng, layout):
    array = rng.standard_normal((2, 1, 75, 64), np.float32)
    if layout in GGML:
        stored = ggml(array, layout)
    else:
        stored = quantize(array, bits=4, by_channel=layout == "int4_by_channel")
    whole = stored.to_float32()
    for begin in (0, 1, 32, 40, 64, 70, 75):
        for end in (0, 3, 32, 45, 64, 66, 75, 99):
            found = keys_between(stored, slice(begin, end))
            np.testing.assert_array_equal(found.to_float32(), whole[:, :, begin:end])
    assert np.shares_memory(keys_between(stored, slice(32, 64)).blocks, stored.blocks)


@pytest.mark.parametrize("large", [3e38, np.inf, np.nan])
@pytest.mark.parametrize("by_channel", [True, False])
def test_queries_that_no_product_with_a_scale_holds(rng, large, by_channel):
    """What the numbers give, although a scale is multiplied first."""
    query, key, value = tensors(rng, Sizes(1, 96, batch=1, heads=2, kv_heads=1))
    key = quantize(np.abs(key) * 100 + 300, bits=4, by_channel=by_channel)
    value = quantize(value, bits=4)
    query[0, 0, 0] = 0
    query[0, 0, 0, 3] = large
    with np.errstate(all="ignore"):
        found = attention(query, key, value)
        expected = attention(query, key.to_float32(), value.to_float32())
    np.testing.assert_allclose(found, expected, atol=5e-6)


@each_axis
def test_scales_may_hold_anything(rng, by_channel):
    """Bytes of no known make: what their numbers give, and nothing else is touched."""
    query, key, value = tensors(rng, Sizes(2, 64, heads=2, kv_heads=1, dim=32, value_dim=32))
    stored = [quantize(each, bits=4, by_channel=by_channel) for each in (key, value)]
    stored[0].blocks[1, 0, 0, 2:4] = np.array(np.inf, np.float16).reshape(1).view(np.uint8)
    stored[1].blocks[1, 0, 1, 6:8] = np.array(np.nan, np.float16).reshape(1).view(np.uint8)
    with np.errstate(all="ignore"):
        found = attention(query, *stored)
        expected = attention(query, *(each.to_float32() for each in stored))
    np.testing.assert_allclose(found, expected, atol=5e-6, equal_nan=True)
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize("which", ["key", "value", "both"])
def test_the_other_axis_is_read_as_well(rng, which):
    sizes = Sizes(4, 200, heads=4, dim=40, value_dim=24)
    query, key, value = tensors(rng, sizes)
    key = quantize(key, bits=4, by_channel=which == "value")
    value = quantize(value, bits=4, by_channel=which != "key")
    agree((query, key, value), returns=EVERYTHING[:3], causal=True)


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_refused(number):
    array = np.ones((2, 1, 3, 4))
    array[1, 0, 2, 3] = number
    with pytest.raises(ValueError, match=f"array must be finite to be stored .* got {number}"):
        quantize(array, bits=4)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda a: quantize(a, bits=3), ValueError, "bits must be 8 or 4, got 3"),
        (lambda a: quantize(a, by_channel=True), ValueError, "by_channel is for 4 bits"),
        (
            lambda a: quantize(a[0], bits=4),
            ValueError,
            r"must be real numbers \[B, H_kv, M, D\]",
        ),
        (
            lambda a: quantize(a * 65520, bits=4),
            ValueError,
            "be at most 65504.0, .* got 65520",
        ),
        (
            lambda a: QuantizedBlocks.from_ggml(a, "q8_0"),
            TypeError,
            r"blocks must be uint8 \[B, H_kv, M, bytes\], 34 for each 32 numbers, got float64",
        ),
        (
            lambda a: QuantizedBlocks.from_ggml(np.ones((1, 1, 1, 35), np.uint8), "q8_0"),
            TypeError,
            "34 for each 32 numbers",
        ),
        (
            lambda a: QuantizedBlocks.from_ggml(np.ones((1, 1, 1, 20), np.uint8), "int4"),
            ValueError,
            r"layout must be one of \('q8_0', 'q4_0'\), got 'int4'",
        ),
    ],
)
def test_errors_name_the_argument(call, kind, message):
    with pytest.raises(kind, match=message):
        call(np.ones((2, 1, 3, 4)))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"layout": "int5"}, ValueError, r"key must have a layout of \('q8_0',.*got 'int5'"),
        ({"layout": None}, ValueError, "key must have a layout of"),
        ({"layout": "q8_0"}, TypeError, r"key must have uint8 blocks \(2, 2, 1, 34\) of q8_0"),
        ({"rest": np.ones((2, 2, 1, 16))}, TypeError, "key must have a float32 rest of 4 axes"),
        ({"rest": np.ones((2, 2, 1), np.float32)}, TypeError, "key must have a float32 rest"),
        ({"rest": np.ones((2, 1, 1, 16), np.float32)}, TypeError, "key must have uint8 blocks"),
        ({"blocks": np.ones((2, 2, 1, 320), np.int8)}, TypeError, "key must have uint8 blocks"),
        ({"blocks": np.ones((2, 2, 320), np.uint8)}, TypeError, "key must have uint8 blocks"),
    ],
)
def test_what_does_not_fit_is_named(rng, change, kind, message):
    query, key, value = tensors(rng, Sizes(3, 40))
    stored = quantize(key, bits=4, by_channel=True)._replace(**change)
    with pytest.raises(kind, match=message):
        attention(query, stored, value)


def test_arrays_may_lie_anywhere(rng):
    query, key, value = tensors(rng, Sizes(1, 70))
    stored = [quantize(key, bits=4, by_channel=True), quantize(value, bits=4)]
    expected = attention(query, *stored)

    def gaps(array):
        return np.repeat(array, 2, axis=-1)[..., ::2]

    for layout in (gaps, np.asfortranarray, np.ndarray.tolist, np.copy):
        laid = [
            each._replace(
                blocks=np.asarray(layout(each.blocks), np.uint8),
                rest=np.asarray(layout(each.rest), np.float32),
            )
            for each in stored
        ]
        np.testing.assert_array_equal(attention(query, *laid), expected)


def test_the_reference_reads_the_numbers_it_stands_for(rng):
    query, key, value = tensors(rng, Sizes(5, 70))
    stored = quantize(key, bits=4, by_channel=True), quantize(value, bits=4)
    how = {"causal": True, "returns": ("logsumexp", "column_sums", "masses")}
    found = reference.attention(query, *stored, **how)
    expected = reference.attention(query, *map(to_float32, stored), **how)
    for ours, theirs in zip(found, expected, strict=True):
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)
