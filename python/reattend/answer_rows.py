"""The rows of a call that choose a word, and what they attend to."""

from __future__ import annotations

import numpy as np

from reattend.call import Call
from reattend.policy import Array


def last_rows(call: Call) -> Array:
    """Give the place among the call's rows of each item's last one that is no padding, int [B].

    Parameters
    ----------
    call : Call
        With the prompt's last row, or a step.

    Examples
    --------
    >>> from reattend.border.request import MaskSpec
    >>> from reattend.call import Prompt
    >>> query = key = np.zeros((2, 1, 3, 4), np.float32)
    >>> mask = MaskSpec(key_mask=np.array([[True, True, True], [True, True, False]]))
    >>> last_rows(Call(0, 1, query, key, key, Prompt(3), mask)).tolist()
    [2, 1]
    """
    last = np.full(call.batch, call.query.shape[2] - 1)
    if call.key_mask is None or call.cross:
        return last
    padded: Array = call.key_mask[:, call.first_row :][:, ::-1].argmax(-1)
    return last - padded


def row_weights(call: Call) -> Array:
    """Give what the last rows attend to, [B, H, M], as softmax gives it, by a pass for themselves.

    Parameters
    ----------
    call : Call
        With the prompt's last row, or a step.

    Examples
    --------
    >>> from reattend.border.request import MaskSpec
    >>> from reattend.call import Prompt
    >>> query = key = np.zeros((1, 1, 2, 4), np.float32)
    >>> row_weights(Call(0, 1, query, key, key, Prompt(2), MaskSpec(causal=True))).tolist()
    [[[0.5, 0.5]]]
    """
    rows = last_rows(call)
    found = np.zeros((*call.query.shape[:2], call.key.shape[2]), np.float32)
    for row in np.unique(rows):
        some = rows == row
        found[some] = call.weights_of_row(int(row))[some]
    return found
