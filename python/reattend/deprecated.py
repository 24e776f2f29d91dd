"""Names of before: they work for one version more, and say what they are called now."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)


def warn_renamed(old: str, new: str, depth: int = 3) -> None:
    """Warn that a name has changed, at a line so many calls up: the caller's caller's."""
    warnings.warn(
        f"{old} is called {new} now; the old name goes in 0.2",
        DeprecationWarning,
        stacklevel=depth,
    )


def renamed_names(module: str, names: Mapping[str, tuple[str, Any]]) -> Callable[..., Any]:
    """Give a module's `__getattr__` for old names: each with its new one and what that is."""

    def find(name: str, depth: int = 3) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new, value = names[name]
        warn_renamed(f"{module}.{name}", new, depth)
        return value

    return find


def renamed_method(old: str, new: str) -> Any:
    """Give a method that calls the one of the new name."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        kind = type(self).__name__
        warn_renamed(f"{kind}.{old}", new)
        return getattr(self, new)(*args, **kwargs)

    call.__doc__ = f"Old name of `{new}`."
    return call


def renamed_field(old: str, new: str) -> Callable[[_Class], _Class]:
    """Decorate a dataclass whose field had another name: it can be given and read by both."""

    def decorate(cls: _Class) -> _Class:
        init: Any = cls.__init__  # type: ignore[misc]

        @wraps(init)
        def renaming(self: Any, *args: Any, **kwargs: Any) -> None:
            if old in kwargs:
                if new in kwargs:
                    raise TypeError(f"{cls.__name__}: {old} is the old name of {new}, got both")
                warn_renamed(f"{cls.__name__}({old}=...)", new)
                kwargs[new] = kwargs.pop(old)
            init(self, *args, **kwargs)

        def read(self: Any) -> Any:
            warn_renamed(f"{cls.__name__}.{old}", new)
            return getattr(self, new)

        cls.__init__ = renaming  # type: ignore[misc]
        setattr(cls, old, property(read, doc=f"Old name of `{new}`."))
        return cls

    return decorate
