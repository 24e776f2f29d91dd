"""A journal of finished work: JSON lines, written one by one, so that a run goes on where it ended.

The first line says what the run is; a run that is another one does not go on with it. Each line
ends with its checksum, so that one that was changed is found. Journals from before there were
checksums are read, and go on, without them.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reattend.evaluation.runner.file_lock import FileLock, HeldError
from reattend.json_text import from_json
from reattend.whole_file import named

VERSION = 2  # of the lines; the first had no checksums


class JournalError(ValueError):
    """A file is no journal, or that of another run."""


class Journal:
    """Finished pieces of work, by key.

    Parameters
    ----------
    path : path
        Where its lines are, or will be.
    run : mapping, optional
        What the run is, as JSON can hold it; without it the file is only read, even while another
        process writes it, and may be compressed, as .gz. With it the file is this process's until
        the journal is gone.

    Attributes
    ----------
    path : path
        Where it is.
    run : dict
        What the run is.

    Raises
    ------
    JournalError
        If the file is of another run, or no journal, or if another process writes it.
    FileNotFoundError
        If it is to be read and is not there.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "run.jsonl")
    ...     Journal(path, {"scenes": 2}).add(["plain", 0], [0.5])
    ...     again = Journal(path, {"scenes": 2})
    ...     read = Journal(path).run
    >>> ["plain", 0] in again, ["plain", 1] in again, again.get(["plain", 0]), [*again], read
    (True, False, [0.5], [['plain', 0]], {'scenes': 2})
    """

    def __init__(self, path: Path, run: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._found: dict[str, Any] = {}
        self._checked = True
        if run is not None:
            try:
                self._lock = FileLock.of(path)
            except HeldError as error:
                raise JournalError(
                    f"{path} is written by {error}: wait for it, or give another --out"
                ) from None
        text = path.read_bytes() if run is None or path.exists() else b""
        if run is None and path.suffix == ".gz":
            text = gzip.decompress(text)
        *lines, broken = text.split(b"\n")  # a line that was not finished does not count
        first = b"" if run is None else _line({"journal": VERSION, "run": run}, checked=True)
        self.run: dict[str, Any] = self._read(lines or [first])
        if run is None:
            return
        self._compare(json.loads(json.dumps(run)))
        if broken:
            os.truncate(path, len(text) - len(broken))
        if not lines:
            _append(path, first)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, key: Sequence[Any]) -> bool:
        return json.dumps(key) in self._found

    def __iter__(self) -> Iterator[Any]:
        """Go over the keys, in the order in which they were added."""
        return map(json.loads, self._found)

    def get(self, key: Sequence[Any]) -> Any:
        """Give what was found.

        Parameters
        ----------
        key : sequence
            Of the piece of work.

        Raises
        ------
        KeyError
            If it is not done yet.

        Examples
        --------
        See the example of the class.
        """
        return self._found[json.dumps(key)]

    def add(self, key: Sequence[Any], found: Any) -> None:
        """Write down what was found, to stay even if the machine stops now.

        Parameters
        ----------
        key : sequence
            Of the piece of work.
        found
            What JSON can hold.

        Raises
        ------
        OSError
            If it cannot be written, such as on a full disk; the journal then is as it was.
        ValueError
            If the piece of work is there already.

        Examples
        --------
        See the example of the class.
        """
        if key in self:
            raise ValueError(f"key must be new to the journal, got {key!r} again")
        _append(self.path, _line({"key": key, "found": found}, checked=self._checked))
        self._found[json.dumps(key)] = found

    def _read(self, lines: Sequence[bytes]) -> dict[str, Any]:
        run: dict[str, Any] = {}
        for number, line in enumerate(lines, 1):
            try:
                entry = dict(from_json(line))
                if number == 1:
                    run = self._begin(entry)
                elif self._checked and not _holds(entry):
                    raise ValueError("its checksum is another")
                else:
                    key = json.dumps(entry["key"])
                    if key in self._found:
                        raise ValueError(f"its key {key} was there before")
                    self._found[key] = entry["found"]
            except JournalError:
                raise
            except (ValueError, KeyError, TypeError) as error:
                raise JournalError(
                    f"{self.path} is no journal of a run: line {number} is damaged: {error!r}"
                ) from error
        return run

    def _begin(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Give the run of a first line, which says of which version the lines are."""
        version = entry.get("journal", 1)
        if version not in (1, VERSION):
            raise JournalError(
                f"{self.path} is a journal of version {version}, and this reattend reads versions "
                f"up to {VERSION}"
            )
        self._checked = version == VERSION
        if not self._checked:
            return entry
        if not _holds(entry):
            raise ValueError("its checksum is another")
        return dict(entry["run"])

    def _compare(self, wanted: Mapping[str, Any]) -> None:
        if differs := differences(self.run, wanted):
            raise JournalError(
                f"{self.path} is of another run, with {differs}: give another --out, or delete it"
            )


def written_out(value: Any) -> str:
    """Give what Python shows of a value with its arrays in full: two that differ look different.

    Parameters
    ----------
    value
        Such as a method that is at work.

    Examples
    --------
    >>> len(written_out(np.zeros(2000))) > 3 * 2000
    True
    """
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return repr(value)


def differences(run: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say in what a run differs from the one that is wanted; empty if in nothing.

    Parameters
    ----------
    run, wanted : mapping
        What they are.

    Examples
    --------
    >>> differences({"scenes": 2, "seed": 0}, {"scenes": 3, "seed": 0})
    'scenes 2, not 3'
    """
    return "; ".join(
        f"{name} {_short(run.get(name))}, not {_short(wanted.get(name))}"
        for name in sorted(run.keys() | wanted.keys())
        if run.get(name) != wanted.get(name)
    )


def _line(values: Mapping[str, Any], *, checked: bool) -> bytes:
    if checked:
        values = {**values, "crc32": _checksum(values)}
    return _dumped(values) + b"\n"


def _holds(entry: Mapping[str, Any]) -> bool:
    """Whether a line's checksum is that of its values."""
    values = {name: value for name, value in entry.items() if name != "crc32"}
    return bool(entry.get("crc32") == _checksum(values))


def _checksum(values: Mapping[str, Any]) -> int:
    return zlib.crc32(_dumped(values))


def _dumped(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _append(path: Path, line: bytes) -> None:
    """Write a line to the disk, or nothing: after half a line the next one would be lost too."""
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException as error:
            os.truncate(path, size)
            if isinstance(error, OSError):
                raise named(error, path) from error
            raise
