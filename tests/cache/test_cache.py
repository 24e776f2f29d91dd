"""KVCache: append, crop, reorder; types; amortised growth; reading copies nothing."""

import sys

import ml_dtypes
import numpy as np
import pytest
from reattend import KVCache, Quantized, attention, quantize
from reattend.border.dtypes import to_float32
from tensors import STRIDES

DTYPES = ("float32", "float16", "bfloat16", "int8")


def step(rng, length, batch=2):
    key = rng.standard_normal((batch, 3, length, 8), dtype=np.float32)
    return key, rng.standard_normal((batch, 3, length, 4), dtype=np.float32)


def test_append_gives_all_there_is(rng):
    cache = KVCache(2)
    parts = [step(rng, n) for n in (5, 1, 1, 3)]
    for part in parts:
        keys, values = cache.append(1, *part)
    np.testing.assert_array_equal(keys, np.concatenate([k for k, _ in parts], axis=2))
    np.testing.assert_array_equal(values, np.concatenate([v for _, v in parts], axis=2))
    assert (cache.length(0), cache.length(1), len(cache)) == (0, 10, 10)


def test_reading_copies_nothing(rng):
    cache = KVCache(1, capacity=16)
    keys, _ = cache.append(0, *step(rng, 4))
    more, _ = cache.append(0, *step(rng, 1))
    assert np.shares_memory(keys, more)
    assert more.strides[-1] == 4


def test_growth_is_amortised(rng):
    cache, grown, last = KVCache(1), 0, None
    for _ in range(300):
        keys, _ = cache.append(0, *step(rng, 1))
        grown += last is None or keys.base is not last
        last = keys.base
    assert grown < 20
    assert cache.nbytes < 2 * 300 * 2 * 3 * (8 + 4) * 4


@pytest.mark.parametrize("dtype", [*DTYPES, "int4"])
def test_what_it_holds_begins_with_a_cache_line(rng, dtype):
    """Whatever made the room: with AVX-512 rows across two lines cost up to a quarter."""
    cache, held = KVCache(3, dtype=dtype), []
    for layer, length in enumerate((3, 70, 131)):
        for count in (length, 1, 1):
            held += cache.append(layer, *rng.standard_normal((2, 2, 3, count, 64)))
    fork = cache.fork()
    held += fork.append(1, *rng.standard_normal((2, 2, 3, 300, 64)))
    fork.reorder(np.array([1, 0, 0]))
    held += fork.append(2, *rng.standard_normal((2, 3, 3, 1, 64)))
    for each in held:
        fields = [each] if isinstance(each, np.ndarray) else each  # of what is quantised
        arrays = [field for field in fields if isinstance(field, np.ndarray) and field.size]
        assert arrays
        assert all(array.ctypes.data % 64 == 0 for array in arrays)


def test_what_was_read_stays(rng):
    cache = KVCache(1)
    keys, _ = cache.append(0, *step(rng, 4))
    before = keys.copy()
    for _ in range(20):
        cache.append(0, *step(rng, 1))
    np.testing.assert_array_equal(keys, before)


def test_crop(rng):
    cache = KVCache(2)
    key, value = step(rng, 6)
    cache.append(0, key, value)
    cache.crop(4)
    keys, _ = cache.append(0, *(x[:, :, :1] for x in (key, value)))
    np.testing.assert_array_equal(keys, key[:, :, [0, 1, 2, 3, 0]])
    cache.crop(99)
    assert len(cache) == 5


def test_reorder_may_widen_the_batch(rng):
    cache = KVCache(1, capacity=8)
    key, value = step(rng, 3)
    cache.append(0, key, value)
    order = np.array([1, 1, 0, 0])
    cache.reorder(order)
    new = step(rng, 1, batch=4)
    keys, values = cache.append(0, *new)
    np.testing.assert_array_equal(keys, np.concatenate([key[order], new[0]], axis=2))
    np.testing.assert_array_equal(values, np.concatenate([value[order], new[1]], axis=2))


def test_attention_reads_views_as_they_are(rng):
    cache = KVCache(1, capacity=50)
    key, value = step(rng, 7)
    keys, values = cache.append(0, key, value)
    query = rng.standard_normal((2, 6, 1, 8), dtype=np.float32)
    np.testing.assert_array_equal(attention(query, keys, values), attention(query, key, value))


def rounded(array, dtype):
    """Give the numbers that a cache of this type holds of an array, as float32."""
    if dtype == "int8":
        return quantize(array).to_float32()
    return array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", ["float32", "float64", "float16", ml_dtypes.bfloat16])
