"""What a process does around calls: forks, Ctrl-C, one thread for each cache and session."""

import os
import signal
import subprocess
import sys
import threading
import time
from copy import deepcopy

import numpy as np
import pytest
from patience import HANGS, within
from reattend import KVCache, Session, attention, column_sums
from reattend.methods import ACT

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

FORK = """
import sys
{imports}
import multiprocessing
query = np.ones((1, 32, 64, 64), np.float32)
def call(_=None):
    return float(reattend.attention(query, query, query, num_threads=2).sum())
expected = call()
{between}
with multiprocessing.get_context("fork").Pool(3) as pool:
    assert pool.map_async(call, range(12)).get(60) == [expected] * 12
assert call() == expected  # the parent goes on
print("ok")
"""
TORCH = "import torch; torch.ones(900, 900) @ torch.ones(900, 900)\n"
OURS = "import numpy as np, reattend\n"


@posix
@pytest.mark.parametrize(
    ("imports", "between"),
    [
        (OURS, ""),
        (OURS + TORCH, ""),
        (TORCH + OURS, ""),
        (OURS, TORCH + "assert call() == expected"),
    ],
    ids=["alone", "before-torch", "after-torch", "torch-in-between"],
)
def test_a_fork_after_a_call_with_threads(imports, between):
    if TORCH in imports + between:
        pytest.importorskip("torch")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK.format(imports=imports, between=between)],
        env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert run.stdout == "ok\n", run.stderr


@posix
def test_forks_beside_threads_that_call():
    code = """
import os, threading
import numpy as np, reattend
query = np.ones((1, 32, 64, 64), np.float32)
call = lambda: float(reattend.attention(query, query, query, num_threads=2).sum())
expected, stop, wrong = call(), threading.Event(), []
def loop():
    while not stop.is_set():
        if call() != expected:
            wrong.append(1)
threads = [threading.Thread(target=loop) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        os._exit(0 if call() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
print(len(wrong))
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert run.stdout == "0\n", run.stderr


class Alarm(Exception):
    """What the handler of a signal raises."""


@pytest.fixture
def alarm():
    """Have a signal raise in this thread; give what sets it off."""

    def ring(*_):
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@posix
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("road", ["prefill", "decode", "column sums"])
def test_a_signal_ends_a_long_call(rng, alarm, road, num_threads):
    length = 4_000_000 if road == "decode" else 30_000
    query = rng.standard_normal((1, 1, 8 if road == "decode" else length, 16), dtype=np.float32)
    key = rng.standard_normal((1, 1, length, 16), dtype=np.float32)
    if road == "column sums":
        zeros = np.zeros((1, 1, length), np.float32)
        heads = {"query": query.repeat(4, 1), "logsumexp": zeros.repeat(4, 1)}
        work = lambda: column_sums(key=key, num_threads=num_threads, **heads)  # noqa: E731
    else:
        work = lambda: attention(query.repeat(4, 1), key, key, num_threads=num_threads)  # noqa: E731
    small = attention(query[:, :, :9], key[:, :, :9], key[:, :, :9])
    if road == "decode":
        work = lambda: [attention(query, key, key, num_threads=num_threads) for _ in range(50)]  # noqa: E731
    rang = 0.3

    def late(_):
        start = time.perf_counter()
        alarm(rang)
        with pytest.raises(Alarm):
            work()
        return time.perf_counter() - start - rang

    assert within(late, 1.0)  # 0.2 s on a machine that is not shared; the whole takes many seconds
    np.testing.assert_array_equal(  # the next call is as any other
        attention(query[:, :, :9], key[:, :, :9], key[:, :, :9]), small
    )


SIGNALS = """
import signal, time
import numpy as np, reattend
came = []
signal.signal(signal.SIGALRM, lambda *_: came.append(1))
query = np.ones((1, 1, 600, 64), np.float32)  # whole tiles: oneDNN multiplies them
expected = reattend.attention(query, query, query, num_threads=1)
signal.setitimer(signal.ITIMER_REAL, 2e-4, 2e-4)
end = time.monotonic() + 1
while time.monotonic() < end or len(came) <= 20:
    np.testing.assert_array_equal(
        reattend.attention(query, query, query, num_threads=1), expected
    )
signal.setitimer(signal.ITIMER_REAL, 0)
print(True)
"""


@posix
def test_signals_in_a_call_spoil_nothing():
    # oneDNN 3.2 keeps its stack pointer in the heap in deep products: a handler wrote there.
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SIGNALS],
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert run.stdout == "True\n", run.stderr or f"ended by signal {-run.returncode}"


def test_a_thread_that_is_not_the_main_one_goes_on(rng):
    query = rng.standard_normal((1, 4, 3000, 16), dtype=np.float32)
    expected, found = attention(query, query, query), []
    thread = threading.Thread(target=lambda: found.append(attention(query, query, query)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], expected)


def use_at_once(first, second):
    """Run second while another thread is inside first(enter, leave); give what second raised."""
    enter, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=first, args=(enter, leave))
    thread.start()
    assert enter.wait(30)
    try:
        second()
    finally:
        leave.set()
        thread.join()


class Slow:
    """An array-like that is converted while the test looks on."""

    def __init__(self, array, enter, leave):
        self.array, self.enter, self.leave = array, enter, leave

    def __array__(self, dtype=None, copy=None):
        self.enter.set()
        self.leave.wait(30)
        return self.array


def test_a_cache_that_two_threads_use_raises():
    cache, step = KVCache(1), np.ones((1, 1, 2, 4), np.float32)
    for second in (
        lambda: cache.append(0, step, step),
        lambda: cache.crop(1),
        lambda: cache.reorder(np.array([0])),
        lambda: cache.fork(),
        lambda: deepcopy(cache),
    ):
        with pytest.raises(RuntimeError, match="this KVCache is in use by another thread"):
            use_at_once(lambda *events: cache.append(0, Slow(step, *events), step), second)
    assert len(cache) == 10  # what the first thread added is there
    branch, copy = cache.fork(), deepcopy(cache)
    branch.append(0, step, step)
    copy.append(0, step, step)
    assert (len(cache), len(branch), len(copy)) == (10, 12, 12)


def test_a_session_that_two_threads_use_raises():
    session, query = Session(ACT(), num_layers=2), np.ones((1, 1, 3, 4), np.float32)
    session.record()
    session.measure(["entropy"])
    with session.generation():
        recording = session.report().recorded
        for second in (
            lambda: session.attend(0, query, query, query),
            lambda: session.reorder(np.array([0])),
            lambda: session.report(),
            lambda: session.describe(),
            lambda: session.record(),
            lambda: session.recording(),
            lambda: session.measure(["entropy"]),
            lambda: session.measured(),
            lambda: deepcopy(session),
            lambda: session.generation().__enter__(),
            recording,
        ):
            with pytest.raises(RuntimeError, match="this Session is in use by another thread"):
                use_at_once(lambda *events: hold(session, *events), second)


def hold(session, enter, leave):
    with session._use:
        enter.set()
        leave.wait(30)
