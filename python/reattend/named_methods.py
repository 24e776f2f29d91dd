"""Methods by name: the package's, those of installed packages, and any class of a module."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from reattend.method import Method, registered

GROUP = "reattend.methods"  # of entry points, in other packages' pyproject.toml


def method_names() -> list[str]:
    """Give the names that `find_method` takes, in lower case, the package's own first.

    Examples
    --------
    >>> import reattend.methods
    >>> method_names()[:2]
    ['act', 'adhh']
    """
    ours = [name.lower() for name in registered()]
    return ours + [each.name for each in entry_points(group=GROUP) if each.name.lower() not in ours]


def find_method(name: str) -> type[Method]:
    """Give a method by its name.

    Parameters
    ----------
    name : str
        A name of `method_names`, or ``"module:Class"``, which is imported.

    Raises
    ------
    ValueError
        If there is none, or what is there is no method.

    Examples
    --------
    >>> find_method("var").__name__, find_method("reattend.methods:VAR").__name__
    ('VAR', 'VAR')
    """
    ours = {each.lower(): method for each, method in registered().items()}
    if name.lower() in ours:
        return ours[name.lower()]
    if ":" in name:
        return _checked(name, _imported(name))
    for each in entry_points(group=GROUP):
        if each.name.lower() == name.lower():
            try:
                return _checked(f"{name} of the entry point {each.value}", each.load())
            except (ImportError, AttributeError) as error:
                raise ValueError(f"{name} is {each.value}, which does not load: {error}") from error
    raise ValueError(f"must be one of {', '.join(method_names())}, or module:Class, got {name}")


def make_method(name: str) -> Method:
    """Give a method by its name, with the defaults of its parameters.

    Parameters
    ----------
    name : str
        As for `find_method`.

    Raises
    ------
    ValueError
        If there is none, or it cannot be made without parameters.

    Examples
    --------
    >>> make_method("vhr").alpha
    2.0
    """
    method = find_method(name)
    try:
        return method()
    except TypeError as error:
        raise ValueError(f"{name} cannot be made without parameters: {error}") from error


def _imported(name: str) -> Any:
    module, _, path = name.partition(":")
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name} cannot be imported: {error}") from error
    return found


def _checked(name: str, found: Any) -> type[Method]:
    if not isinstance(found, type) or not issubclass(found, Method):
        raise ValueError(f"{name} must be a class derived from reattend.Method, got {found!r}")
    if not dataclasses.is_dataclass(found):
        raise ValueError(f"{name} must be a dataclass: @dataclass(frozen=True)")
    return found
