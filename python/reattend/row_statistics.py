"""What rows tell of segments beside masses, from the full matrix: the specification."""

from __future__ import annotations

import numpy as np

from reattend.policy import Array


def statistics(scores: Array, weights: Array, labels: Array, num_segments: int) -> dict[str, Array]:
    """Give the statistics of `reattend.attention` by name, [B, H, N, G], and the scores.

    Parameters
    ----------
    scores, weights : array [B, H, N, M]
        As the softmax takes and gives them. Keys whose score is -inf, hidden ones and those of a
        bias, do not count.
    labels : array of int [B or 1, H or 1, M]
        The segment of each key.
    num_segments : int
        G.

    Examples
    --------
    >>> scores, labels = np.array([[[[1.0, -2.0, -np.inf]]]]), np.zeros((1, 1, 3), int)
    >>> found = statistics(scores, np.array([[[[0.9, 0.1, 0.0]]]]), labels, 1)
    >>> found["abs_score_sums"].tolist(), found["largest_keys"].tolist()
    ([[[[3.0]]]], [[[[0]]]])
    """
    found: dict[str, list[Array]] = {}
    for label in range(num_segments):
        here = (labels[:, :, None] == label) & ~np.isneginf(scores)
        some, part = np.where(here, scores, 0), np.where(here, weights, 0)
        best = np.where(here, scores, -np.inf)
        each = {
            "score_sums": some.sum(-1),
            "abs_score_sums": abs(some).sum(-1),
            "entropies": -(part * np.log(np.where(part > 0, part, 1))).sum(-1),
            "largest": part.max(-1, initial=0),
            "largest_keys": np.where(
                here.any(-1), best.argmax(-1) if best.shape[-1] else 0, np.int64(-1)
            ),
        }
        for name, values in each.items():
            found.setdefault(name, []).append(values)
    return {"scores": scores, **{name: np.stack(parts, -1) for name, parts in found.items()}}
