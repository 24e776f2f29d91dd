"""Watches the attention of one answer: on the image, on each key of the prompt, head by head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reattend.call import Call
from reattend.method import Method
from reattend.observer import Observer, States
from reattend.policy import Array
from reattend.sinks import sink_score

_OTHER, _IMAGE = range(2)


class Watched(NamedTuple):
    """What was seen of one answer, the mean over its rows but the first."""

    before: Array  # [L, H], attention on the image, as softmax gave it
    after: Array  # [L, H], times what the methods made of it
    keys: Array  # [L, P], attention on each key of the prompt, the mean over heads, from softmax
    scores: Array  # [L, P], phi of each of the prompt's tokens, as it enters the layer


class WatchedAnswer(Observer):
    """A session that also notes where the rows of an answer attend, for one prompt at a time.

    Everything is read from segment masses and from the column sums of single rows, which are their
    weights. It costs each step two more passes.

    Parameters
    ----------
    methods : Method or sequence of Method
        As for `Session`.
    num_layers, num_heads : int
        Of the model.
    sink_dims : sequence of int
        Dimensions that phi is read in; none leaves it at 0.

    Examples
    --------
    >>> session = WatchedAnswer([], num_layers=1, num_heads=1)
    >>> keys = np.zeros((1, 1, 4, 8), dtype=np.float32)
    >>> states, image = np.ones((1, 3, 8)), np.array([[False, True, True]])
    >>> with session.generation(image):
    ...     out = session.attend(0, keys[:, :, :3], keys[:, :, :3], keys[:, :, :3],
    ...                          hidden_states=states)
    ...     out = session.attend(0, keys[:, :, :1], keys, keys, hidden_states=states[:, :1])
    >>> session.watched().before, session.watched().keys
    (array([[0.5]]), array([[0.25, 0.25, 0.25]]))
    """

    def __init__(
        self,
        methods: Method | Sequence[Method],
        *,
        num_layers: int,
        num_heads: int,
        sink_dims: Sequence[int] = (),
    ) -> None:
        super().__init__(methods, num_layers=num_layers, num_heads=num_heads)
        self.sink_dims = tuple(sink_dims)
        self._masses = np.zeros((2, num_layers, num_heads))
        self._keys: dict[int, Array] = {}
        self._scores: dict[int, Array] = {}
        self._rows = np.zeros(num_layers)

    def observe(self, call: Call, states: States) -> None:
        """Note what the rows of an answer attend to, and phi of its prompt.

        Parameters
        ----------
        call, states
            As for `Observer.observe`.

        Examples
        --------
        See the example of the class.
        """
        layer = call.layer
        if call.batch != 1:
            return
        if call.query.shape[2] > 1:
            self._keys[layer] = np.zeros(call.key_len)
            self._scores[layer] = np.zeros(call.key_len)
            if self.sink_dims:
                self._scores[layer] = sink_score(call.hidden_states, self.sink_dims)[0]
        elif layer in self._keys:
            self._note(call, states)

    def watched(self) -> Watched:
        """Give what was noted.

        Examples
        --------
        See the example of the class.
        """
        rows = np.maximum(self._rows, 1)[:, None]
        before, after = self._masses / rows
        layers = range(self.num_layers)
        keys, scores = (np.array([each[layer] for layer in layers])
                        for each in (self._keys, self._scores))  # fmt: skip
        return Watched(before, after, keys / rows, scores)

    def _note(self, call: Call, states: States) -> None:
        layer = call.layer
        image = np.zeros(call.key_len, bool) if call.image is None else call.image[0]
        labels = np.where(image, np.uint8(_IMAGE), np.uint8(_OTHER))[None, None]
        look = self.look(call, labels, 2, states)
        on_image = look.labels == _IMAGE
        for masses, noted in zip((look.before, look.after), self._masses, strict=True):
            noted[layer] += masses[0, :, 0, on_image].sum(0)
        weights = call.column_sums()[0].mean(0)  # [M]
        self._keys[layer] += weights[: len(self._keys[layer])]
        self._rows[layer] += 1