def test_numbers_are_rounded_to_the_type_of_the_cache(rng, dtype, given):
    cache, parts = KVCache(1, dtype=dtype), [step(rng, n) for n in (4, 1)]
    for key, value in parts:
        found = cache.append(0, key.astype(given), value.astype(given))
    for index, array in enumerate(found):
        assert array.dtype == cache.dtype
        assert cache.dtype.name == dtype
        assert isinstance(array, Quantized) == (dtype == "int8")
        whole = np.concatenate([part[index] for part in parts], axis=2).astype(given)
        np.testing.assert_array_equal(to_float32(array), rounded(whole.astype(np.float32), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", STRIDES.values(), ids=STRIDES)
def test_arrays_may_lie_anywhere(rng, dtype, layout):
    key, value = step(rng, 5)
    keys, values = KVCache(1, dtype=dtype).append(0, layout(key), layout(value))
    np.testing.assert_array_equal(to_float32(keys), rounded(key, dtype))
    np.testing.assert_array_equal(to_float32(values), rounded(value, dtype))


@pytest.mark.parametrize(("dtype", "size"), [*zip(DTYPES, (4, 2, 2, 1), strict=True)])
def test_memory(rng, dtype, size):
    cache = KVCache(3, dtype=dtype, capacity=50)
    cache.append(1, *step(rng, 7))
    scales = 2 * 4 if dtype == "int8" else 0  # of keys and of values
    assert cache.nbytes == 2 * 3 * 50 * ((8 + 4) * size + scales)
    assert cache.fork().nbytes == cache.nbytes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_attention_reads_16_bits_as_they_are(rng, dtype):
    key, value = step(rng, 7)
    keys, values = KVCache(1, dtype=dtype, capacity=50).append(0, key, value)
    query = rng.standard_normal((2, 6, 1, 8)).astype(keys.dtype)
    expected = attention(query, key.astype(keys.dtype), value.astype(keys.dtype))
    np.testing.assert_array_equal(attention(query, keys, values), expected)


def test_bfloat16_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r'pip install "reattend\[bfloat16\]"'):
        KVCache(1, dtype="bfloat16")


@pytest.mark.parametrize("kind", ["uint16", "int8", "bool", "complex64"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_float_is_refused(kind, dtype):
    cache, key = KVCache(1, dtype=dtype), np.ones((1, 1, 1, 2), np.float32)
    with pytest.raises(TypeError, match=f"key must be float32, .* or float64, got {kind}"):
        cache.append(0, key.astype(kind), key)
    with pytest.raises(TypeError, match=r"value must be .* got int8"):
        cache.append(0, key, quantize(key))
    assert len(cache) == cache.nbytes == 0


def test_int8_names_what_is_not_finite():
    cache, key = KVCache(1, dtype="int8"), np.ones((1, 1, 3, 2))
    cache.append(0, key, key)
    key[0, 0, 1, 1] = np.inf
    with pytest.raises(ValueError, match="value must be finite to be stored as int8, got inf"):
        cache.append(0, np.ones_like(key), key)
    assert len(cache) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, k: KVCache(0), "num_layers must be at least 1, got 0"),
        (lambda c, k: KVCache(1, dtype="int3"), "dtype must be one of.*got 'int3'"),
        (lambda c, k: c.reorder([0, 2]), r"indices must be one axis of items from 0 to 1, got"),
        (lambda c, k: c.reorder([0, -1]), r"indices must be .*, got \[0, -1\]"),
        (lambda c, k: c.reorder([[0, 1]]), "indices must be one axis"),
        (lambda c, k: KVCache(1, capacity=-1), "capacity must be at least 0"),
        (lambda c, k: c.append(2, k, k), "layer must be from 0 to 1, got 2"),
        (lambda c, k: c.append(0, k[0], k[0]), r"key and value must be \[B, H_kv, N, D\]"),
        (lambda c, k: c.append(0, k, k[:, :1]), "key and value must be"),
        (lambda c, k: c.append(0, k[:1], k[:1]), r"key and value must have the batch.*got \(1, 3"),
        (lambda c, k: c.append(0, k, k[..., :2]), r"that the layer holds, .*got \(2, 3, 8, 2\)"),
        (lambda c, k: c.crop(-1), "length must be at least 0"),
        (lambda c, k: c.length(7), "layer must be from 0 to 1"),
    ],
)
def test_errors_name_the_argument(call, message):
    cache, key = KVCache(2), np.ones((2, 3, 1, 8), np.float32)
    cache.append(0, key, key)
    with pytest.raises(ValueError, match=message):
        call(cache, key)
    assert cache.length(0) == 1


def test_indices_are_integers():
    with pytest.raises(TypeError, match="indices must be integers, got bool"):
        KVCache(1).reorder([True])


def test_prints_what_it_holds():
    cache = KVCache(3, capacity=4)
    cache.append(0, np.ones((1, 2, 1, 8)), np.ones((1, 2, 1, 8)))
    assert repr(cache) == "KVCache(3 layers, 1 keys, 0.0 MiB)"
