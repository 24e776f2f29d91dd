"""Importing needs NumPy only, is quick, changes nothing; the instruction set can be limited."""

import os
import re
import subprocess
import sys
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
import reattend
from patience import HANGS, within

LEVELS = ("v2", "v3", "v4")
ISA = "from reattend import _core; print(_core.isa())"
LONGEST = 0.2  # seconds of a CPU that the import may take beyond NumPy's own


def python(*arguments, check=True, **environment):
    """Run a fresh interpreter with these variables (None: without) in its environment."""
    inherited = {k: v for k, v in os.environ.items() if k not in environment}
    given = {k: v for k, v in environment.items() if v is not None}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env=inherited | given, capture_output=True, text=True, check=check,
    )  # fmt: skip


NUMPY_ONLY = """
import sys
import numpy
before = set(sys.modules)
import reattend
new = {name.partition(".")[0] for name in set(sys.modules) - before}
interpreters = {'_interpreters', '_xxsubinterpreters'}  # of Python itself, and not in its list
print(sorted(new - set(sys.stdlib_module_names) - interpreters))
"""


def test_needs_numpy_only():
    assert python("-c", NUMPY_ONLY).stdout.strip() in ("['reattend']", "['numpy', 'reattend']")


def test_is_quick():
    # Of a CPU, not of the clock; with bytecode, as an installed package has it.
    timed = "import numpy, time; begin = time.process_time(); import reattend; "
    timed += "print(time.process_time() - begin)"
    timed_run = lambda _: float(python("-c", timed, PYTHONDONTWRITEBYTECODE=None).stdout)  # noqa: E731
    assert within(timed_run, LONGEST, times=5)


UNCHANGED = """
import os, signal, sys, threading, warnings
import numpy, numpy.linalg, numpy.random, numpy.typing
def state():
    for module in (numpy, numpy.linalg, numpy.random, os, sys.modules["builtins"]):
        for name, item in vars(module).items():
            if callable(item):
                yield f"{module.__name__}.{name}", item
    yield "environment", dict(os.environ)
    yield "folder", os.getcwd()
    yield "path", (sys.path[:], sys.meta_path[:])
    yield "hook", sys.excepthook
    yield "warnings", warnings.filters[:]
    yield "floating point errors", numpy.geterr()
    yield "printing", numpy.get_printoptions()
    yield "threads", threading.active_count()
    yield "signals", [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGABRT)]
    yield "random numbers", numpy.random.get_state()[1].tolist()
before = dict(state())
import reattend
after = dict(state())
for name, item in before.items():
    assert item == after[name], name
"""


def test_changes_nothing():
    python("-c", UNCHANGED)


DENORMALS = """
import numpy as np
tiny = np.float32(1e-40)
array = np.full(64, tiny)
def survive():
    return tiny * np.float32(1) != 0 and (array * np.float32(1) != 0).all()
assert survive()
import reattend
assert survive(), "flush-to-zero is on after the import"
query = np.ones((1, 4, 300, 64), np.float32)
reattend.attention(query, query, query, num_threads=2, returns="column_sums")
reattend.attention(query[:, :, :1], query, query, num_threads=2)
assert survive(), "flush-to-zero is on after a call"
"""


def test_denormals_survive():
    python("-c", DENORMALS)


@cache
def best():
    """Give the best instruction set of this CPU."""
    return python("-c", ISA, REATTEND_MAX_ISA=None).stdout.strip().removeprefix("x86-64-")


@pytest.mark.parametrize("level", LEVELS)
def test_the_instruction_set_can_be_limited(level):
    code = "import reattend; reattend.show_config()"
    lines = python("-c", code, REATTEND_MAX_ISA=level).stdout.splitlines()
    # What v4 may come with: bfloat16 stays, AMX is left out.
    within = best().replace("AMX", "bfloat16")
    expected = within if within.startswith(level) else min(level, within)
    assert lines[2] == f"instruction set x86-64-{expected} (limited by REATTEND_MAX_ISA={level})"


def test_an_empty_limit_is_none():
    assert python("-c", ISA, REATTEND_MAX_ISA="").stdout.strip().endswith(best())


@pytest.mark.parametrize("value", ["v1", "v5", "avx2", "V3", " v3"])
def test_a_bad_instruction_set_is_named(value):
    run = python("-c", "import reattend", check=False, REATTEND_MAX_ISA=value)
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last.endswith(f"REATTEND_MAX_ISA must be v2, v3 or v4, not '{value}'")


# Every loop of the kernels, at edges of tiles and vectors: decode, prefill, whole tiles, segments.
COMPACT = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
from cases import POLICIES
from tensors import Sizes, agree, labels_of, mask_of, tensors
rng = np.random.default_rng(0)
for lengths in ((1, 600), (5, 33), (9, 40), (260, 300)):
    for dim, value_dim in ((17, 9), (64, 80)):
        sizes = Sizes(*lengths, dim=dim, value_dim=value_dim)
        agree(tensors(rng, sizes))
        labels = labels_of(rng, sizes, "image-and-sinks")
        mask = mask_of(rng, sizes, "causal+holes+bias+softcap")
        agree(tensors(rng, sizes), segments=labels, policy=POLICIES["gated_twice"], **mask)
query, key, value = tensors(rng, Sizes(300, 300))
value[:, :, 150] = np.nan  # reaches the rows that see it, at every level
agree((query, key, value), causal=True, returns=("masses",))
"""


@pytest.mark.parametrize("level", LEVELS)
def test_every_instruction_set_gives_the_reference(level):
    if level > best():
        pytest.skip(f"this CPU has {best()} at most")
    code = COMPACT.format(tests=str(Path(__file__).parent))
    python("-c", code, REATTEND_MAX_ISA=level, OPENBLAS_NUM_THREADS="1")


def test_show_config():
    text = StringIO()
    reattend.show_config(file=text)
    version, onednn, isa, threads = text.getvalue().splitlines()
    assert version == f"reattend {reattend.__version__}"
    assert re.fullmatch(r"oneDNN \d+\.\d+\.\d+", onednn)
    assert re.match(r"instruction set x86-64-v[234]", isa)
    assert re.fullmatch(r"threads [1-9]\d*", threads)


def test_show_config_prints(capsys):
    reattend.show_config()
    assert len(capsys.readouterr().out.splitlines()) == 4


SUBINTERPRETER = """
try:
    import _interpreters as known
except ImportError:
    import _xxsubinterpreters as known
code = 'try: import reattend\\nexcept ImportError as error: print(error, flush=True)'
known.run_string(known.create(), code)
"""


def test_a_subinterpreter_is_refused():
    """It would hang: the core's module waits for a lock that its interpreter never gets."""
    done = subprocess.run(
        [sys.executable, "-c", SUBINTERPRETER], capture_output=True, text=True, timeout=HANGS
    )
    assert "reattend cannot be imported in a subinterpreter" in done.stdout, done
