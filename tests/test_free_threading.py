"""Python threads without the GIL, and with it: what one thread at a time may use, shared by two.

On a free-threaded CPython they run at once; elsewhere they take turns, and the same must hold.
"""

import subprocess
import sys
import threading

import numpy as np
import pytest
from patience import HANGS
from reattend import ACT, VAR, KVCache, Session
from tensors import same_bytes

STEPS = 200
IN_USE = "is in use by another thread: give each thread its own"

IMPORTED = """
import sys
import numpy as np, ml_dtypes
enabled = getattr(sys, "_is_gil_enabled", lambda: True)
before = enabled()
import reattend
query = np.ones((1, 2, 3, 8), np.float32)
reattend.attention(query, query, query)
reattend.KVCache(1, dtype="bfloat16").append(0, query, query)
assert enabled() == before, "the GIL is on again"
print("as it was")
"""


def test_the_gil_stays_as_it_is():
    """CPython turns it on again, with a warning, for modules that do not say they need none."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTED],
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert run.stdout == "as it was\n", run.stderr


@pytest.fixture(autouse=True)
def _often():
    """Let threads take turns as often as they can, where they do."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(*works):
    """Run functions in a thread each, which begin together; raise what one raised."""
    barrier, failures = threading.Barrier(len(works)), []

    def run(work):
        try:
            barrier.wait(HANGS)
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]


def refused(work):
    """Call; say whether it was refused because another thread is at it, and raise all else."""
    try:
        work()
    except RuntimeError as error:
        if not str(error).endswith(IN_USE):
            raise
        return True
    return False


def test_no_key_of_a_cache_that_two_threads_use_is_lost():
    cache, kept = KVCache(1), {1: [], 2: []}

    def append(thread):
        for step in range(1, STEPS + 1):
            key = np.full((1, 1, 1, 2), thread * 1000 + step, np.float32)
            if not refused(lambda key=key: cache.append(0, key, key)):
                kept[thread].append(float(key[0, 0, 0, 0]))

    at_once(lambda: append(1), lambda: append(2))
    empty = np.zeros((1, 1, 0, 2), np.float32)
    keys, values = (each[0, 0, :, 0] for each in cache.append(0, empty, empty))
    same_bytes(keys, values)
    assert len(cache) == len(kept[1]) + len(kept[2])
    for thread in (1, 2):  # all that was taken is there, in its order
        assert keys[keys // 1000 == thread].tolist() == kept[thread]


def test_a_session_that_two_threads_use_gives_right_results(rng):
    """Each has a layer of its own and calls again when it was refused."""
    arrays = rng.standard_normal((3, 1, 2, 40, 8), dtype=np.float32)
    states = rng.standard_normal((1, 40, 8), dtype=np.float32)
    image = np.arange(30)[None] < 12

    def layer_of(session, layer, found, call):
        for end in (30, *range(31, 41)):
            rows = slice(0 if end == 30 else end - 1, end)
            query, key, value = arrays[0][:, :, rows], *arrays[1:, :, :, :end]
            how = {"causal": True, "hidden_states": states[:, rows]}
            found.append(call(lambda: session.attend(layer, query, key, value, **how)))  # noqa: B023

    def insisting(work):
        given = []
        while refused(lambda: given.append(work())):
            pass
        return given[0]

    def session():
        methods = [VAR(sink_dims=(1, 3), tau=0.5, rho=0.0), ACT()]
        return Session(methods, num_layers=6)

    alone, together = session(), session()
    expected, found = {2: [], 3: []}, {2: [], 3: []}
    with alone.generation(image):
        for layer in (2, 3):
            layer_of(alone, layer, expected[layer], lambda work: work())
    with together.generation(image):
        at_once(
            lambda: layer_of(together, 2, found[2], insisting),
            lambda: layer_of(together, 3, found[3], insisting),
            lambda: [refused(together.report) for _ in range(50)],
        )
    for layer in (2, 3):
        for own, other in zip(expected[layer], found[layer], strict=True):
            same_bytes(own, other)
    assert str(together.report()) == str(alone.report())


def test_one_of_two_threads_opens_a_generation():
    session = Session([], num_layers=2)
    for _ in range(50):
        opened, both = [], threading.Barrier(2)

        def open_one(opened=opened, both=both):
            try:
                with session.generation():
                    opened.append(True)
                    both.wait(HANGS)
            except RuntimeError as error:
                if "open already" not in str(error) and not str(error).endswith(IN_USE):
                    raise
                opened.append(False)
                both.wait(HANGS)

        at_once(open_one, open_one)
        assert sorted(opened) == [False, True]
