"""What is written is there in full or as it was: on a full disk, in a folder of others, killed."""

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from reattend.evaluation.datasets.pope import write_pope
from reattend.evaluation.regression.attention import AttentionRegression
from reattend.evaluation.runner.journal import Journal
from reattend.plot.page import write_page
from reattend.plot.sink_rates import SinkShares, draw_sinks
from reattend.profile import Profile
from reattend.recording import Recording

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
NUMBERS = 5000  # enough that a file takes some writes
LIMITS = (0, 1, 0.5, -1)  # bytes, or a share of the whole, or so many bytes too few


def recording(number):
    return Recording(
        np.full((2, 1, 1, NUMBERS), number % 7, np.float16), np.zeros((2, 1, 1)),
        np.zeros((1, NUMBERS), bool), np.ones(NUMBERS, bool), words=("a", "cat"), grid=(1, NUMBERS),
        settings={"number": number},
    )  # fmt: skip


def profile(path, number):
    rng = np.random.default_rng(number)
    Profile({"number": number}, {}, arrays={"a": rng.random(NUMBERS)}).save(path)


def journal(path, number):
    Journal(path, {"scenes": 1}).add(["plain", number], {"said": "x" * NUMBERS})


def picture(path, number):
    draw_sinks(path, SinkShares(*np.full((2, 3, 2, 2), number / 9)), title="", caption="")


def pope(path, number):
    from reattend.evaluation.datasets import Case, Dataset

    cases = [Case(str(key), "Is it ?", None, f"{number}.png", truth=True) for key in range(99)]
    write_pope(Dataset("pope", cases, None, {}), path)


# File -> what writes it, and which version of it.
ROADS = {
    "run.jsonl": journal,
    "model.json": profile,
    "run.npz": lambda path, number: recording(number).save(path),
    "base.npz": lambda path, number: AttentionRegression(path, update=True)(recording(number)),
    "run.html": lambda path, number: write_page(recording(number), path),
    "sinks.pdf": picture,
    "pope.jsonl": pope,
}
roads = pytest.mark.parametrize("name", ROADS)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def files_of_at_most(size):
    """Refuse, as a full disk does, what goes beyond a size."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


@roads
def test_a_full_disk_leaves_what_was_there_and_names_the_file(tmp_path, name):
    path, write = tmp_path / name, ROADS[name]
    write(path, 1)
    before = contents(tmp_path)
    with tempfile.TemporaryDirectory() as other:
        whole = Path(other, name)
        if name == "run.jsonl":
            whole.write_bytes(path.read_bytes())  # what is added to
        write(whole, 2)
        sizes = [each.stat().st_size for each in Path(other).iterdir()]
    start = path.stat().st_size if name == "run.jsonl" else 0
    for size in sizes:
        for limit in LIMITS:
            rest = size - start
            most = start + (int(rest * limit) if 0 < limit < 1 else limit % rest)
            with files_of_at_most(most), pytest.raises(OSError, match=path.stem) as refused:
                write(path, 2)
            assert refused.value.errno == errno.EFBIG
            assert Path(refused.value.filename).parent == tmp_path
            assert contents(tmp_path) == before
    write(path, 2)  # with room again it goes on
    assert contents(tmp_path) != before


@contextmanager
def no_room(folder):
    """Have a file system of 12 MB in a folder, full but for some bytes."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.nightly
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@roads
def test_a_disk_that_is_really_full(tmp_path, name):
    with no_room(tmp_path):  # nothing is left mounted: pytest could not clear away
        path, write = tmp_path / name, ROADS[name]
        write(path, 1)
        room = os.statvfs(tmp_path)
        (tmp_path / "else").write_bytes(b"x" * (room.f_bavail * room.f_frsize))
        before = contents(tmp_path)
        with pytest.raises(OSError, match=path.stem) as refused:
            [write(path, number) for number in range(2, 9)]  # a journal's last page has some room
        assert refused.value.errno == errno.ENOSPC
        after = contents(tmp_path)
        assert after.keys() == before.keys()
        assert after[name].startswith(before[name])


@contextmanager
def nobody():
    """Be a user who may read but not write, also where tests are run as root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@roads
def test_a_folder_that_may_only_be_read(name):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        path, write = Path(folder, name), ROADS[name]
        write(path, 1)
        before = contents(path.parent)
        for each in path.parent.iterdir():
            each.chmod(0o444)
        path.parent.chmod(0o555)
        try:
            with nobody(), pytest.raises(PermissionError, match=path.stem) as refused:
                write(path, 2)
            assert Path(refused.value.filename).parent == path.parent
            assert contents(path.parent) == before
        finally:
            path.parent.chmod(0o755)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_written_files import ROADS
path, number = Path(sys.argv[2]), int(sys.argv[3])
print("writes", flush=True)
while True:
    number += 1
    ROADS[path.name](path, number)
"""


def version_of(path):
    """Give the number of a file that is whole."""
    if path.suffix == ".jsonl":
        keys = [*Journal(path)]
        assert keys == [["plain", number] for number in range(1, len(keys) + 1)]
        return len(keys)
    if path.suffix == ".json":
        found = Profile.load(path)
        rng = np.random.default_rng(found.model["number"])
        np.testing.assert_array_equal(found.arrays["a"], rng.random(NUMBERS))
        return found.model["number"]
    found = Recording.load(path)
    assert (found.attention == found.settings["number"] % 7).all()
    return found.settings["number"]


@pytest.mark.parametrize("name", ["run.jsonl", "model.json", "run.npz"])
@pytest.mark.parametrize("times", [1, pytest.param(100, marks=[pytest.mark.nightly])])
def test_kill_9_leaves_a_whole_file(tmp_path, rng, name, times):
    path, here = tmp_path / name, str(Path(__file__).parent)
    ROADS[name](path, 1)
    known = 1
    for _ in range(times):
        words = [sys.executable, "-c", WRITER, here, str(path), str(known)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(float(rng.random() * 0.2))
            process.send_signal(signal.SIGKILL)
        found = version_of(path)
        assert found >= known
        known = found
