"""A file that one process at a time writes; the system frees what a killed process held."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import ClassVar
from weakref import WeakValueDictionary

try:
    import fcntl
except ImportError:  # Windows: nobody is kept out
    fcntl = None  # type: ignore[assignment]


class HeldError(OSError):
    """Another process holds the file; the message says which."""


class FileLock:
    """Held until the last reference to it is gone; shared inside a process."""

    _held: ClassVar[WeakValueDictionary[tuple[int, int], FileLock]] = WeakValueDictionary()

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise HeldError(_holder(path)) from None
        except OSError:  # a file system without locks
            return

    @classmethod
    def of(cls, path: Path) -> FileLock:
        """Take the lock, or give the one that this process has."""
        with contextlib.suppress(FileNotFoundError, KeyError):
            return cls._held[_identity(path)]
        lock = cls(path)
        cls._held[_identity(path)] = lock
        return lock

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self._file.close()


def _identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_dev, state.st_ino


def _holder(path: Path) -> str:
    """Say who holds the lock, as Linux lists it."""
    inode = path.stat().st_ino
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "FLOCK" in fields and fields[5].rpartition(":")[2] == str(inode):
                return f"process {fields[4]}{_command(int(fields[4]))}"
    return f"another process (this one is {os.getpid()})"


def _command(process: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        return f" ({b' '.join(words).decode(errors='replace').strip()[:100]})"
    return ""
