"""What heads write, in the words of the vocabulary: Head Pursuit's sparse decomposition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reattend.checks import count, numbers
from reattend.policy import Array


class Pursuit(NamedTuple):
    """What `head_pursuit` finds."""

    atoms: Array  # int [k], rows of the dictionary, in the order in which they were taken
    explained: Array  # [k], the share of the outputs' squares that the atoms so far explain


def head_pursuit(head_outputs: Array, dictionary: Array, k: int) -> Pursuit:
    """Decompose a head's outputs over a few rows of the unembedding, the same for all samples.

    Simultaneous orthogonal matching pursuit: each step takes the row whose products with what is
    left have the largest sum of sizes over the samples, then fits all rows taken by least squares.
    Heads that a concept's rows explain best are those to gate, about one in a hundred: `HeadMask`
    with a gate of -1 takes the concept away, one of 5 brings it out. Outputs are not centred, and
    rows count by their direction alone.

    Head Pursuit: Probing Attention Specialization in Multimodal Transformers (2025),
    arXiv 2510.21518.

    Parameters
    ----------
    head_outputs : array [S, C]
        What a head adds to the residual stream, W_O,h o_h, in each of S samples.
    dictionary : array [V, C]
        Rows of the unembedding: all tokens', or a concept's.
    k : int
        How many rows to take; fewer are given where nothing is left to explain.

    Returns
    -------
    Pursuit

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit.

    Examples
    --------
    >>> outputs = np.array([[3.0, 0.0, 0.1], [-2.0, 0.0, 0.0]])
    >>> found = head_pursuit(outputs, np.eye(3), k=1)
    >>> found.atoms.tolist(), found.explained.round(3).tolist()
    ([0], [0.999])
    """
    outputs = numbers("head_outputs", head_outputs, "[S, C]").astype(np.float64)
    rows = numbers("dictionary", dictionary, "[V, C]").astype(np.float64)
    if rows.shape[1] != outputs.shape[1]:
        raise ValueError(
            f"dictionary must be [V, C] with C of head_outputs, {outputs.shape[1]}, got shape "
            f"{rows.shape}"
        )
    k = count("k", k, 1, min(rows.shape))
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(norm > 0, norm, 1)
    whole, left = float((outputs**2).sum()), outputs
    atoms: list[int] = []
    explained: list[float] = []
    for _ in range(k):
        match = np.abs(left @ unit.T).sum(0)
        match[atoms] = -1
        best = int(match.argmax())
        if not match[best] > 1e-12 * np.sqrt(whole):
            break
        atoms.append(best)
        basis = unit[atoms]  # [n, C]
        left = outputs - outputs @ np.linalg.pinv(basis) @ basis
        explained.append(1 - float((left**2).sum()) / whole)
    return Pursuit(np.array(atoms, np.intp), np.array(explained))
