"""PAINT: Fixing Imbalanced Attention to Mitigate In-Context Hallucination (2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reattend.call import Call
from reattend.checks import finite, listed, numbers
from reattend.layer_set import frozen_layers, scaled_layers
from reattend.method import Method, check_finite, integers
from reattend.plan import Plan
from reattend.policy import KEEP, Array
from reattend.row_scope import check_scope
from reattend.transform import Transform


@dataclass(frozen=True)
class PAINT(Method):
    r"""When a word is chosen, two sets of image tokens that the vision encoder names score higher.

    .. code-block:: text

        s'_ij = s_ij + alpha |s_ij|        j in the top
        s'_ij = s_ij + beta |s_ij|         j in the bottom

    Sets are places among an item's image tokens, counted from 0: one list for all items, or a list
    for each. `from_vision` finds them in the encoder's attention; without any nothing changes.
    Layers are 2 to 31 of 32. The paper speaks of a factor for each head; the published code has
    none, and no formula of one was found, so there is none here.

    Paper: Fixing Imbalanced Attention to Mitigate In-Context Hallucination of Large Vision-Language
    Model (2025), arXiv 2501.12206.

    Examples
    --------
    >>> PAINT(top=(3, 1), bottom=(7,)).top
    ((1, 3),)
    """

    edits: ClassVar[str] = "scores"
    statistic: ClassVar[str] = "none; the vision encoder names tokens"
    needs_image: ClassVar[bool] = True
    steady: ClassVar[bool] = True

    top: Any = ()  # the image tokens that the encoder's first layer looks at most
    bottom: Any = ()  # those that its last but one does, beyond measure
    alpha: float = 0.9  # how much of a score's size the top gets; 0 none
    beta: float = 0.3  # how much the bottom gets
    layers: tuple[int, ...] | None = None  # None: from the third of 32 on, in proportion
    rows: str = "last"  # which rows: "last", "after_image" or "all"
    phase: str = "both"  # of the "prefill", of "decode" steps, or "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        check_finite(self, "alpha", "beta")
        for name in ("top", "bottom"):
            object.__setattr__(self, name, _sets(name, getattr(self, name)))
        object.__setattr__(self, "layers", frozen_layers(self.layers))

    @classmethod
    def from_vision(
        cls, first: Array, late: Array, *, share: float = 0.25, **parameters: Any
    ) -> PAINT:
        """Find the sets of one picture in its encoder's attention.

        The bottom are outliers of the late layer, above the upper quartile by more than 1.5 times
        the distance between the quartiles; the top is the share of patches with most attention in
        the first layer, without those.

        Parameters
        ----------
        first, late : array [H, K], or [K]
            Attention of the class token on each patch, in the encoder's first layer and its last
            but one; heads are summed.
        share : float, optional
            Of the patches, from 0 to 1.
        **parameters
            What else `PAINT` takes.

        Raises
        ------
        TypeError, ValueError
            If they do not fit.

        Examples
        --------
        >>> late = np.array([0.1, 0.1, 0.1, 0.7])
        >>> found = PAINT.from_vision(np.array([0.2, 0.5, 0.1, 0.2]), late)
        >>> found.top, found.bottom
        (((1,),), ((3,),))
        """
        summed = [
            numbers(name, each, "[K] or [H, K]").astype(np.float64)
            for name, each in (("first", first), ("late", late))
        ]
        summed = [each if each.ndim == 1 else each.sum(0) for each in summed]
        size = len(summed[0])
        if summed[1].shape != (size,) or not size:
            raise ValueError(
                f"late must be of as many patches as first, {size}, and these at least one, got "
                f"{len(summed[1])}"
            )
        share = finite("share", share)
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, got {share}")
        low, high = np.quantile(summed[1], (0.25, 0.75))
        outliers = np.flatnonzero(summed[1] > high + 1.5 * (high - low))
        most = np.argsort(-summed[0], kind="stable")[: int(share * size)]
        top = np.setdiff1d(most, outliers)
        return cls(top=(tuple(top.tolist()),), bottom=(tuple(outliers.tolist()),), **parameters)

    def layers_for(self, num_layers: int) -> tuple[int, ...]:
        """Give the layers that are changed in a model.

        Parameters
        ----------
        num_layers : int
            How many layers the model has.

        Raises
        ------
        TypeError, ValueError
            If it is no such number.

        Examples
        --------
        >>> PAINT().layers_for(32) == tuple(range(2, 32))
        True
        """
        return scaled_layers(self.layers, num_layers, 2, 32)

    def plan(self, call: Call, state: Plan | None) -> tuple[Plan | None, Plan | None]:
        """Boost the sets' scores."""
        if state is not None and not call.prefill:
            return state, state
        if call.image is None or call.layer not in self.layers_for(call.num_layers):
            return None, None
        whole = call.prompt.image  # sets count tokens that a chunk may not have reached
        image = call.image if call.cross or whole is None else whole
        bottom = _marked("bottom", self.bottom, image)
        top = _marked("top", self.top, image) & ~bottom
        slope = np.where(top, self.alpha, np.where(bottom, self.beta, 0))
        if not slope.any():
            return None, None
        edit = Transform(slope=slope[:, None, : call.key_len])
        plan = Plan(None, KEEP, transform=edit, rows=self.rows, phase=self.phase)
        return plan, plan


def _sets(name: str, given: Any) -> tuple[tuple[int, ...], ...]:
    """Give a list for each item; one for all where integers came."""
    found = listed(name, given, "places among the image's tokens, or such a list for each item")
    single = not found or not hasattr(type(found[0]), "__iter__")
    sets = tuple(tuple(sorted({*integers(name, some)})) for some in ((found,) if single else found))
    if any(some and some[0] < 0 for some in sets):
        raise ValueError(f"{name} must hold places from 0, got {given!r}")
    return sets


def _marked(name: str, sets: tuple[tuple[int, ...], ...], image: Array) -> Array:
    """Mark the keys of each item's set [B, P]; items of one prompt follow each other."""
    batch = len(image)
    if batch % len(sets):
        raise ValueError(
            f"{name} must have one list, or one for each item of the batch, {batch}, got "
            f"{len(sets)}"
        )
    marked = np.zeros_like(image)
    for item in range(batch):
        keys = np.flatnonzero(image[item])
        some = sets[item * len(sets) // batch]
        if not len(keys):
            continue
        if some and some[-1] >= len(keys):
            raise ValueError(
                f"{name} must hold places below {len(keys)}, the image tokens of item {item}, got "
                f"{some[-1]}"
            )
        marked[item, keys[list(some)]] = True
    return marked
