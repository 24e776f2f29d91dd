"""Threads: how many, who decides, the GIL, several callers at once, and one pool beside torch."""

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from patience import HANGS
from reattend import Reweight, attention, reference
from reattend.border import config
from reattend.border.cpus import usable_cpus
from tensors import Sizes, close, same_bytes, tensors
from threadpoolctl import threadpool_info, threadpool_limits

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def python(code, **environment):
    """Run code in a fresh interpreter; give what it printed."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "2", **environment},
        capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


# Counts the threads of the process after a call that is large enough to use several.
COUNT = """
import os, numpy as np, reattend
def count():
    return len(os.listdir("/proc/self/task"))
query = np.ones((1, 32, 64, 64), np.float32)
before = count()
reattend.attention(query, query, query{how})
print(count() - before + 1)
"""


@linux
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_argument_says_how_many(number):
    assert python(COUNT.format(how=f", num_threads={number}")) == [str(number)]


@linux
def test_a_small_call_wakes_nobody():
    code = COUNT.replace("(1, 32, 64, 64)", "(1, 2, 3, 8)").format(how=", num_threads=2")
    assert python(code) == ["1"]


@linux
@pytest.mark.parametrize("variable", ["", "1", str(usable_cpus())])
def test_the_environment_says_how_many(variable):
    number = min(int(variable or 2), usable_cpus())
    code = "import warnings; warnings.simplefilter('ignore')\n" + COUNT.format(how="")
    assert python(code, REATTEND_NUM_THREADS=variable) == [str(number)]


@linux
@pytest.mark.parametrize("variable", ["REATTEND_NUM_THREADS", "OMP_NUM_THREADS"])
def test_no_more_threads_than_cpus_and_one_warning(variable):
    code = (
        "import warnings\nwith warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n" + textwrap.indent(COUNT.format(how=""), "    ")
        + "\n    reattend.attention(query, query, query)"
        "\nprint(len(said), said[0].category.__name__)"
    )  # fmt: skip
    found = python(code, **{"OMP_NUM_THREADS": "2", variable: "3000"})
    assert found == [str(usable_cpus()), "1", "RuntimeWarning"]


@linux
def test_one_cpu_is_enough():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "import warnings; warnings.simplefilter('ignore')\n" + COUNT.format(how="")
    assert python(code, OMP_NUM_THREADS="2") == ["1"]


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", None), ("150000 100000", 2), ("50000 100000", 1)]
)
def test_a_containers_quota_is_seen(tmp_path, monkeypatch, quota, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    inner = tmp_path / "groups" / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text(quota + "\n")  # of the group around it
    own = tmp_path / "own"
    own.write_text("0::/outer/inner\n")
    assert usable_cpus(tmp_path / "groups", own) == (cpus or 8)
    old = tmp_path / "groups" / "cpu" / "box"
    old.mkdir(parents=True)
    own.write_text("3:cpu,cpuacct:/box\n")
    (old / "cpu.cfs_period_us").write_text("100000\n")
    (old / "cpu.cfs_quota_us").write_text(quota.split()[0].replace("max", "-1") + "\n")
    assert usable_cpus(tmp_path / "groups", own) == (cpus or 8)


@linux
def test_the_argument_wins_over_the_environment():
    code = COUNT.format(how=", num_threads=2")
    assert python(code, REATTEND_NUM_THREADS="1") == ["2"]


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "²"])
def test_a_bad_environment_is_named(text):
    run = subprocess.run(
        [sys.executable, "-c", "import reattend"],
        env={**os.environ, "REATTEND_NUM_THREADS": text}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last == f"ValueError: REATTEND_NUM_THREADS must be a positive integer, got {text!r}"


def test_threadpoolctl_sees_the_pool():
    attention(*tensors(np.random.default_rng(0), Sizes(9, 9)))
    assert [pool["prefix"] for pool in threadpool_info() if pool["user_api"] == "openmp"]


@pytest.mark.parametrize("what", [1, {"openmp": 1}], ids=["all", "openmp"])
def test_threadpoolctl_limits_the_pool(what):
    before = config.num_threads()
    with threadpool_limits(what):
        assert config.num_threads() == 1
    assert config.num_threads() == before


@linux
@pytest.mark.parametrize("variable", ["", "3"])
def test_threadpoolctl_limits_what_a_call_uses(variable):
    limited = "import threadpoolctl; threadpoolctl.threadpool_limits(1)\nbefore = count()"
    code = COUNT.format(how="").replace("before = count()", limited)
    assert python(code, REATTEND_NUM_THREADS=variable) == ["1"]


def test_a_call_leaves_the_pool_as_it_was(rng):
    arrays = tensors(rng, Sizes(300, 300))  # whole tiles: oneDNN is told to use one thread
    with threadpool_limits({"openmp": 2}):
        attention(*arrays, num_threads=1)
        assert config.num_threads() == 2
        attention(*arrays, num_threads=2)
        assert config.num_threads() == 2


def test_the_gil_is_released(rng):
    """While one thread is in a long call, another goes on; holding the GIL it could not at all."""
    query, key, value = tensors(rng, Sizes(1500, 1500, batch=1, heads=8, dim=128, value_dim=128))
    inside, ticks, done = threading.Event(), [], threading.Event()

    def tick():
        inside.wait()
        while not done.wait(0.001):
            ticks.append(1)

    other = threading.Thread(target=tick)
    other.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # else the interpreter would give way before the call begins
    try:
        inside.set()
        attention(query, key, value, num_threads=1)
        during = len(ticks)
    finally:
        sys.setswitchinterval(interval)
        done.set()
        other.join()
    assert during >= 3


def test_several_callers_at_once(rng):
    shapes = [Sizes(300, 300), Sizes(1, 3000, dim=64), Sizes(40, 40), Sizes(7, 900)]
    calls = []
    for sizes in shapes * 2:
        arrays = tensors(rng, sizes)
        labels = rng.integers(0, 2, (2, 1, sizes.key_len), np.uint8)
        how = {"segments": labels, "policy": Reweight((1, 0.3), to=(0,)), "causal": True}
        calls.append((arrays, how, reference.attention(*arrays, **how)))
    barrier = threading.Barrier(len(calls))

    def run(call):
        arrays, how, expected = call
        first = attention(*arrays, **how, num_threads=2)
        barrier.wait()  # all begin at once
        for _ in range(5):
            same_bytes(attention(*arrays, **how, num_threads=2), first)
        close(first, expected)

    with ThreadPoolExecutor(len(calls)) as pool:
        list(pool.map(run, calls))


def test_an_error_in_one_thread_stays_there(rng):
    arrays = tensors(rng, Sizes(40, 40))
    expected = attention(*arrays)

    def bad(_):
        with pytest.raises(ValueError, match="segments must hold labels below 2"):
            attention(*arrays, segments=np.full((2, 1, 40), 3, "u1"), policy=Reweight((1, 1)))

    with ThreadPoolExecutor(4) as pool:
        failing = [pool.submit(bad, i) for i in range(20)]
        good = [pool.submit(attention, *arrays) for _ in range(20)]
        for future in failing:
            future.result()
        for future in good:
            same_bytes(future.result(), expected)


TORCH = """
import {first}
import {second}
import numpy as np, reattend, torch
torch.set_num_threads(2)
array = np.random.default_rng(0).standard_normal((1, 8, 300, 64), np.float32)
tensor = torch.from_numpy(array)
for _ in range(3):
    ours = reattend.attention(array, array, array, num_threads=2)
    theirs = torch.nn.functional.scaled_dot_product_attention(tensor, tensor, tensor).numpy()
    assert np.abs(ours - theirs).max() < 1e-5
image = torch.nn.functional.conv2d(torch.ones(2, 16, 32, 32), torch.ones(16, 16, 3, 3))
assert (image == 144).all(), "torch's oneDNN beside ours"
with open("/proc/self/maps") as file:
    names = {{line.split()[-1] for line in file}}
print(len([name for name in names if "gomp" in name or "iomp" in name or "libomp" in name]))
"""


@linux
@pytest.mark.parametrize(("first", "second"), [("torch", "reattend"), ("reattend", "torch")])
def test_torch_shares_the_pool(first, second):
    pytest.importorskip("torch")
    pools = python(TORCH.format(first=first, second=second), OMP_WAIT_POLICY="passive")
    assert pools == ["1"], "two pools would spin against each other"
