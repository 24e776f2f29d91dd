"""Steps that go on by a rule: how a method says so, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from reattend.border.request import FollowedColumns, MaskSpec, Request
from reattend.border.row_products import around, scores_of
from reattend.plan import Composition, Plan, compose
from reattend.policy import Array, Reweight
from reattend.transform import Transform

__all__ = ["ColumnRule", "FollowedSteps", "ReadSteps", "RowRule"]

_LEAST_ROOM = 64  # keys
_EVERY = (np.ones((1, 1, 1), bool),)  # rows of heads


@dataclass(frozen=True, eq=False)
class ColumnRule:
    """How steps go on whose segment 1 are the keys that received most, and segment 0 all others.

    Each step's own row joins the means before its policy is decided. An item's first key that is
    no padding is no sink.
    """

    theta: float  # a key is a sink above this mean over the rows that see it
    heads: Array | None  # bool [H], those that have sinks, C of them; None: all
    policy: Reweight  # of both segments
    received: Array  # [B, C + 1, M']: what keys received so far, and last the rows that see them
    state: Callable[[Array], Any]  # the method's state once keys received that


class FollowedSteps:
    """The steps of one layer under a rule: one call of the core each, which updates the means.

    Parameters
    ----------
    plan : Composition
        Of all methods, see `compose_with_columns`.
    rule : ColumnRule
        Where it begins.
    """

    def __init__(self, plan: Composition, rule: ColumnRule) -> None:
        self.plan, self.rule = plan, rule
        self._make_room(rule.received)

    def _make_room(self, received: Array) -> None:
        batch, rows, past = received.shape
        self._room = past + max(_LEAST_ROOM, past // 4)
        self._both = np.zeros((2, batch, rows, self._room), np.float32)
        self._both[..., :past] = received  # in both: the next step then finds its memory ready
        self._numbers = np.array([0, past, np.iinfo(np.int64).max])
        columns = FollowedColumns(self.rule.theta, self.rule.heads, self._both, self._numbers)
        self.request: Request = self.plan.request("masses")._replace(columns=columns)

    def serves(self, rows: int, key_len: int, mask: MaskSpec) -> bool:
        """Whether a call is such a step; room is made for its keys.

        Under a bias, and without ``causal`` where keys are masked, the core does not know which
        keys a row sees, or where it stands.
        """
        if rows != 1 or mask.bias is not None or not (mask.causal or mask.key_mask is None):
            return False
        latest = self._numbers[0]
        if self._numbers[1 + latest] >= key_len <= self._numbers[2 - latest]:
            return False  # rows were taken back
        if key_len > self._room:
            self._make_room(self.received)
        return bool(key_len <= self._room)

    @property
    def received(self) -> Array:
        """What keys received so far, [B, C + 1, M']."""
        latest = int(self._numbers[0])
        received: Array = self._both[latest, :, :, : self._numbers[1 + latest]]
        return received

    def state(self) -> Any:
        """Give the method's state as it is now."""
        return self.rule.state(np.ascontiguousarray(self.received))


@dataclass(frozen=True, eq=False)
class RowRule:
    """How steps go on whose edits follow from the scores of their row on keys of the prompt."""

    keys: Array  # bool [B, P], the keys; the same in all steps
    policy: Reweight  # of all keys as one segment
    # Of scores [B, H, K], 0 where no key is marked, on the keys from the first to the last that is
    # in any item, which come with them: as `Call.row_scores` gives them. What comes back are rows
    # [B, H, 1] of the policy and a transform of the row, or None for either.
    edits: Callable[[Array, slice], tuple[Array | None, Transform | None]]


class ReadSteps:
    """The steps of one layer under a rule: products of the row with keys, then the rest.

    Parameters
    ----------
    rule : RowRule
        The rule.
    """

    def __init__(self, rule: RowRule) -> None:
        self._rule, self._near = rule, around(rule.keys)
        self._marked = rule.keys[:, None, self._near]
        self._all = bool(self._marked.all())
        self._plan = compose([Plan(None, rule.policy)])

    def serves(self, rows: int, mask: MaskSpec) -> bool:
        """Whether a call is such a step: of one row that sees all keys of the rule."""
        if rows != 1 or mask.window is not None:
            return False
        seen = mask.key_mask
        return seen is None or bool((seen[:, None, self._near] | ~self._marked).all())

    def planned(
        self, products: Array, mask: MaskSpec, head_dim: int
    ) -> tuple[Composition, Transform | None, tuple[Array, ...]]:
        """Give what is done with a row of these products [B, H, 1, M].

        Its policy with its rows, its transform, and which rows of which heads that edits.
        """
        scores = scores_of(products[:, :, 0, self._near], mask, head_dim)
        if not self._all:
            scores = np.where(self._marked, scores, np.float32(0))
        where, transform = self._rule.edits(scores, self._near)
        plan = self._plan
        if where is not None:
            plan = Composition(None, plan.policies, (where,), plan.labels, plan.plans)
        if transform is None:
            return plan, None, ()
        return plan, transform, _EVERY if transform.heads is None else (transform.heads[..., None],)
