"""Policies: from the attention that each segment of a row got to what multiplies its part."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reattend.checks import as_array, listed, real

__all__ = ["KEEP", "Array", "Policy", "Reweight", "Share", "decided_factors"]

Array: TypeAlias = NDArray[Any]
Policy: TypeAlias = Callable[[Array], Array]  # masses [B, H, N, G] -> factors [B, H, N, G]

MAX_SEGMENTS = 16
MAX_CONDITIONS = 8  # as many as the compiled Reweight holds
SMALLEST_MASS = float(np.finfo(np.float32).tiny)  # what receives less than this receives nothing
LARGEST = float(np.finfo(np.float32).max)  # factors are float32


def refuse_own_call(cls: type) -> None:
    """Refuse a subclass with a rule of its own: the core computes from the numbers alone."""
    if "__call__" in vars(cls):
        base = cls.__mro__[1].__name__
        raise TypeError(
            f"{cls.__name__} must not define __call__: the core reads the numbers of a {base} and "
            "would not call it; give a callable of masses as the policy"
        )


@dataclass(frozen=True)
class Share:
    """A test of a row: some segments hold at least a given share of its attention.

    Parameters
    ----------
    segments : int or tuple of int
        Labels of the segments whose masses are summed.
    at_least : float
        The least share; the test is not strict.
    within : tuple of int, optional
        Labels of the segments the share is taken of; all of the row by default.

    Examples
    --------
    >>> half_on_the_image = Share((2, 3), at_least=0.5)
    >>> half_on_the_image(np.array([0.3, 0.1, 0.2, 0.4]))
    np.True_
    """

    segments: tuple[int, ...]
    at_least: float
    within: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", _labels("segments", self.segments))
        if self.within is not None:
            object.__setattr__(self, "within", _labels("within", self.within))
        at_least = float(real("at_least", self.at_least))
        if not abs(at_least) <= LARGEST:
            raise ValueError(f"at_least must be a finite number, got {at_least}")
        object.__setattr__(self, "at_least", at_least)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_own_call(cls)

    def __call__(self, masses: Array) -> Any:
        """Say which rows pass: masses [..., G] -> bool [...]."""
        whole = 1.0 if self.within is None else _summed(masses, sorted(self.within))
        return _summed(masses, sorted(self.segments)) >= self.at_least * whole


@dataclass(frozen=True, eq=False)
class Reweight:
    r"""Weigh segments and hand the mass this frees to the receivers, in proportion.

    .. code-block:: text

        freed    = sum_g (1 - weight_g) mass_g
        factor_g = weight_g                                                g does not receive
        factor_g = weight_g (1 + freed / sum_{r in to} weight_r mass_r)    g receives

    With ``power`` a segment keeps weight_g mass_g^power_g, so weight_g stands for
    weight_g mass_g^(power_g - 1): 0 writes weights as shares of the row, below 1 raises what is
    small. Rows in which such a segment has less than float32's smallest normal number stay as they
    are, unless its weight is 0.

    Rows that fail a condition stay as they are (factors 1), and so do rows in which nobody can
    receive: what the receivers keep is below float32's smallest normal number, 1.2e-38. A row with
    a factor beyond float32's range, 3.4e38, stays as it is too, and of several policies one whose
    factors times those of the ones before it pass that range. Factors are computed in float64.

    Parameters
    ----------
    weight : sequence of float, or array
        What each segment keeps: a number per segment, or an array that broadcasts to [B, H, G].
    to : tuple of int, optional
        Labels of the receivers; with none, the freed mass is lost (or a gain, for weights above 1).
    when : Share or tuple of Share, optional
        Conditions a row must meet, all of them.
    power : sequence of float, optional
        The power of each segment's mass that is kept, from 0; 1 by default.

    Examples
    --------
    >>> halve_the_sink = Reweight(weight=(1, 0.5), to=(0,))
    >>> halve_the_sink(np.array([0.6, 0.4]))
    array([1.33333333, 0.5       ])
    >>> half_to_each = Reweight(weight=(0.5, 0.5), power=(0, 0))
    >>> half_to_each(np.array([0.8, 0.2]))
    array([0.625, 2.5  ])
    """

    weight: Any
    to: tuple[int, ...] = ()
    when: tuple[Share, ...] = ()
    power: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        weight = as_array("weight", self.weight)
        if weight.ndim == 0 or weight.dtype.kind not in "fiu":
            raise TypeError(
                f"weight must be a number per segment or an array of numbers that broadcasts to "
                f"[B, H, G], got {self.weight!r}"
            )
        if weight.ndim > 3:
            raise ValueError(f"weight must broadcast to [B, H, G], got shape {weight.shape}")
        if not 1 <= weight.shape[-1] <= MAX_SEGMENTS:
            raise ValueError(
                f"weight must have 1 to {MAX_SEGMENTS} segments on its last axis, "
                f"got shape {weight.shape}"
            )
        if not (np.abs(weight) <= LARGEST).all():
            raise ValueError(f"weight must be finite in float32, got {self.weight!r}")
        # Numbers stay a tuple, so that a method's policy prints as it was written.
        kept = tuple(float(w) for w in weight) if weight.ndim == 1 else frozen(weight)
        object.__setattr__(self, "weight", kept)
        object.__setattr__(self, "to", _labels("to", self.to))
        when = (self.when,) if isinstance(self.when, Share) else self.when
        when = listed("when", when, "a Share or a tuple of Shares")
        if not all(isinstance(share, Share) for share in when):
            raise TypeError(f"when must be a Share or a tuple of Shares, got {self.when!r}")
        if len(when) > MAX_CONDITIONS:
            raise ValueError(f"when must hold at most {MAX_CONDITIONS} Shares, got {len(when)}")
        object.__setattr__(self, "when", when)
        object.__setattr__(self, "power", _powers(self.power, self.num_segments))
        used = [("to", self.to)]
        used += [("when", share.segments + (share.within or ())) for share in when]
        for name, labels in used:
            if labels and max(labels) >= self.num_segments:
                raise ValueError(
                    f"{name} must name segments below {self.num_segments}, the length of weight, "
                    f"got {max(labels)}"
                )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_own_call(cls)

    def __reduce__(self) -> tuple[Any, ...]:
        """Give how a copy is made, whose weights are then as safe as these."""
        return type(self), (self.weight, self.to, self.when, self.power)

    @property
    def num_segments(self) -> int:
        """Number of segments G that the weights are for."""
        return len(self.weight) if isinstance(self.weight, tuple) else int(self.weight.shape[-1])

    @cached_property
    def packed(self) -> tuple[Any, ...]:
        """Give weight [B or 1, H or 1, G], receivers, conditions and powers to the core."""
        weight = np.asarray(self.weight, dtype=np.float32)
        when = tuple(
            (
                _bits(share.segments),
                share.at_least,
                None if share.within is None else _bits(share.within),
            )
            for share in self.when
        )
        weight = weight.reshape((1,) * (3 - weight.ndim) + weight.shape)
        return weight, _bits(self.to), when, self.power

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reweight):
            return NotImplemented
        mine, theirs = np.asarray(self.weight), np.asarray(other.weight)
        same = mine.shape == theirs.shape and bool((mine == theirs).all())
        own, others = (self.to, self.when, self.power), (other.to, other.when, other.power)
        return same and own == others

    def __hash__(self) -> int:
        weight = np.asarray(self.weight, np.float64).tobytes()
        return hash((weight, self.to, self.when, self.power))

    def __call__(self, masses: Array) -> Array:
        """Turn masses [B, H, N, G] (or [..., G] with a number per segment) into factors."""
        masses = np.asarray(masses)
        if masses.dtype.kind != "f":
            masses = masses.astype(np.float64)
        weight = np.asarray(self.weight, dtype=masses.dtype).astype(np.float64)
        if weight.ndim > 1:  # [B, H, G] -> [B, H, 1, G]
            weight = weight[..., None, :]
        factors = np.broadcast_to(weight, masses.shape).copy()
        changed = np.ones(masses.shape[:-1], dtype=bool)
        for share in self.when:
            changed &= share(masses)
        if self.power is not None:
            raised = (np.array(self.power) != 1) & (factors != 0)
            known = masses >= SMALLEST_MASS
            changed &= (known | ~raised).all(-1)
            safe = np.where(known, masses, 1).astype(np.float64)
            factors = np.where(raised, factors * safe ** (np.array(self.power) - 1), factors)
        if self.to:
            # What receivers have in the end, and what they keep of theirs; 1 + freed / received
            # is the same, but for the digits that it loses where weights are large.
            receives = np.isin(np.arange(self.num_segments), self.to)
            given = np.where(receives, masses, (1 - factors) * masses)
            received = _summed(factors * masses, sorted(self.to))
            changed &= received >= SMALLEST_MASS
            received = np.where(changed, received, 1)
            gain = _summed(given, range(self.num_segments)) / received
            factors[..., list(self.to)] *= gain[..., None]
        changed &= ~(np.abs(factors) > LARGEST).any(-1)
        return np.where(changed[..., None], factors, 1).astype(masses.dtype)


def decided_factors(
    masses: Array, logsumexp: Array, policies: list[Policy], rows: list[Array | None]
) -> Array:
    """Call policies in order, with the masses that the ones before left.

    Parameters
    ----------
    masses : array [B, H, N, G]
    logsumexp : array [B, H, N]
        Rows that see no key, at which it is -inf, keep factors of 1.
    policies : list of callables
    rows : list of bool arrays that broadcast to [B, H, N], or None
        Of each policy; other rows keep factors of 1.

    Raises
    ------
    ValueError
        If a policy returns factors of another shape.

    Examples
    --------
    >>> masses = np.full((1, 1, 1, 2), 0.5, np.float32)
    >>> halved = lambda masses: np.full_like(masses, 0.5)
    >>> decided_factors(masses, np.zeros((1, 1, 1)), [halved, halved], [None, None]).tolist()
    [[[[0.25, 0.25]]]]
    """
    product = np.ones_like(masses)
    seen = ~np.isneginf(logsumexp)
    for policy, where in zip(policies, rows, strict=True):
        factors = np.asarray(policy(masses * product))
        if factors.shape != product.shape:
            raise ValueError(
                f"policy must return factors of the masses' shape {product.shape}, got "
                f"{factors.shape} from {policy!r}"
            )
        changed = seen if where is None else seen & where
        with np.errstate(over="ignore", invalid="ignore"):
            wanted = product * factors
        if isinstance(policy, Reweight):
            changed = changed & ~(np.abs(wanted) > LARGEST).any(-1)
        product = np.where(changed[..., None], wanted, product)
    return np.ascontiguousarray(product, np.float32)


def _labels(name: str, labels: int | Iterable[int]) -> tuple[int, ...]:
    given = labels
    if isinstance(labels, (int, np.integer)):
        labels = (labels,)
    labels = listed(name, labels, "a label or a sequence of labels")
    if not all(isinstance(g, (int, np.integer)) and 0 <= g < MAX_SEGMENTS for g in labels):
        raise ValueError(f"{name} must hold labels from 0 to {MAX_SEGMENTS - 1}, got {given!r}")
    return tuple(dict.fromkeys(int(g) for g in labels))


def _powers(given: Any, count: int) -> tuple[float, ...] | None:
    """Give a power for each segment; None where all are 1."""
    if given is None:
        return None
    powers = tuple(float(real("power", each)) for each in listed("power", given, "a number each"))
    if len(powers) != count or not all(0 <= each <= LARGEST for each in powers):
        raise ValueError(f"power must be a finite number from 0 for each segment, got {given!r}")
    return None if set(powers) == {1.0} else powers


def _summed(masses: Array, labels: Iterable[int]) -> Array:
    """Sum segments [..., G] -> [...] one after the other, as the core does: the very same bits."""
    total = np.zeros(masses.shape[:-1], masses.dtype)
    for label in labels:
        total = total + masses[..., label]
    return total


def _bits(labels: tuple[int, ...]) -> int:
    return sum(1 << label for label in labels)


def frozen(array: Array) -> Array:
    """Give a copy that nobody writes to."""
    array = array.copy()
    array.flags.writeable = False
    return array


KEEP = Reweight(weight=(1,))  # attention as it is: of plans that edit scores or outputs alone
