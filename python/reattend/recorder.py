"""Recorder: notes where the rows of an answer attend while a session runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from reattend.call import Call
from reattend.method import Method
from reattend.one_thread import UsedByOneThread, alone
from reattend.policy import Array
from reattend.recording import Recording
from reattend.report import Report
from reattend.sinks import sink_dims, sink_score

_SINK_SHARE = 20 / 64  # VAR's tau as a share of the most that phi can be


class Recorder:
    """Notes the rows of an answer, of one item of the batch.

    A row's weights are the column sums of that row alone, so the matrix never exists: a step costs
    one pass more, and what is kept is 2 bytes for each row, layer, head and image token.
    """

    def __init__(self, num_layers: int, item: int) -> None:
        self.item = item
        self._rows: list[dict[int, tuple[Array, float | Array]]] = []
        self._sinks: dict[int, Array] = {}
        self._image: Array | None = None
        self._num_layers = num_layers

    def note(self, call: Call) -> None:
        """Note the last row of a prompt, or the row of a step."""
        if call.batch <= self.item:
            raise ValueError(f"item must be below the batch size, {call.batch}, got {self.item}")
        if call.prefill:
            self._note_sinks(call)
            if not call.last_chunk:
                return
        if call.layer in (self._rows[-1] if self._rows else {}) or not self._rows:
            self._rows.append({})
        weights = self._weights(call)  # [H, M]
        if self._image is None:
            image = call.prompt.image
            length = call.num_prompt
            found = np.zeros(length, bool)
            if image is not None:
                found[: image.shape[1]] = image[self.item]
            self._image = found
        # Keys of the prompt come first; padding behind the last row is none of them.
        marked = self._image[: weights.shape[1]]
        kept = weights[:, : len(marked)][:, marked]
        safe = np.where(weights > 0, weights, 1)
        entropy = -(weights * np.log(safe)).sum(-1)
        self._rows[-1][call.layer] = kept.astype(np.float16), entropy

    def recording(self, methods: Mapping[str, Any], settings: Mapping[str, Any]) -> Recording:
        """Give what was noted of all layers; a row that is under way is left out."""
        layers = range(self._num_layers)
        rows = [row for row in self._rows if len(row) == self._num_layers]
        if not rows:
            raise ValueError(
                "recording() needs rows of all layers, got none: call record() before the "
                "generation begins"
            )
        assert self._image is not None
        sinks = np.zeros((self._num_layers, len(self._image)), bool)
        for layer, found in self._sinks.items():
            sinks[layer, : len(found)] = found[: len(self._image)]
        kept = np.stack([np.stack([row[layer][0] for layer in layers]) for row in rows])
        entropy = np.stack([np.stack([row[layer][1] for layer in layers]) for row in rows])
        return Recording(kept, entropy, sinks, self._image, settings=settings, methods=methods)

    def _note_sinks(self, call: Call) -> None:
        if call.states is None:
            return
        states, mask = call.hidden_states, call.key_mask
        if mask is not None:
            mask = mask[:, call.first_row :]
        if call.first_row:  # the dimensions are read off the first token
            return
        scores = sink_score(states, sink_dims(states, mask))[self.item]
        self._sinks[call.layer] = scores > _SINK_SHARE * np.sqrt(states.shape[-1])

    def _weights(self, call: Call) -> Array:
        last = int(call.last_rows[self.item])
        return np.asarray(call.weights_of_row(last)[self.item])


class Recorded(UsedByOneThread):
    """What a session can keep of an answer, for pictures and for the page."""

    num_layers: int
    methods: tuple[Method, ...]
    cross_layers: frozenset[int] = frozenset()
    _recorder: Recorder | None = None

    @abstractmethod
    def report(self) -> Report:
        """Say what the methods did."""

    @alone
    def record(self, item: int = 0) -> None:
        """Note from now on where the rows of an answer attend; call it before `generation`.

        Of one item of the batch, for the prompt's last row and each decoding step: every head's
        attention on the image's tokens, its entropy, and which tokens have a sink's state. It costs
        one pass over the keys a step, and 2 bytes for each row, layer, head and image token: never
        the attention matrix.

        Parameters
        ----------
        item : int, optional
            Which item of the batch.

        Raises
        ------
        ValueError
            If it is negative, or the session has cross-attention.

        Examples
        --------
        >>> from reattend import Session
        >>> session = Session([], num_layers=1)
        >>> session.record()
        >>> query = key = value = np.zeros((1, 2, 3, 8), np.float32)
        >>> with session.generation(np.array([[False, True, True]])):
        ...     out = session.attend(0, query, key, value)
        >>> session.recording().attention[0, 0].astype(float).round(2).tolist()
        [[0.33, 0.33], [0.33, 0.33]]
        """
        if item < 0:
            raise ValueError(f"item must be from 0, got {item}")
        if self.cross_layers:
            raise ValueError(
                "record() notes where rows attend among the keys of one sequence, and layers "
                f"{sorted(self.cross_layers)} of this session have others"
            )
        self._recorder = Recorder(self.num_layers, item)

    @alone
    def recording(self) -> Recording:
        """Give what was noted since `record`, with what the methods did.

        Raises
        ------
        RuntimeError
            If `record` was not called.
        ValueError
            If no row has been seen in all layers.

        Returns
        -------
        Recording

        Examples
        --------
        See the example of `record`.
        """
        recorded = self._recorded()
        if recorded is None:
            raise RuntimeError("recording() needs session.record() before the generation")
        return recorded()

    def _recorded(self) -> Callable[[], Recording] | None:
        """Give what gives the recording when it is asked for; None: `record` was not called."""
        recorder = self._recorder
        if recorder is None:
            return None
        settings = {"methods": [repr(method) for method in self.methods]}

        def noted() -> Recording:
            with self._use:
                return recorder.recording(self.report().to_dict(), settings)

        return noted
