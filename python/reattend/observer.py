"""Observer: a session that can also look at what each segment of keys receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from reattend.attention import attention
from reattend.call import Call, Computed
from reattend.plan import Plan, compose
from reattend.planned import planned
from reattend.policy import Array, Reweight
from reattend.session import Session

__all__ = ["Look", "Observer", "States"]

States: TypeAlias = Mapping[tuple[int, int], Any]  # (a method's place, layer) -> its state


class Look(NamedTuple):
    """Attention on each segment, of all rows of a call."""

    labels: Array  # [G], which of the labels each segment has
    before: Array  # [B, H, N, G], as softmax gave it
    after: Array  # [B, H, N, G], times what the methods made of it


class Observer(Session):
    """A session whose subclasses look at attention, without a change to it: see `observe`.

    Examples
    --------
    What the first key receives from a prompt's last row:

    >>> class First(Observer):
    ...     def observe(self, call, states):
    ...         labels = (np.arange(call.key_len) == 0).astype(np.uint8)[None, None]
    ...         self.found = self.look(call, labels, 2, states).before[0, 0, -1]
    >>> session = First([], num_layers=1)
    >>> keys = np.zeros((1, 1, 4, 8), np.float32)
    >>> with session.generation():
    ...     out = session.attend(0, keys, keys, keys)
    >>> session.found
    array([0.75, 0.25], dtype=float32)
    """

    _observed = True

    def observe(self, call: Call, states: States) -> None:
        """Note what there is to note of a call that was computed; a subclass says what.

        Parameters
        ----------
        call : Call
            As methods saw it; calls of a text-only run are not shown.
        states : mapping
            What each method's state was before this call, by its place and the layer.

        Examples
        --------
        See the example of the class.
        """

    def look(self, call: Call, labels: Array, count: int, states: States) -> Look:
        """Look at what segments of keys receive in a call. It takes a pass of its own.

        Parameters
        ----------
        call : Call
            What `observe` was shown.
        labels : array of uint8 [B, 1 or H, M]
            Each key's segment.
        count : int
            How many segments there are.
        states : mapping
            What `observe` was shown.

        Returns
        -------
        Look

        Examples
        --------
        See the example of the class.
        """
        # A plan that changes nothing, beside the methods' own: its segments are what we look at.
        plans = [Plan(labels, Reweight(weight=(1,) * count))]
        for place, method in enumerate(self.methods):
            plan, _ = planned(method, call, states.get((place, call.layer)))
            if plan is not None:
                plans.append(plan)
        both = compose(plans)
        query, key, value = both.moved(call.query, call.key, call.value)
        result = attention(
            query, key, value[..., :0], segments=both.segments,
            policy=both.policies, where=both.wheres, returns=("masses", "factors"),
            num_threads=call.num_threads, **call.mask._asdict(), **both.edits,
        )  # fmt: skip
        assert result.masses is not None
        assert result.factors is not None
        return Look(both.labels[0], result.masses, result.masses * result.factors)

    def _show(self, run: Any, call: Call, result: Array) -> None:
        # A method's state here is still what it returned at the row before. The call computes
        # anew: what the methods' own pass left in it may differ in its last bits.
        self.observe(replace(call, computed=Computed(settled=True)), run.states)
        super()._show(run, call, result)
