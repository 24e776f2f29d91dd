"""How sure a model is of its next token, told to the methods inside its attention."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from reattend.adaptors.transformers.tensors import floats
from reattend.decoding.mixing import softmax
from reattend.policy import Array


class Told(Protocol):
    """What is told: a `Session`, or what `attached` gives."""

    def note_confidence(self, confidence: Array) -> None:
        """Hear the largest probability of each item's next token."""


class Confidence:
    """A logits processor that changes nothing, and tells a session how sure the model is.

    Methods whose strength depends on the last token's confidence (`CAAC`) need it. Put it first in
    a list of processors: what others make of the logits is not what the model said.

    Parameters
    ----------
    session : Session, or what `attached` gives
        The session that is told.

    Examples
    --------
    >>> from reattend import Session
    >>> session = Session([], num_layers=2)
    >>> with session.generation():
    ...     Confidence(session)(np.array([[1, 2]]), np.log([[0.5, 0.25, 0.25]])).shape
    (1, 3)
    """

    def __init__(self, session: Told) -> None:
        if not callable(getattr(session, "note_confidence", None)):
            raise TypeError(f"session must be a Session or what attached() gives, got {session!r}")
        self.session = session

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Tell of scores [B, V], an array or a tensor, and give them back."""
        own = floats(scores) if hasattr(scores, "detach") else np.asarray(scores)
        self.session.note_confidence(softmax(own).max(-1))
        return scores
