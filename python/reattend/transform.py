"""Transform: what scores become before the softmax, with numbers of its own for each key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from reattend.checks import as_array, integers, items, marks
from reattend.policy import LARGEST, Array, frozen, refuse_own_call

_LEAST_ROOM = 64  # keys
_FAR = 2**62  # a position beyond all rows; differences of such stay within int64
_NOTHING = np.array([[1], [0], [0]], np.float32)  # the numbers of a key that stays as it is


@dataclass(frozen=True, eq=False)
class Transform:
    r"""Change the scores of keys before the softmax.

    .. code-block:: text

        s'_ij = scale_j s_ij + shift_j + slope_j |s_ij|

    Scores are those after scale and softcap, before a bias. Keys beyond the arrays stay as they
    are, so what is made for a prompt serves every decoding step; or with ``beyond`` they change as
    the last one does. Arrays are copied.

    Parameters
    ----------
    scale, shift, slope : float, or array that broadcasts to [B, 1 or H, M']
        The numbers of each key; 1, 0 and 0 leave it as it is.
    first_row : int, or array of int [B], optional
        The position from which rows change, counted as keys: row i of N stands at M - N + i. All
        rows by default.
    beyond : bool, optional
        Whether keys beyond the arrays change as the arrays' last one does.
    heads : array of bool [B or 1, H], optional
        The heads whose scores change; all by default.

    Examples
    --------
    >>> boost = Transform(slope=np.array([[[0.0, 0.5, 0.5, 0.0]]]))
    >>> boost(np.array([1.0, 2.0, -2.0, 1.0, 1.0])).tolist()
    [[[[1.0, 3.0, -1.0, 1.0, 1.0]]]]
    """

    scale: Any = 1.0
    shift: Any = 0.0
    slope: Any = 0.0
    first_row: Any = None
    beyond: bool = False
    heads: Array | None = None

    def __post_init__(self) -> None:
        for name in ("scale", "shift", "slope"):
            number = getattr(self, name)
            if type(number) is not float or not abs(number) <= LARGEST:
                object.__setattr__(self, name, _checked(name, number))
        if all(np.ndim(each) == 0 for each in (self.scale, self.shift, self.slope)):
            raise ValueError("transform: one of scale, shift and slope must be an array")
        if not isinstance(self.beyond, (bool, np.bool_)):
            raise TypeError(f"transform: beyond must be a bool, got {self.beyond!r}")
        if self.beyond and not self.numbers.shape[-1]:
            raise ValueError("transform: beyond needs numbers of a last key, got arrays of none")
        if self.heads is not None:
            heads = frozen(marks("transform: heads", self.heads, "[B or 1, H]"))
            of_numbers, of_heads = self.numbers.shape[:2], heads.shape
            if any(1 < a != b > 1 for a, b in zip(of_numbers, of_heads, strict=True)):
                raise ValueError(
                    f"transform: heads must broadcast to [B or 1, H] = {of_numbers} of the "
                    f"numbers, got shape {of_heads}"
                )
            object.__setattr__(self, "heads", heads)
        if self.first_row is not None:
            first = as_array("transform: first_row", self.first_row)
            if first.dtype.kind not in "iu" or first.ndim > 1:
                raise ValueError(
                    f"transform: first_row must be an integer or integers [B], got {first.dtype} "
                    f"of shape {first.shape}"
                )
            object.__setattr__(self, "first_row", frozen(first) if first.ndim else int(first))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_own_call(cls)

    def __reduce__(self) -> tuple[Any, ...]:
        """Give how a copy is made, whose arrays are then as safe as these."""
        return type(self), (
            self.scale, self.shift, self.slope, self.first_row, self.beyond, self.heads,
        )  # fmt: skip

    @cached_property
    def packed(self) -> tuple[Array, Array, Array, bool]:
        """Give what the core reads: numbers float32, int64 bounds and first rows, and ``beyond``.

        The bounds [B or 1, H or 1, 2] are the keys of a head that change, the first rows [B or 1]
        the positions from which rows do.
        """
        return self._packed(0)

    def _packed(self, length: int) -> tuple[Array, Array, Array, bool]:
        numbers = np.ascontiguousarray(_lengthened(self.numbers, length), np.float32)
        changes = (numbers != _NOTHING).any(2)  # [B, H, M']
        bounds = np.zeros((*changes.shape[:2], 2), np.int64)
        if changes.any():
            bounds[..., 0] = changes.argmax(-1)
            bounds[..., 1] = changes.shape[2] - changes[..., ::-1].argmax(-1)
            bounds[~changes.any(-1)] = 0
        if self.heads is not None:
            bounds = np.where(self.heads[..., None], bounds, 0)
        # More rows than keys have negative positions.
        first = np.array(-_FAR if self.first_row is None else self.first_row, ndmin=1)
        first = np.maximum(np.minimum(first, _FAR).astype(np.int64), -_FAR)
        for each in (numbers, bounds, first):
            each.flags.writeable = False
        return numbers, bounds, first, bool(self.beyond)

    @cached_property
    def acts(self) -> bool:
        """Whether any key changes."""
        return bool(self.packed[1].any())

    @property
    def numbers(self) -> Array:
        """Scale, shift and slope of each key, float [B or 1, H or 1, 3, M']."""
        each = self.scale, self.shift, self.slope
        batch, heads, length = np.broadcast_shapes(*(np.shape(one) for one in each))
        numbers = np.empty((batch, heads, 3, length), np.result_type(*each))
        for place, one in enumerate(each):
            numbers[:, :, place] = one
        return numbers

    def reaches(self, rows: Array) -> Array:
        """Say which rows it changes, bool [B or 1, 1 or H, N].

        Parameters
        ----------
        rows : array of int [N]
            Their positions, counted as keys.

        Examples
        --------
        >>> Transform(scale=np.full((1, 1, 2), 0.5), first_row=3).reaches(np.arange(2, 5)).tolist()
        [[[False, True, True]]]
        """
        rows = integers("rows", rows, "[N]")
        acts = self.acts
        if self.first_row is None or not acts:
            reached = np.full((1, 1, len(rows)), acts)
        else:
            reached = rows >= np.reshape(self.first_row, (-1, 1, 1))
        return reached if self.heads is None else reached & self.heads[..., None]

    def from_row(self, first_row: Array) -> Transform:
        """Give the same for no rows before some, nor before its own first one.

        Parameters
        ----------
        first_row : array of int [B or 1]
            Their positions, counted as keys.

        Examples
        --------
        >>> Transform(scale=np.ones((1, 1, 2)), first_row=3).from_row(np.array([2, 4])).first_row
        array([3, 4])
        """
        first = integers("first_row", first_row, "[B or 1]")
        if self.first_row is not None:
            first = np.maximum(first, self.first_row)
        return replace(self, first_row=int(first[0]) if len(first) == 1 else first)

    def __call__(self, scores: Array, rows: Array | None = None) -> Array:
        """Change scores [B, H, N, M], of rows at the given positions [N]; all rows without."""
        scores = scores.reshape((1,) * (4 - scores.ndim) + scores.shape)
        numbers = _lengthened(self.numbers, scores.shape[-1] if self.beyond else 0)
        scale, shift, slope = np.moveaxis(numbers, 2, 0)[:, :, :, None]  # [B, H, 1, M'] each
        size = min(scale.shape[-1], scores.shape[-1])
        some = scores[..., :size]
        with np.errstate(invalid="ignore"):
            changed = scale[..., :size] * some + shift[..., :size]
            changed = changed + np.where(slope[..., :size] != 0, slope[..., :size] * abs(some), 0)
        if self.first_row is not None and rows is not None:
            first = np.reshape(self.first_row, (-1, 1, 1, 1))
            changed = np.where(rows[:, None] >= first, changed, some)
        if self.heads is not None:
            changed = np.where(self.heads[..., None, None], changed, some)
        rest = np.broadcast_to(scores[..., size:], (*changed.shape[:-1], scores.shape[-1] - size))
        return np.concatenate([changed, rest], axis=-1)

    def take(self, indices: Array) -> Transform:
        """Give the transform of a reordered batch, as `Plan.take` does.

        Parameters
        ----------
        indices : array of int
            One index into the batch for each item.

        Examples
        --------
        >>> Transform(slope=np.array([[[1.0]], [[2.0]]])).take(np.array([1, 1])).slope.ravel()
        array([2., 2.])
        """

        indices = items("indices", indices, self._batch())

        def take(given: Any, full: int) -> Any:
            whole = np.ndim(given) == full and np.shape(given)[0] > 1
            return np.asarray(given)[indices] if whole else given

        scale, shift, slope = (take(each, 3) for each in (self.scale, self.shift, self.slope))
        first, heads = take(self.first_row, 1), take(self.heads, 2)
        return Transform(scale, shift, slope, first, self.beyond, heads)

    def _batch(self) -> int | None:
        """Number of items; None where all have the same numbers."""
        shapes = [np.shape(each)[:1] for each in (self.scale, self.shift, self.slope)]
        if self.heads is not None:
            shapes.append(self.heads.shape[:1])
        known = [size for shape in (*shapes, np.shape(self.first_row)) for size in shape]
        return max((size for size in known if size != 1), default=None)


def make_room(transform: Transform, key_len: int) -> None:
    """Lay out numbers for so many keys, and some of the steps to come, where they go on.

    Parameters
    ----------
    transform : Transform
        Whose numbers; without ``beyond`` nothing is done.
    key_len : int
        How many keys there are.

    Examples
    --------
    >>> halved = Transform(scale=np.full((1, 2, 1), 0.5), beyond=True)
    >>> make_room(halved, 5)
    >>> halved.packed[0].shape[3] >= 5
    True
    """
    if transform.beyond and transform.packed[0].shape[3] < key_len:
        packed = transform._packed(key_len + max(_LEAST_ROOM, key_len // 4))
        transform.__dict__["packed"] = packed


def in_heads(transform: Transform, heads: Array) -> Transform:
    """Give the same for some heads alone; what the core reads of keys is laid out once.

    Parameters
    ----------
    transform : Transform
        Of these heads and perhaps others.
    heads : array of bool [B or 1, H]
        Which.

    Examples
    --------
    >>> halved = Transform(scale=np.full((1, 1, 3), 0.5))
    >>> one = in_heads(halved, np.array([[True, False]]))
    >>> one(np.ones((2, 1, 3)))[0, :, 0, 0].tolist()
    [0.5, 1.0]
    """
    if transform.heads is not None:
        heads = transform.heads & heads
    numbers, bounds, first, beyond = transform.packed
    bounds = np.where(heads[..., None], bounds, 0)
    return _remade(transform, (numbers, bounds, first, beyond), heads=heads)


def shifted(transform: Transform, keys: slice, shift: Array) -> Transform:
    """Give the same with other shifts of some keys; nothing else is laid out anew.

    Parameters
    ----------
    transform : Transform
        Which has numbers for these keys.
    keys : slice
        Which, K of them.
    shift : array that broadcasts to [B, 1 or H, K]
        As the transform does.

    Raises
    ------
    ValueError
        If they are not finite.

    Examples
    --------
    >>> more = shifted(Transform(shift=np.zeros((1, 1, 3))), slice(1, 2), np.array([[[2.0]]]))
    >>> more(np.zeros(3)).tolist()
    [[[[0.0, 2.0, 0.0]]]]
    """
    if not (np.abs(shift) <= LARGEST).all():
        raise ValueError("transform: shift must be finite in float32")
    numbers, bounds, first, beyond = transform.packed
    numbers, bounds = numbers.copy(), bounds.copy()
    numbers[:, :, 1, keys] = shift
    bounds[..., 0] = np.minimum(bounds[..., 0], keys.start)
    bounds[..., 1] = np.maximum(bounds[..., 1], keys.stop)
    return _remade(transform, (numbers, bounds, first, beyond), shift=numbers[:, :, 1])


def _remade(
    transform: Transform, packed: tuple[Array, Array, Array, bool], **fields: Any
) -> Transform:
    """Give a transform whose arrays are laid out already."""
    for each in packed[:3]:
        each.flags.writeable = False
    found: Transform = object.__new__(type(transform))
    found.__dict__.update(transform.__dict__, packed=packed, **fields)
    found.__dict__.pop("acts", None)
    return found


def _checked(name: str, given: Any) -> Any:
    """Take a number, or an array that nobody writes to."""
    given = as_array(f"transform: {name}", given)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"transform: {name} must hold numbers, got {given.dtype}")
    if given.ndim not in (0, 3):
        raise ValueError(
            f"transform: {name} must be a number or [B, 1 or H, M'], got shape {given.shape}"
        )
    if not (np.abs(given) <= LARGEST).all():
        raise ValueError(f"transform: {name} must be finite in float32")
    return frozen(given) if given.ndim else given.item()


def _lengthened(numbers: Array, length: int) -> Array:
    """Repeat the last key's numbers [B, H, 3, M'] up to a length."""
    more = length - numbers.shape[-1]
    if more <= 0:
        return numbers
    return np.concatenate([numbers, np.repeat(numbers[..., -1:], more, axis=-1)], axis=-1)
