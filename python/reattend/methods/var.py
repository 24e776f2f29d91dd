"""Visual Attention Redistribution: See What You Are Told (ICLR 2025), arXiv 2503.03321."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from reattend.call import NEVER, Call
from reattend.method import Method, check_shares, integers, number
from reattend.plan import Plan
from reattend.policy import Array, Reweight, Share
from reattend.reading import Reading, counted, ranges
from reattend.sinks import sink_dims, sink_tokens

REST, TEXT_SINK, VISUAL_SINK, VISUAL = range(4)
IMAGE = (VISUAL_SINK, VISUAL)


class Sinks(NamedTuple):
    """What VAR remembers of a prompt."""

    labels: Array  # uint8 [B, M'], of the prompt's keys so far
    plan: Plan | None  # for rows that every item has changed; None without a visual sink
    start: Array  # [B], first row to change: after the image, and a visual sink is seen
    last: int  # the last of these starts: from here on the plan needs no `where`


@dataclass(frozen=True)
class VAR(Method):
    r"""In image-centric heads, sinks hand a part of their attention to the other image tokens.

    .. code-block:: text

        A'_ij = p A_ij                                        j in S
        A'_ij = A_ij (1 + (1-p) mass_i(S) / mass_i(V\S))      j in V\S

    S are the keys with phi > tau, V those of the image. A row is changed if it stands after the
    image, the image gets at least ``image_mass`` of it, and at least rho of that is not on sinks.
    Layers 0, 1 and the last are left alone. In cross-attention all keys are the image's, every row
    stands behind it, and phi is of the states that keys are made of: ``sink_dims`` must be theirs.

    Paper: See What You Are Told: Visual Attention Sink in Large Multimodal Models (ICLR 2025),
    arXiv 2503.03321.

    Examples
    --------
    >>> VAR(sink_dims=(1415, 2533))
    VAR(sink_dims=(1415, 2533), p=0.6, rho=0.5, tau=20.0, image_mass=0.2)
    """

    edits: ClassVar[str] = "weights"
    statistic: ClassVar[str] = "masses of sinks and image; hidden states"
    needs_image: ClassVar[bool] = True
    steady: ClassVar[bool] = True
    knows_cross: ClassVar[bool] = True
    segment_names: ClassVar[tuple[str, ...]] = ("rest", "text sinks", "visual sinks", "image")

    sink_dims: tuple[int, ...] | None = None  # D_sink of the model; None: found in each layer
    p: float = 0.6  # what a sink keeps
    rho: float = 0.5  # least share of the image's attention that is not on sinks
    tau: float = 20.0  # a token is a sink above this phi; below 1, a share of phi's limit
    image_mass: float = 0.2  # least attention on the image

    def __post_init__(self) -> None:
        check_shares(self, "p", "rho", "image_mass")
        if not 0 < number(self, "tau") < np.inf:
            raise ValueError(f"tau must be a positive number, got {self.tau!r}")
        if self.sink_dims is not None:
            dims = integers("sink_dims", self.sink_dims)
            if not dims or min(dims) < 0:
                raise ValueError(
                    f"sink_dims must hold at least one dimension from 0, or be None, got {dims}"
                )
            object.__setattr__(self, "sink_dims", dims)

    def check_model(self, num_layers: int, num_heads: int | None, hidden_size: int | None) -> None:
        """Refuse a tau that no token can reach, and dimensions that the model does not have."""
        if hidden_size is None:
            return
        self._threshold(hidden_size)
        if self.sink_dims is not None and max(self.sink_dims) >= hidden_size:
            raise ValueError(
                f"sink_dims must be below {hidden_size}, the hidden size of the model, "
                f"got {max(self.sink_dims)}"
            )

    def plan(self, call: Call, state: Sinks | None) -> tuple[Plan | None, Sinks | None]:
        """Redistribute in rows after the image, once a visual sink is among the keys."""
        if not 2 <= call.layer < call.num_layers - 1:
            return None, None
        if call.prefill and (call.image_end < NEVER).any() and not (call.cross and state):
            state = self._extend(call, state)
        if state is None or state.plan is None or call.first_row >= state.last:
            return (None if state is None else state.plan), state
        changed = state.start[:, None] <= call.rows  # [B, N]
        if not changed.any():
            return None, state
        return replace(state.plan, where=changed[:, None]), state

    def readings(self, state: Sinks | None) -> dict[str, Any]:
        """Give the positions of the sinks, a list for each item."""
        if state is None:
            return {}
        return {
            "visual sinks": [np.flatnonzero(x == VISUAL_SINK).tolist() for x in state.labels],
            "text sinks": [np.flatnonzero(x == TEXT_SINK).tolist() for x in state.labels],
        }

    def describe(self, readings: Sequence[Reading], num_layers: int) -> list[str]:
        """Say how many image tokens are sinks, in which layers, and how many rows that changed."""
        sinks = {each.layer: each.found["visual sinks"][0] for each in readings if each.found}
        layers = [layer for layer, tokens in sinks.items() if tokens]
        if not layers:
            return ["no image token is a sink, so VAR changes nothing"]
        count = counted(len({token for some in sinks.values() for token in some}), "image token")
        found = f"{count} found to be a sink, in layers {ranges(layers)}"
        return [found, *super().describe(readings, num_layers)]

    @cached_property
    def _policy(self) -> Reweight:
        return Reweight(
            weight=(1, self.p, self.p, 1),
            to=(VISUAL,),
            when=(Share(IMAGE, self.image_mass), Share((VISUAL,), self.rho, within=IMAGE)),
        )

    def _extend(self, call: Call, state: Sinks | None) -> Sinks:
        """Label the prompt's keys among these rows, after those labelled before."""
        assert call.image is not None
        first = 0 if call.cross else call.first_row
        count = call.key_len if call.cross else min(call.key_len, call.num_prompt) - first
        states = call.hidden_states[:, :count]
        dims = self._find_dims(call, states) if self.sink_dims is None else self.sink_dims
        sink = sink_tokens(states, dims, self._threshold(states.shape[-1]))  # [B, count]
        image = call.image[:, first : first + count]
        labels = np.where(image, np.uint8(VISUAL), np.uint8(REST))
        labels[sink] = np.where(image[sink], VISUAL_SINK, TEXT_SINK)
        if first:
            nothing = np.zeros((call.batch, first), np.uint8)
            labels = np.concatenate([nothing if state is None else state.labels, labels], axis=1)
        visual = labels == VISUAL_SINK
        some = np.any(visual, axis=-1)  # [B]; without a visual sink nobody hands anything on
        begin = 0 if call.cross else visual.argmax(-1)
        start = np.maximum(np.where(some, begin, NEVER), call.image_end)
        if not some.any():
            return Sinks(labels, None, start, 0)
        segments = np.where(some[:, None], labels, np.uint8(REST))[:, None]
        return Sinks(labels, Plan(segments, self._policy), start, int(start[some].max()))

    @staticmethod
    def _find_dims(call: Call, states: Array) -> Array:
        """Read the sink dimensions off the prompt, for each item."""
        if call.cross:
            raise ValueError(
                f"layer {call.layer}: sink_dims must be given for cross-attention, those of the "
                "states that keys are made of: a model's own are found on a sequence's first "
                "token, which no key of an image is"
            )
        if call.first_row > 0 or not call.last_chunk:
            raise ValueError(
                "sink_dims must be given where the prompt is read in chunks, since they are found "
                f"from all of it, got rows {call.first_row} to {call.key_len - 1} of "
                f"{call.num_prompt}; reattend.sinks.sink_dims finds them, once for a model"
            )
        mask = call.key_mask
        return sink_dims(states, None if mask is None else mask[:, : states.shape[1]])

    def _threshold(self, size: int) -> float:
        """Give tau as a number; phi cannot exceed the square root of C."""
        most = float(np.sqrt(size))
        if self.tau < 1:
            return self.tau * most
        if self.tau >= most:
            raise ValueError(
                f"tau must be below sqrt(C) = {most:.4g}, the most that phi can be at hidden size "
                f"{size}, got {self.tau:g}; give it as a share of that, such as tau=20/64"
            )
        return float(self.tau)
