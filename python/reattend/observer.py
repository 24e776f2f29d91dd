"""Observer: a session that can also look at what each segment of keys receives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from reattend.attention import attention
from reattend.border.request import MaskSpec
from reattend.call import Call
from reattend.plan import Plan, compose
from reattend.policy import Array, Reweight
from reattend.session import Session


class Look(NamedTuple):
    """Attention on each segment, of all rows of a call."""

    labels: Array  # [G], which of the labels each segment has
    before: Array  # [B, H, N, G], as softmax gave it
    after: Array  # [B, H, N, G], times what the methods made of it


class Observer(Session):
    """A session whose subclasses look at attention, without a change to it.

    Examples
    --------
    >>> Observer([], num_layers=2).num_layers
    2
    """

    def _call(self, layer: int, query: Array, key: Array, value: Array, options: Any) -> Call:
        """Give a call of `attend` as methods see it; ``options`` are its keyword arguments."""
        assert self._run is not None
        mask = {"causal": True, **options}
        states, threads = mask.pop("hidden_states", None), mask.pop("num_threads", None)
        mask.pop("out", None)
        spec = MaskSpec(**mask)
        return Call(
            layer, self.num_layers, query, key, value, self._run.prompt, spec, states, threads
        )

    def _look(
        self, call: Call, labels: Array, count: int, states: Mapping[tuple[int, int], Any]
    ) -> Look:
        """Look at ``count`` segments; ``states`` are the methods', by place and layer."""
        # A plan that changes nothing, beside the methods' own: its segments are what we look at.
        plans = [Plan(labels, Reweight(weight=(1,) * count))]
        for place, method in enumerate(self.methods):
            plan, _ = method.plan(call, states.get((place, call.layer)))
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
