"""Attention Calibration Technique: Unveiling and Harnessing Hidden Attention Sinks (ICML 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from reattend.call import Call
from reattend.deprecated import renamed_field
from reattend.following import ColumnRule
from reattend.head_set import frozen_heads, heads_of_layer
from reattend.method import Method, check_bools, check_shares
from reattend.plan import Plan
from reattend.policy import Array, Reweight, Share
from reattend.reading import Reading, ranges
from reattend.sinks import update_column_sinks

REST, SINK = range(2)


class Columns(NamedTuple):
    """What ACT remembers: what each key received so far, and the sinks that follow from it."""

    received: Array  # [B, calibrated heads + 1, M']: sums, and last the rows that may attend
    plan: Plan | None
    num_heads: int


@renamed_field("follow", "update_sinks")
@dataclass(frozen=True)
class ACT(Method):
    r"""In calibrated heads, sinks behind the first key hand most of their attention to other keys.

    .. code-block:: text

        A'_ij = beta A_ij                                               j in S
        A'_ij = A_ij (1 + (1-beta) mass_i(S) / (1 - mass_i(S)))         j not in S

    S are the keys, the first one left out, whose attention is above theta in the mean over the rows
    that see them. Layers 0, 1 and the last are left alone. While decoding the means go on, each
    step's own row included. A prompt read in chunks is calibrated with the means so far, so it
    differs from one read at once. In cross-attention keys are an image's, of which none begins a
    sequence and none is left out; the means are over the rows so far that see a key.

    Paper: Unveiling and Harnessing Hidden Attention Sinks: Enhancing Large Language Models without
    Training through Attention Calibration (ICML 2024).

    Examples
    --------
    >>> ACT(heads={5: (0, 3)})
    ACT(heads=((5, (0, 3)),), theta=0.15, beta=0.4, update_sinks=True)
    """

    edits: ClassVar[str] = "weights"
    statistic: ClassVar[str] = "mean weight of each key so far"
    segment_names: ClassVar[tuple[str, ...]] = ("rest", "sinks")
    knows_cross: ClassVar[bool] = True

    heads: Any = None  # the calibrated heads, a mapping layer -> heads; None: all heads
    theta: float = 0.15  # a key is a sink above this mean attention; 0.1 in the paper's other tasks
    beta: float = 0.4  # what a sink keeps
    update_sinks: bool = True  # whether they are found anew while decoding

    def __post_init__(self) -> None:
        check_shares(self, "beta", "theta")
        check_bools(self, "update_sinks")
        object.__setattr__(self, "heads", frozen_heads(self.heads))

    def plan(self, call: Call, state: Columns | None) -> tuple[Plan | None, Columns | None]:
        """Calibrate with the sinks that the columns so far show."""
        some, heads = _calibrated(self.heads, call.layer, call.num_layers, call.num_heads)
        if not some:
            return None, state
        if state is not None and not (call.prefill or self.update_sinks):
            return state.plan, state
        before, known = (None, None) if state is None else (state.received, state.plan)
        received, labels = update_column_sinks(
            call.column_sums(heads), call.row_counts, call.first_key, self.theta,
            heads, before, None if known is None else known.segments,
        )  # fmt: skip
        if known is None or labels is not known.segments:
            known = self._calibrate(labels)
        return known, Columns(received, known, call.num_heads)

    def goes_on(self, call: Call, state: Columns | None) -> bool | ColumnRule:
        """Let the core find the sinks of a step, where they are found anew."""
        some, heads = _calibrated(self.heads, call.layer, call.num_layers, call.num_heads)
        if not (some and self.update_sinks):
            return True
        if state is None or call.cross:
            return False
        first, num_heads = call.first_key, call.num_heads

        def state_of(received: Array) -> Columns:
            batch, _, length = received.shape
            _, labels = update_column_sinks(
                np.zeros((batch, num_heads, length), np.float32),
                np.zeros((batch, length), np.int64), first, self.theta, heads, received,
            )  # fmt: skip
            return Columns(received, self._calibrate(labels), num_heads)

        return ColumnRule(self.theta, heads, self._policy, state.received, state_of)

    def _calibrate(self, labels: Array) -> Plan | None:
        if not labels.shape[2]:
            return None
        found: Any = labels.any(-1, keepdims=True)  # [B, H, 1]
        return Plan(labels, self._policy, found)

    def readings(self, state: Columns | None) -> dict[str, Any]:
        """Give each item's sinks, a list of those of any head, and their number [B, H]."""
        if state is None:
            return {}
        if state.plan is None or state.plan.segments is None:
            return {
                "sinks": [[] for _ in state.received],
                "counts": np.zeros((len(state.received), state.num_heads), int),
            }
        sink = state.plan.segments
        found = [np.flatnonzero(item.any(0)).tolist() for item in sink]
        return {"sinks": found, "counts": sink.sum(-1, dtype=int)}

    def describe(self, readings: Sequence[Reading], num_layers: int) -> list[str]:
        """Say in which layers sinks were attenuated, and how many rows that changed."""
        layers = [each.layer for each in readings if np.any(each.changed > 0)]
        if not layers:
            return ["no sink found behind the first key, so ACT changes nothing"]
        found = f"sinks behind the first key attenuated, in layers {ranges(layers)}"
        return [found, *super().describe(readings, num_layers)]

    @cached_property
    def _policy(self) -> Reweight:
        # A row that sees no sink, such as one before it, is not changed, and not said to be.
        some = Share((SINK,), float(np.finfo(np.float32).tiny))
        return Reweight(weight=(1, self.beta), to=(REST,), when=(some,))


@lru_cache(maxsize=4096)  # asked in every step of every layer
def _calibrated(
    heads: Any, layer: int, num_layers: int, num_heads: int
) -> tuple[bool, Array | None]:
    """Say whether heads of a layer are calibrated, and which, bool [H] or None for all."""
    if not 2 <= layer < num_layers - 1:
        return False, None
    if heads is None:
        return True, None
    calibrated = heads_of_layer(heads, layer, num_heads)
    return bool(calibrated.any()), calibrated
