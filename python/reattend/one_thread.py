"""What only one thread may use at a time: the second one is told, nothing is lost silently."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class OneThread:
    """Entered by one thread at a time; it may enter again. A copy is free.

    Examples
    --------
    >>> with OneThread("KVCache"):
    ...     pass
    """

    __slots__ = ("_lock", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = RLock()

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def enter(self) -> Callable[[], None]:
        """Enter; give what leaves. A ``with`` takes three calls of Python."""
        if not self._lock.acquire(False):
            raise RuntimeError(
                f"this {self._name} is in use by another thread: give each thread its own"
            )
        return self._lock.release

    def __reduce__(self) -> tuple[Any, ...]:  # a lock is not copied
        return type(self), (self._name,)


class Used(Protocol):
    """What has a `OneThread` as ``_use``."""

    _use: OneThread


User = TypeVar("User", bound=Used)


def alone(
    method: Callable[Concatenate[User, Arguments], Result],
) -> Callable[Concatenate[User, Arguments], Result]:
    """Let one thread at a time into the methods of an object that are marked so.

    Examples
    --------
    >>> class Counter:
    ...     _use = OneThread("Counter")
    ...     @alone
    ...     def add(self):
    ...         return 1
    >>> Counter().add()
    1
    """

    @wraps(method)
    def inside(self: User, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        leave = self._use.enter()
        try:
            return method(self, *args, **kwargs)
        finally:
            leave()

    return inside
