"""JSON of others that is nested deeper than Python's stack is refused as other damage is."""

import pytest
from reattend.cli.compare import command
from reattend.evaluation.datasets.records import DataError, read_object, read_records
from reattend.evaluation.runner.journal import Journal, JournalError
from reattend.models.json_files import read_json
from reattend.models.weights import ModelFileError
from reattend.profile import Profile, ProfileError
from reattend.terminal import CommandError

DEEP = "[" * 100_000


def records(path):
    problems = []
    read_records(path, problems)
    raise DataError(problems)


READERS = {
    "object": (read_object, DataError),
    "records": (records, DataError),
    "journal": (Journal, JournalError),
    "profile": (Profile.load, ProfileError),
    "folder": (lambda path: read_json(path.parent, path.name, ""), ModelFileError),
    "runs": (lambda path: command.callback(path, path, "plain", None, "json", True), CommandError),
}


@pytest.mark.parametrize("before", ["", '{"a": ', '{"a": 1}\n'], ids=["at-once", "inside", "later"])
@pytest.mark.parametrize("name", READERS)
def test_deep_nesting_is_refused(tmp_path, name, before):
    read, error = READERS[name]
    path = tmp_path / "given.json"
    path.write_text(before + DEEP + ("]" * 100_000 + "}" if before.endswith(" ") else "\n"))
    with pytest.raises(error):
        read(path)
