"""A file that is written is there in full or not at all, and may be read by whom the umask says."""

import os
import stat

import pytest
from reattend.whole_file import whole_file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


def test_it_takes_the_place_at_the_end(path):
    path.write_text("old")
    with whole_file(path) as partial:
        assert partial.parent == path.parent
        assert partial.suffix == ".npz"  # what writes may go by it
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()], ids=repr)
def test_what_ends_early_leaves_the_old_file_and_nothing_beside(path, error):
    path.write_text("old")

    def write():
        with whole_file(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert [*path.parent.iterdir()] == [path]


def test_the_umask_says_who_may_read(path):
    umask = os.umask(0o027)
    try:
        with whole_file(path) as partial:
            partial.write_text("new")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_two_at_once_do_not_meet(path):
    with whole_file(path) as first:
        first.write_text("first")
        if not os.fork():
            with whole_file(path) as second:
                second.write_text("second")
            os._exit(0)
        os.wait()
        assert path.read_text() == "second"
    assert path.read_text() == "first"
