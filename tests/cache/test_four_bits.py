"""KVCache of 4 bits: whatever is done to it, it holds what a few lines of NumPy hold."""

import numpy as np
import pytest
from reattend import KVCache, Prefixed, QuantizedBlocks, attention, quantize, reference
from reattend.border.dtypes import to_float32
from tensors import close

HEADS, DIM, VALUE_DIM = 2, 40, 24


def step(rng, length, batch=2):
    key = rng.standard_normal((batch, HEADS, length, DIM), dtype=np.float32)
    return key, rng.standard_normal((batch, HEADS, length, VALUE_DIM), dtype=np.float32)


class Plain:
    """Keys or values: those of whole groups, rounded when there are 32 behind them."""

    def __init__(self, by_channel):
        self.by_channel, self.parts = by_channel, None

    def append(self, new):
        old, recent = self.parts or (new[:, :, :0], new[:, :, :0])
        recent = np.concatenate([recent, new], axis=2)
        packed = max(recent.shape[2] - 32, 0) // 32 * 32
        some = quantize(recent[:, :, :packed], bits=4, by_channel=self.by_channel).to_float32()
        self.parts = np.concatenate([old, some], axis=2), recent[:, :, packed:]

    def crop(self, length):
        old, recent = self.parts
        if length < old.shape[2]:
            whole = length // 32 * 32
            self.parts = old[:, :, :whole], old[:, :, whole:length]
        else:
            self.parts = old, recent[:, :, : length - old.shape[2]]

    def reorder(self, indices):
        self.parts = tuple(part[indices] for part in self.parts)

    def keep(self, indices):
        whole = np.concatenate(self.parts, axis=2)
        self.parts = None
        self.append(np.take_along_axis(whole, indices[..., None], axis=2))

    def fork(self):
        other = Plain(self.by_channel)
        other.parts = self.parts
        return other


class Pair:
    """A cache, and the same in plain arrays."""

    def __init__(self, cache, plain):
        self.cache, self.plain, self.seen = cache, plain, None

    def append(self, *new):
        for plain, each in zip(self.plain, new, strict=True):
            plain.append(each)
        self.seen = self.cache.append(0, *new)
        self.check()

    def check(self):
        for stored, plain in zip(self.seen, self.plain, strict=True):
            np.testing.assert_array_equal(to_float32(stored), np.concatenate(plain.parts, axis=2))
            assert stored.packed == plain.parts[0].shape[2]

    def fork(self):
        other = Pair(self.cache.fork(), [each.fork() for each in self.plain])
        other.seen = self.seen
        return other


@pytest.mark.parametrize("seed", range(6))
def test_in_any_order(seed):
    rng = np.random.default_rng(seed)
    pairs = [Pair(KVCache(1, dtype="int4"), [Plain(True), Plain(False)])]
    pairs[0].append(*step(rng, 70))
    for _ in range(60):
        pair = pairs[rng.integers(len(pairs))]
        length = len(pair.cache)
        batch = len(pair.plain[0].parts[0])
        what = rng.integers(8)
        if what == 0 and len(pairs) < 4:
            pairs.append(pair.fork())
        elif what == 1:
            new = int(rng.integers(0, length + 1))
            pair.cache.crop(new)
            for each in pair.plain:
                each.crop(new)
        elif what == 2:
            indices = rng.integers(0, batch, rng.integers(1, 4))
            pair.cache.reorder(indices)
            for each in pair.plain:
                each.reorder(indices)
        elif what == 3 and length:
            indices = np.sort(rng.permutation(length)[: int(rng.integers(1, length + 1))])
            pair.cache.keep(0, indices)
            wide = np.broadcast_to(indices, (batch, HEADS, len(indices)))
            for each in pair.plain:
                each.keep(wide)
        new = step(rng, int(rng.choice([0, 1, 1, 1, 5, 31, 33, 80])), len(pair.plain[0].parts[0]))
        pair.append(*new)
        assert len(pair.cache) == sum(part.shape[2] for part in pair.plain[0].parts)
    for pair in pairs:
        pair.append(*step(rng, 0, len(pair.plain[0].parts[0])))


def test_what_was_read_stays(rng):
    cache = KVCache(1, dtype="int4")
    keys, values = cache.append(0, *step(rng, 63))
    before = to_float32(keys), to_float32(values)
    for _ in range(70):
        cache.append(0, *step(rng, 1))
    np.testing.assert_array_equal(to_float32(keys), before[0])
    np.testing.assert_array_equal(to_float32(values), before[1])


def test_memory(rng):
    """5 bits a number, and 64 keys in full."""
    cache = KVCache(3, dtype="int4", capacity=320)
    cache.append(1, *step(rng, 200))
    assert cache.dtype == np.uint8
    assert cache.nbytes == 2 * HEADS * (10 * 20 * (DIM + 32) + 64 * 4 * (DIM + VALUE_DIM))
    assert cache.fork().nbytes == cache.nbytes


def test_reading_copies_nothing(rng):
    cache = KVCache(1, dtype="int4", capacity=320)
    keys, _ = cache.append(0, *step(rng, 70))
    more, _ = cache.append(0, *step(rng, 1))
    assert isinstance(keys, QuantizedBlocks)
    assert np.shares_memory(keys.blocks, more.blocks)
    assert np.shares_memory(keys.rest, more.rest)


@pytest.mark.parametrize("prompt", [20, 70, 530])
def test_many_questions_about_one_prompt(rng, prompt):
    cache = KVCache(1, dtype="int4")
    cache.append(0, *step(rng, prompt, batch=1))
    questions = cache.fork(batch=3)
    for length in (1, 40, 1, 30, 1):
        keys, values = questions.append(0, *step(rng, length, batch=3))
        assert isinstance(keys, Prefixed)
        query = rng.standard_normal((3, 4, length, DIM), dtype=np.float32)
        labels = rng.integers(0, 3, (3, 1, keys.shape[2])).astype(np.uint8)
        how = {"causal": True, "segments": labels, "returns": ("masses", "column_sums")}
        found = attention(query, keys, values, **how)
        expected = reference.attention(query, np.array(keys), np.array(values), **how)
        for name in ("out", "masses", "column_sums"):
            close(getattr(found, name), getattr(expected, name), name)


@pytest.mark.parametrize("number", [np.nan, 1e5])
def test_what_cannot_be_stored_is_named_when_it_comes(rng, number):
    """Not when it is rounded, which may be 60 steps later."""
    cache, (key, value) = KVCache(1, dtype="int4"), step(rng, 3)
    cache.append(0, key, value)
    value[0, 1, 1, 1] = number
    with pytest.raises(ValueError, match=r"value must be .* to be stored as int4, got"):
        cache.append(0, key, value)
    assert len(cache) == 3
