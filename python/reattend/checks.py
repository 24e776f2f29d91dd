"""What public functions are given: taken as NumPy takes it, or refused in a sentence that names it.

Each check gives what it was given as the function works on it, without a copy where it can.
"""

from __future__ import annotations

import operator
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_LAYERS = 2**16  # no model has more; a list of them is made


def as_array(name: str, given: Any) -> NDArray[Any]:
    """Take an array-like as NumPy takes it; TypeError where it does not, or has a mask of its own.

    A masked array's mask would be ignored here: whoever means it says so by ``key_mask``.
    """
    if _is_masked(given):
        raise TypeError(
            f"{name} must be an array without a mask, got a masked array: give its data, and what "
            "is hidden as key_mask or bias"
        )
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        hint = ""
        if "BFloat16" in str(error):  # a tensor of torch: NumPy has no such type
            hint = f"; its bits are {name}.view(torch.uint16) with dtype='bfloat16'"
        raise TypeError(
            f"{name} must be an array, got {type(given).__name__}: {error}{hint}"
        ) from error


def numbers(name: str, given: Any, axes: str = "[...]") -> NDArray[Any]:
    """Take real numbers of any type, with axes such as "[B, H, N]", "[..., M]", "[H] or [B, H]"."""
    array = as_array(name, given)
    if not _real_type(array.dtype):
        raise TypeError(f"{name} must be real numbers {axes}, got {_said(array)}")
    _check_axes(name, "real numbers", array, axes)
    return array


def marks(
    name: str, given: Any, axes: str, shape: tuple[int, ...] | None = None
) -> NDArray[np.bool_]:
    """Take an array of bool, of these axes or of this very shape."""
    array = as_array(name, given)
    if array.dtype != bool:
        raise TypeError(f"{name} must be bool {axes}, got {_said(array)}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must be bool {axes} = {shape}, got shape {array.shape}")
    _check_axes(name, "bool", array, axes)
    return array


def integers(name: str, given: Any, axes: str) -> NDArray[Any]:
    """Take an array of integers; an empty list, which NumPy makes float, is one of them."""
    array = as_array(name, given)
    if array.dtype.kind not in "iu":
        if array.size or isinstance(given, np.ndarray) or array.dtype.kind != "f":
            raise TypeError(f"{name} must be integers {axes}, got {_said(array)}")
        array = array.astype(np.int64)
    _check_axes(name, "integers", array, axes)
    return array


def items(name: str, given: Any, size: int | None, what: str = "items") -> NDArray[Any]:
    """Take indices from 0 of one axis, whose length is not known yet where it is None."""
    array = as_array(name, given)
    last = "" if size is None else f" to {size - 1}"
    if array.dtype.kind not in "iu" and (array.size or array.dtype.kind != "f"):
        raise TypeError(f"{name} must be integers, got {_said(array)}")
    most = np.inf if size is None else size
    if array.ndim != 1 or not ((array >= 0) & (array < most)).all():
        raise ValueError(f"{name} must be one axis of {what} from 0{last}, got {array.tolist()}")
    return array if array.size else array.astype(np.int64)


def real(name: str, given: Any) -> float:
    """Take one real number."""
    if isinstance(given, float):  # NumPy's too, which the core does not take
        return float(given)
    kind = getattr(getattr(given, "dtype", None), "kind", "f")
    if not (isinstance(given, (str, bytes, bytearray)) or _is_masked(given)) and (
        kind in "fiub" and not getattr(given, "ndim", 0)
    ):
        try:
            return float(given)
        except (TypeError, ValueError):
            pass
        except OverflowError:
            raise ValueError(f"{name} must be within float64's range, got {given!r}") from None
    raise TypeError(f"{name} must be a number, got {_said(given)}")


def finite(name: str, given: Any) -> float:
    """Take one finite number."""
    found = real(name, given)
    if not np.isfinite(found):
        raise ValueError(f"{name} must be a finite number, got {found}")
    return found


def integer(name: str, given: Any) -> int:
    """Take one integer."""
    if type(given) is int:
        return given
    if _is_masked(given):
        raise TypeError(f"{name} must be an integer, got {_said(given)}")
    try:
        return int(operator.index(given))
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {_said(given)}") from None


def count(name: str, given: Any, least: int, most: int = 2**63 - 1) -> int:
    """Take one integer that counts things, from the least to the most there can be."""
    found = integer(name, given)
    if not least <= found <= most:
        bound = f"at least {least}" if found < least else f"at most {most}"
        raise ValueError(f"{name} must be {bound}, got {found}")
    return found


def layer_count(name: str, given: Any) -> int:
    """Take the number of a model's layers."""
    return count(name, given, 1, MOST_LAYERS)


def place(name: str, given: Any, size: int, least: int = 0) -> int:
    """Take one index below a size."""
    found = integer(name, given)
    if not least <= found < size:
        raise ValueError(f"{name} must be from {least} to {size - 1}, got {found}")
    return found


def listed(name: str, given: Any, what: str) -> tuple[Any, ...]:
    """Take a sequence; letters, bytes and the keys of a dictionary are none."""
    text = isinstance(given, (str, bytes, bytearray, dict))
    if text or _is_masked(given) or not hasattr(type(given), "__iter__"):
        raise TypeError(f"{name} must be {what}, got {_said(given)}")
    try:
        return tuple(given)
    except TypeError:  # an array without an axis
        raise TypeError(f"{name} must be {what}, got {_said(given)}") from None


def pair(name: str, given: Any, what: str) -> tuple[int, int]:
    """Take two integers."""
    found = listed(name, given, what)
    if len(found) != 2:
        raise ValueError(f"{name} must be {what}, got {given!r}")
    return integer(name, found[0]), integer(name, found[1])


def pairs(name: str, given: Any, what: str) -> tuple[tuple[int, int], ...]:
    """Take a sequence of pairs of integers."""
    return tuple(pair(name, each, what) for each in listed(name, given, what))


def spans(name: str, given: Any) -> tuple[tuple[int, int], ...]:
    """Take spans of tokens, each with its first one and the place behind its last."""
    found = pairs(name, given, "pairs (start, end)")
    if any(not 0 <= start < end for start, end in found):
        raise ValueError(f"{name} must be (start, end) with 0 <= start < end: {found}")
    return found


def _is_masked(given: Any) -> bool:
    # NumPy loads these when somebody asks for them, in 20 ms, and before that there are none.
    return "numpy.ma" in sys.modules and isinstance(given, np.ma.MaskedArray)


def _real_type(dtype: np.dtype[Any]) -> bool:
    # Types that other packages add, as bfloat16, have NumPy's kind of records.
    return dtype.kind in "fiub" or (dtype.kind == "V" and dtype.type is not np.void)


def _check_axes(name: str, what: str, array: NDArray[Any], axes: str) -> None:
    if not any(least <= array.ndim <= most for least, most in _numbers_of_axes(axes)):
        raise ValueError(f"{name} must be {what} {axes}, got shape {array.shape}")


@lru_cache(maxsize=256)
def _numbers_of_axes(axes: str) -> tuple[tuple[int, float], ...]:
    found = []
    for each in axes.split(" or "):
        names = each.strip("[]").replace(" ", "").split(",")
        named = [name for name in names if name and name != "..."]
        found.append((len(named), np.inf if "..." in names else len(named)))
    return tuple(found)


def _said(given: Any) -> str:
    if _is_masked(given):
        return "a masked array"
    if isinstance(given, np.ndarray):
        if given.dtype == object and given.ndim == 0:  # what NumPy made no array of
            return repr(given.item())
        return f"{given.dtype} of shape {given.shape}"
    return repr(given)
