"""Files that are there in full or not at all, whatever ends the writing."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["named", "whole_file"]


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a path beside another to write to; once that is done, it takes the other's place.

    What is written there is on the disk by then, or nothing is left of it.

    Parameters
    ----------
    path : path
        Where the file shall be; a file that is there stays as it is until then.

    Raises
    ------
    OSError
        If it cannot be written, such as on a full disk; it names the path.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder, "a.txt")) as partial:
    ...         _ = partial.write_text("all of it")
    ...     [each.name for each in Path(folder).iterdir()]
    ['a.txt']
    """
    path = Path(path)
    own = f"{os.getpid()}-{threading.get_ident()}"  # two who write one file do not meet
    partial = path.with_name(f".{path.stem}-{own}{path.suffix}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno is None or str(error.filename) not in ("None", str(partial)):
            raise  # of another file
        raise named(error, path) from error
    finally:
        with contextlib.suppress(OSError):  # a folder that is gone, or that nobody may write to
            partial.unlink()


def named(error: OSError, path: Path) -> OSError:
    """Give an error of the system with the file that it is about: most writes name none.

    Parameters
    ----------
    error : OSError
        What the system said.
    path : path
        Of the file.

    Examples
    --------
    >>> print(named(OSError(28, "No space left on device"), Path("run.json")))
    [Errno 28] No space left on device: 'run.json'
    """
    return OSError(error.errno, error.strerror, str(path))
