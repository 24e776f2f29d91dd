"""Whether this is a process's main interpreter: the core waits for ever in any other."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = ("_interpreters", "_xxsubinterpreters")  # since Python 3.13, and before


def refuse_subinterpreter() -> None:
    """Raise an ImportError in a subinterpreter, which neither NumPy nor the core supports.

    Raises
    ------
    ImportError
        If this is one.

    Examples
    --------
    >>> refuse_subinterpreter()
    """
    for name in _MODULES:
        try:
            known: Any = import_module(name)
        except ImportError:
            continue
        if known.get_current() != known.get_main():
            raise ImportError(
                "reattend cannot be imported in a subinterpreter, which NumPy does not support "
                "either: import it in the main interpreter of a process"
            )
        return
