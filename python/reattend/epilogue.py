"""Epilogue: what becomes of heads' outputs behind the pass, of each head and number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reattend.checks import items, numbers
from reattend.policy import Array


@dataclass(frozen=True, eq=False)
class Epilogue:
    r"""Scale heads' outputs and add to them, once policies have made them.

    .. code-block:: text

        o'_hi = scale_hi o_hi + shift_hi

    A stored vector is mixed in by a scale of 1 - c and a shift of c t; a gate of a trained model
    (Gated Attention for Large Language Models, NeurIPS 2025, arXiv 2505.06708) is a scale alone,
    `gate` of the numbers that its weights give for each row.

    Parameters
    ----------
    scale, shift : float, or array that broadcasts to [B, H, N, Dv]
        Of the call's rows; with one row they serve every step.

    Examples
    --------
    >>> half = Epilogue(scale=0.5, shift=np.array([[[[1.0, 2.0]]]]))
    >>> half(np.array([[[[2.0, 2.0]]]])).tolist()
    [[[[2.0, 3.0]]]]
    """

    scale: Any = 1.0
    shift: Any = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "shift"):
            given = numbers(f"epilogue: {name}", getattr(self, name))
            if given.ndim not in (0, 4):
                raise ValueError(
                    f"epilogue: {name} must be a number or broadcast to [B, H, N, Dv], got shape "
                    f"{given.shape}"
                )
            if not np.isfinite(given).all():
                raise ValueError(f"epilogue: {name} must be finite")

    @classmethod
    def gate(cls, logits: Array) -> Epilogue:
        """Gate outputs by the sigmoid of what a trained gate gives for each row.

        Parameters
        ----------
        logits : array [B, H, N, 1 or Dv]
            One for each head, or for each of its numbers.

        Raises
        ------
        TypeError, ValueError
            If they are no such numbers.

        Examples
        --------
        >>> Epilogue.gate(np.zeros((1, 1, 1, 1))).scale.ravel()
        array([0.5])
        """
        logits = numbers("logits", logits, "[B, H, N, Dv]").astype(np.float64)
        with np.errstate(over="ignore"):
            return cls(scale=1 / (1 + np.exp(-logits)))

    def __call__(self, outputs: Array, where: Array | None = None) -> Array:
        """Give new outputs [B, H, N, Dv]; those of other rows than ``where`` stay."""
        changed = outputs * np.asarray(self.scale) + np.asarray(self.shift)
        if changed.shape != outputs.shape:
            _check(self, outputs.shape)
        if where is not None:
            changed = np.where(where[..., None], changed, outputs)
        return np.asarray(changed)

    @property
    def changes(self) -> Array:
        """Say which rows it changes, bool that broadcasts to [B, H, N]."""
        touched = (np.asarray(self.scale) != 1) | (np.asarray(self.shift) != 0)
        return np.asarray(touched.any(-1) if touched.ndim else touched)

    def take(self, indices: Array) -> Epilogue:
        """Give the epilogue of a reordered batch, as `Plan.take` does.

        Parameters
        ----------
        indices : array of int
            One index into the batch for each item.

        Examples
        --------
        >>> two = Epilogue(shift=np.array([1.0, 2.0]).reshape(2, 1, 1, 1))
        >>> two.take(np.array([1, 1])).shift.ravel()
        array([2., 2.])
        """
        both = self.scale, self.shift
        sizes = [np.shape(each)[0] for each in both if np.ndim(each) == 4]
        indices = items("indices", indices, max((n for n in sizes if n != 1), default=None))
        return Epilogue(
            *(
                np.asarray(each)[indices] if np.ndim(each) == 4 and np.shape(each)[0] > 1 else each
                for each in both
            )
        )


def for_rows(epilogue: Epilogue, shape: tuple[int, ...], rows: slice) -> Epilogue:
    """Give the epilogue of some of a call's rows; that of one row serves them all.

    Parameters
    ----------
    epilogue : Epilogue
        Of all rows.
    shape : tuple of int
        Of the call's outputs, [B, H, N, Dv].
    rows : slice
        Which.

    Raises
    ------
    ValueError
        If the epilogue is not for such outputs.

    Examples
    --------
    >>> two = Epilogue(shift=np.array([1.0, 2.0]).reshape(1, 1, 2, 1))
    >>> for_rows(two, (3, 4, 2, 8), slice(1, 2)).shift.ravel()
    array([2.])
    """
    _check(epilogue, shape)

    def some(given: Any) -> Any:
        alike = np.ndim(given) == 0 or np.shape(given)[2] == 1
        return given if alike else np.asarray(given)[:, :, rows]

    scale, shift = some(epilogue.scale), some(epilogue.shift)
    same = scale is epilogue.scale and shift is epilogue.shift
    return epilogue if same else Epilogue(scale, shift)


def _check(epilogue: Epilogue, shape: tuple[int, ...]) -> None:
    both = np.shape(epilogue.scale), np.shape(epilogue.shift)
    if any(size not in (1, full) for each in both for size, full in zip(each, shape, strict=False)):
        raise ValueError(
            f"epilogue: scale and shift must broadcast to [B, H, N, Dv] = {shape}, got "
            f"{both[0]} and {both[1]}"
        )
