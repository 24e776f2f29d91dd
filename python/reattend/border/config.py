"""The compiled core as it runs on this machine: versions, instruction set, threads."""

from __future__ import annotations

import os
import sys
import warnings
from typing import TextIO

from reattend.border.cpus import usable_cpus


def what_to_do(error: ImportError) -> str:
    """Say how to get a core that loads.

    Parameters
    ----------
    error : ImportError
        Why it does not.

    Examples
    --------
    >>> what_to_do(ImportError("libdnnl.so.3: cannot open shared object file"))[-56:]
    '`pip install --prefix DIR`, or set LD_LIBRARY_PATH to it'
    """
    if "libdnnl" in str(error):
        return (
            "oneDNN's library is not where its wheel puts it, in the environment's lib/ (pip "
            "install --target leaves it out): install into an environment, or with "
            "`pip install --prefix DIR`, or set LD_LIBRARY_PATH to it"
        )
    return (
        "build it with `pip install .` in the project's folder, or `pip install reattend`, and do "
        "not import from the source folder"
    )


try:
    from reattend import _core
except ImportError as error:
    if "REATTEND_MAX_ISA" in str(error):  # it says itself what to do
        raise
    raise ImportError(
        f"reattend's compiled core does not load ({error}): {what_to_do(error)}"
    ) from error

__version__: str = _core.__version__


def _threads_asked_for() -> int | None:
    text = os.environ.get("REATTEND_NUM_THREADS", "")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"REATTEND_NUM_THREADS must be a positive integer, got {text!r}")
    return int(text)


_ASKED_FOR = _threads_asked_for()
_AT_IMPORT = _core.max_threads()
_CPUS = usable_cpus()
_told = False  # that fewer threads are used than were asked for
if hasattr(os, "register_at_fork"):  # a child has none of the threads that wait for work
    os.register_at_fork(before=_core.end_waiting_threads)


def num_threads() -> int:
    """Give the number of threads a call uses when it is not told one.

    OpenMP's setting, as threadpoolctl or OMP_NUM_THREADS left it; while nobody has changed that,
    REATTEND_NUM_THREADS. Never more than the CPUs that the process may use: more only wait for one
    another. A call uses fewer where it has fewer pieces of work.

    Warns
    -----
    RuntimeWarning
        Once, if more were asked for.

    Examples
    --------
    >>> num_threads() >= 1
    True
    """
    global _told
    limit = _core.max_threads()
    asked = _ASKED_FOR if _ASKED_FOR is not None and limit == _AT_IMPORT else limit
    if asked <= _CPUS:
        return asked
    if not _told and (asked is _ASKED_FOR or os.environ.get("OMP_NUM_THREADS")):
        _told = True
        warnings.warn(
            f"{asked} threads were asked for, {_CPUS} are used: the CPUs that this process may use",
            RuntimeWarning,
            stacklevel=2,
        )
    return _CPUS


def read_config() -> dict[str, str | int | None]:
    """Give versions, the instruction set in use, what limits it, and the number of threads.

    Examples
    --------
    >>> [*read_config()]
    ['reattend', 'onednn', 'instruction_set', 'limited_by', 'threads']
    """
    return {
        "reattend": __version__,
        "onednn": _core.onednn_version(),
        "instruction_set": _core.isa(),
        "limited_by": os.environ.get("REATTEND_MAX_ISA") or None,
        "threads": num_threads(),
    }


def show_config(file: TextIO | None = None) -> None:
    """Print versions, the instruction set in use and the number of threads.

    Parameters
    ----------
    file : text stream, optional
        Where to print; standard output by default.

    Examples
    --------
    >>> show_config()  # doctest: +ELLIPSIS
    reattend ...
    oneDNN ...
    instruction set ...
    threads ...
    """
    found = read_config()
    level = found["limited_by"]
    limit = f" (limited by REATTEND_MAX_ISA={level})" if level else ""
    print(f"reattend {found['reattend']}", file=file or sys.stdout)
    print(f"oneDNN {found['onednn']}", file=file or sys.stdout)
    print(f"instruction set {found['instruction_set']}{limit}", file=file or sys.stdout)
    print(f"threads {found['threads']}", file=file or sys.stdout)
