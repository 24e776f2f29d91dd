"""What only one thread may use at a time: the second one is told, nothing is lost silently."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from functools import wraps
from threading import RLock
from typing import Any, Concatenate, ParamSpec, TypeVar

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


User = TypeVar("User", bound="UsedByOneThread")


def alone(
    method: Callable[Concatenate[User, Arguments], Result],
) -> Callable[Concatenate[User, Arguments], Result]:
    """Let one thread at a time into the methods of an object that are marked so.

    Examples
    --------
    >>> class Counter(UsedByOneThread):
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


class UsedByOneThread:
    """What has methods that are `alone`. It is not copied while a thread is in one of them.

    Examples
    --------
    >>> class Counter(UsedByOneThread):
    ...     _use = OneThread("Counter")
    >>> counter = Counter()
    >>> counter.itself = counter
    >>> other = deepcopy(counter)
    >>> other.itself is other
    True
    """

    _use: OneThread

    @alone
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        other = memo[id(self)] = copy(self)
        vars(other).update(deepcopy(vars(self), memo))
        return other
