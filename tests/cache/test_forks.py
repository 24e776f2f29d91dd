"""Forks, reorders and crops in any order: what is shared is never written, what need not be is not.

What may be copied is told by what shares memory, and by marks written through views.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
from examples import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from reattend import KVCache, Quantized
from reattend.border.dtypes import to_float32
from reattend.cache.storage import Room
from test_cache import DTYPES, rounded, step


def arrays_of(stored):
    return list(stored) if isinstance(stored, Quantized) else [stored]


def shares(one, other):
    return all(map(np.shares_memory, arrays_of(one), arrays_of(other)))


class AnyOrder(RuleBasedStateMachine):
    """Caches that share storage, held against arrays of their own, whatever is done to them.

    A view is forgotten where `KVCache` says that it ends; until then it shows what it showed.
    """

    @initialize(
        dtype=st.sampled_from(DTYPES), capacity=st.sampled_from([0, 3, 40]), batch=st.integers(1, 4)
    )
    def begin(self, dtype, capacity, batch):
        self.rng = np.random.default_rng(0)
        self.caches = [KVCache(2, dtype=dtype, capacity=capacity)]
        self.held = [[self.draw(batch, 0), self.draw(batch, 0)]]  # of each cache and layer
        self.views = []  # whose, view, what it showed
        self.add(0, 0, 2)
        self.add(0, 1, 1)

    def draw(self, batch, length):
        shape = (batch, 2, length, 3)
        return self.rng.standard_normal(shape, np.float32), self.rng.standard_normal(shape)

    def pick(self, which):
        return which % len(self.caches)

    def add(self, which, layer, length):
        cache, held = self.caches[which], self.held[which]
        new = self.draw(len(held[layer][0]), length)
        views = cache.append(layer, *new)
        held[layer] = tuple(
            np.concatenate([old, rounded(part.astype(np.float32), cache.dtype.name)], axis=2)
            for old, part in zip(held[layer], new, strict=True)
        )
        self.views += [(cache, *pair) for pair in zip(views, held[layer], strict=True)]

    def forget(self, which, length):
        cache = self.caches[which]
        self.views = [v for v in self.views if v[0] is not cache or v[2].shape[2] <= length]

    @rule(which=st.integers(0, 9), layer=st.integers(0, 1), length=st.integers(0, 3))
    def append(self, which, layer, length):
        self.add(self.pick(which), layer, length)

    @rule(which=st.integers(0, 9))
    def step(self, which):  # of a model: one token in every layer
        for layer in range(2):
            self.add(self.pick(which), layer, 1)

    @rule(which=st.integers(0, 9), length=st.integers(0, 12))
    def crop(self, which, length):
        which = self.pick(which)
        self.caches[which].crop(length)
        self.held[which] = [tuple(a[:, :, :length] for a in pair) for pair in self.held[which]]
        self.forget(which, length)

    @rule(
        which=st.integers(0, 9), seed=st.integers(0, 999), batch=st.sampled_from([0, 0, 0, 1, 2, 4])
    )
    def reorder(self, which, seed, batch):
        which = self.pick(which)
        items = len(self.held[which][0][0])
        indices = np.random.default_rng(seed).integers(0, items, batch or items)
        self.caches[which].reorder(indices)
        self.held[which] = [tuple(a[indices] for a in pair) for pair in self.held[which]]
        self.forget(which, 0)

    @precondition(lambda self: len(self.caches) < 5)
    @rule(which=st.integers(0, 9))
    def fork(self, which):
        which = self.pick(which)
        self.caches.append(self.caches[which].fork())
        self.held.append(list(self.held[which]))

    def teardown(self):
        for which, cache in enumerate(getattr(self, "caches", [])):
            for layer in range(2):
                assert cache.length(layer) == self.held[which][layer][0].shape[2]
                self.add(which, layer, 0)  # gives views of all there is
        for _, view, shown in getattr(self, "views", []):
            np.testing.assert_array_equal(to_float32(view), shown)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=examples(200), stateful_step_count=25)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_to_append_goes_on_in_place_and_others_copy_once(rng, dtype):
    cache = KVCache(2, dtype=dtype, capacity=20)
    for layer in range(2):
        whole = cache.append(layer, *step(rng, 5))
    first, second = cache.fork(), cache.fork()
    assert shares(first.append(1, *step(rng, 1))[0], whole[0])
    copied = second.append(1, *step(rng, 1))[0]
    assert not shares(copied, whole[0])
    assert shares(second.append(1, *step(rng, 1))[0], copied)
    second.crop(4)
    assert shares(second.append(1, *step(rng, 1))[0], copied)  # nobody else holds what it held
    at_first = cache.fork().append(0, *(part[:, :, :0] for part in step(rng, 1)))
    assert shares(second.append(0, *step(rng, 1))[0], at_first[0]) is False  # cropped: others' keys
    assert shares(first.append(0, *step(rng, 1))[0], at_first[0])  # layers are copied one by one


def test_a_question_after_a_crop_is_written_in_place(rng):
    cache = KVCache(1, capacity=20)
    prompt, _ = cache.append(0, *step(rng, 8))
    for _ in range(3):
        assert np.shares_memory(cache.append(0, *step(rng, 4))[0], prompt)
        cache.crop(8)


def test_what_changes_nothing_copies_nothing(rng):
    """Also of shared storage: reading, a reorder that moves nobody or equals, cropping."""
    cache = KVCache(1, capacity=20)
    cache.append(0, *step(rng, 5, batch=1))
    cache.reorder([0, 0])
    none = step(rng, 0)
    whole, _ = cache.append(0, *none)
    forks = [cache.fork() for _ in range(3)]
    assert np.shares_memory(forks[0].append(0, *step(rng, 1))[0], whole)
    forks[1].reorder([0, 1])
    forks[2].crop(4)
    forks[2].reorder([1, 0])
    for fork in forks:
        assert np.shares_memory(fork.append(0, *none)[0], whole)
    cache.reorder([0])
    assert not np.shares_memory(cache.append(0, *step(rng, 0, batch=1))[0], whole)
    forks[0].crop(4)
    assert not np.shares_memory(forks[0].append(0, *step(rng, 1))[0], whole)


def test_who_stays_is_not_copied_from_a_fork(rng):
    cache = KVCache(1, capacity=20)
    whole, _ = cache.append(0, *step(rng, 5))
    fork = cache.fork()
    fork.reorder([0, 1])
    assert np.shares_memory(fork.append(0, *step(rng, 1))[0], whole)


def test_a_batch_that_shrinks_stays_where_it_is(rng):
    cache = KVCache(1, capacity=20)
    whole, _ = cache.append(0, *step(rng, 5, batch=4))
    held = whole.copy()
    cache.reorder([0, 3, 2])
    fewer, _ = cache.append(0, *step(rng, 0, batch=3))
    assert np.shares_memory(fewer, whole)
    np.testing.assert_array_equal(fewer, held[[0, 3, 2]])
    fork = cache.fork()
    cache.reorder([2])  # what the fork holds is not written
    np.testing.assert_array_equal(fork.append(0, *step(rng, 0, batch=3))[0], held[[0, 3, 2]])


def test_a_batch_that_shrinks_leaves_forks_of_nothing_alone(rng):
    cache = KVCache(1, capacity=20)
    cache.append(0, *step(rng, 5, batch=3))
    cache.crop(0)
    fork = cache.fork()
    cache.append(0, *step(rng, 2, batch=3))
    cache.reorder([0, 2])
    cache.crop(0)
    keys, held = step(rng, 4, batch=3), step(rng, 4, batch=2)
    found, _ = fork.append(0, *keys)
    mine, _ = cache.append(0, *held)
    np.testing.assert_array_equal(found, keys[0])
    np.testing.assert_array_equal(mine, held[0])


def test_after_a_reorder_there_is_room_as_before(rng):
    cache = KVCache(1, capacity=20)
    cache.append(0, *step(rng, 5, batch=1))
    cache.reorder([0, 0])
    views = [cache.append(0, *step(rng, 1))[0] for _ in range(5)]
    assert all(np.shares_memory(view, views[0]) for view in views)


@pytest.mark.parametrize("dtype", DTYPES)
def test_items_that_stay_and_keys_that_are_equal_are_not_copied(rng, dtype):
    """Marks are written through views, where a copy would overwrite them."""
    cache = KVCache(1, dtype=dtype, capacity=20)
    cache.append(0, *step(rng, 5, batch=1))
    cache.reorder([0, 0, 0])
    views = cache.append(0, *step(rng, 2, batch=3))
    parts = [array for view in views for array in arrays_of(view)]
    for array in parts:
        array[1, :, :5] = 7  # shared with item 0, from the prompt
        array[2] = 9  # stays
    cache.reorder([0, 0, 2])  # copies two tokens to item 1
    cache.append(0, *step(rng, 1, batch=3))
    for array in parts:
        array[1, :, 5:7] = 8  # shared with item 0, from the reorder
    cache.reorder([1, 0, 2])  # copies one token
    after = [array for view in cache.append(0, *step(rng, 0, batch=3)) for array in arrays_of(view)]
    for array in after:
        assert (array[1, :, :5] == 7).all()
        assert (array[1, :, 5:7] == 8).all()
        assert (array[2, :, :7] == 9).all()
        assert np.shares_memory(array, parts[0]) or array is not after[0]


class Slow(np.ndarray):
    """An array that lets other threads run where the room beyond the keys is looked at."""

    @property
    def shape(self):
        time.sleep(0.01)
        return super().shape


def test_forks_in_threads_do_not_write_over_one_another(rng):
    """All want the same room at once, and one gets it."""
    cache = KVCache(1, capacity=20)
    cache.append(0, *step(rng, 5))
    room = cache._layers[0].room
    room.arrays[0] = room.arrays[0].view(Slow)
    forks, steps = [cache.fork() for _ in range(4)], [step(rng, 1) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda fork, new: fork.append(0, *new)[1], forks, steps))
    for values, (_, new) in zip(found, steps, strict=True):
        np.testing.assert_array_equal(values[:, :, 5:], new)


class SlowRoom(Room):
    """A room that lets other threads run where it is looked at how much is shared."""

    @property
    def shared(self):
        found = Room.shared.__get__(self)
        time.sleep(0.05 if threading.current_thread().name == "slow" else 0)
        return found

    @shared.setter
    def shared(self, value):
        Room.shared.__set__(self, value)


def test_forks_in_threads_do_not_forget_what_is_shared(rng):
    """One marks as shared what it holds, the other more; the more it is that holds."""
    short = KVCache(1, capacity=20)
    short.append(0, *step(rng, 5))
    room = SlowRoom(short._layers[0].room.arrays, 2, 20, 5)
    short._layers[0].room = room
    long = short.fork()
    long.append(0, *step(rng, 5))
    slow = threading.Thread(target=short.fork, name="slow")
    slow.start()
    time.sleep(0.02)
    fork = long.fork()
    slow.join()
    shown = fork.append(0, *step(rng, 0))[0].copy()
    long.crop(7)
    long.append(0, *step(rng, 3))  # not where the fork still looks
    np.testing.assert_array_equal(fork.append(0, *step(rng, 0))[0], shown)


def test_forks_of_many_lengths(rng):
    """What the longest fork holds is nobody's to give away."""
    cache = KVCache(1, capacity=20)
    cache.append(0, *step(rng, 5))
    other, third, short = (cache.fork() for _ in range(3))
    whole = cache.append(0, *step(rng, 3))[0]
    shown = whole.copy()
    short.crop(4)
    short.fork()
    other.append(0, *step(rng, 2))  # not where the first one went on
    np.testing.assert_array_equal(whole, shown)
    cache.crop(4)
    cache.append(0, *step(rng, 1))  # not where the third still looks
    np.testing.assert_array_equal(third.append(0, *step(rng, 0))[0], shown[:, :, :5])


def test_items_that_part_after_a_crop_are_told_apart(rng):
    cache = KVCache(1, capacity=20)
    cache.append(0, *step(rng, 5, batch=1))
    cache.reorder([0, 0])
    cache.crop(3)
    keys = cache.append(0, *step(rng, 2))[0].copy()
    cache.reorder([1, 0])
    np.testing.assert_array_equal(cache.append(0, *step(rng, 0))[0], keys[::-1])


def test_a_deep_copy_is_a_cache_of_its_own(rng):
    cache = KVCache(1, capacity=20)
    key, value = step(rng, 5)
    cache.append(0, key, value)
    other = deepcopy(cache)
    other.append(0, key, value)
    keys, _ = cache.append(0, -key, value)
    np.testing.assert_array_equal(keys[:, :, 5:], -key)
