"""KVCache: append, crop, reorder; amortised growth; reading copies nothing."""

import numpy as np
import pytest
from reattend import attention
from reattend.cache import KVCache


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


def test_other_types_are_stored_as_float32():
    keys, _ = KVCache(1).append(0, np.ones((1, 1, 1, 2)), np.ones((1, 1, 1, 2), np.float16))
    assert keys.dtype == np.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, k: KVCache(0), "num_layers must be at least 1, got 0"),
        (lambda c, k: KVCache(1, dtype="int3"), "dtype must be one of.*got 'int3'"),
        (lambda c, k: KVCache(1, capacity=-1), "capacity must not be negative"),
        (lambda c, k: c.append(2, k, k), "layer must be from 0 to 1, got 2"),
        (lambda c, k: c.append(0, k[0], k[0]), r"key and value must be \[B, H_kv, N, D\]"),
        (lambda c, k: c.append(0, k, k[:, :1]), "key and value must be"),
        (lambda c, k: c.append(0, k[:1], k[:1]), r"key must have the batch.*got \(1, 3, 8\)"),
        (lambda c, k: c.append(0, k, k[..., :2]), "value must have the batch, heads and head size"),
        (lambda c, k: c.crop(-1), "length must not be negative"),
        (lambda c, k: c.length(7), "layer must be from 0 to 1"),
    ],
)
def test_errors_name_the_argument(call, message):
    cache, key = KVCache(2), np.ones((2, 3, 1, 8), np.float32)
    cache.append(0, key, key)
    with pytest.raises(ValueError, match=message):
        call(cache, key)
    assert cache.length(0) == 1


def test_prints_what_it_holds():
    cache = KVCache(3, capacity=4)
    cache.append(0, np.ones((1, 2, 1, 8)), np.ones((1, 2, 1, 8)))
    assert repr(cache) == "KVCache(3 layers, 1 keys, 0.0 MiB)"
