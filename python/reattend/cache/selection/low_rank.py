"""Keys that look important in a few dimensions: Loki's."""

from __future__ import annotations

import numpy as np

from reattend.cache.selection.row import row_and_keys
from reattend.checks import count as counted
from reattend.checks import numbers, real
from reattend.policy import Array


def key_components(key: Array) -> Array:
    """Give the principal components of each head's keys, by falling variance, as Loki has them.

    Of keys as they are stored, so behind the rotary embedding. Loki: Low-rank Keys for Efficient
    Sparse Attention (NeurIPS 2024), arXiv 2406.02542.

    Parameters
    ----------
    key : array [B, H_kv, M, D]
        Keys of prompts like those that will come.

    Returns
    -------
    array [H_kv, D, D]
        float64, a component in each column; the keys' mean is taken off to find them.

    Raises
    ------
    ValueError
        If there is no key.

    Examples
    --------
    >>> key = np.zeros((1, 1, 4, 2))
    >>> key[0, 0, :, 1] = [1, -1, 2, -2]
    >>> abs(key_components(key)[0, :, 0])
    array([0., 1.])
    """
    key = numbers("key", key, "[B, H_kv, M, D]").astype(np.float64)
    if not key.size or not np.isfinite(key).all():
        raise ValueError(f"key must hold finite numbers, and some, got shape {key.shape}")
    flat = key.swapaxes(0, 1).reshape(key.shape[1], -1, key.shape[3])
    flat = flat - flat.mean(1, keepdims=True)
    _, vectors = np.linalg.eigh(flat.swapaxes(1, 2) @ flat)
    return np.asarray(vectors[..., ::-1])


def low_rank_scores(
    query: Array, key: Array, components: Array, rank: int, *, scale: float | None = None
) -> Array:
    r"""Score keys for a row by its first principal components alone, as Loki does.

    .. code-block:: text

        s_j = scale (q P_r) . (k_j P_r)

    Attention on the highest, `selection_bias` of `highest`, is exact on those.

    Parameters
    ----------
    query : array [B, H, D]
        Of one row.
    key : array [B, H_kv, M, D]
        Its keys.
    components : array [H_kv, D, D]
        Of `key_components`.
    rank : int
        r, how many of them.
    scale : float, optional
        D ** -0.5 by default.

    Returns
    -------
    array [B, H, M]
        float64.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit.

    Examples
    --------
    >>> query, key = np.array([[[3.0, 1.0]]]), np.array([[[[1.0, 9.0], [2.0, 0.0]]]])
    >>> low_rank_scores(query, key, np.eye(2)[None], rank=1, scale=1.0)
    array([[[3., 6.]]])
    """
    query, key = row_and_keys(query, key)
    batch, kv_heads, _, size = key.shape
    components = numbers("components", components, "[H_kv, D, D]").astype(np.float64)
    if components.shape != (kv_heads, size, size):
        raise ValueError(
            f"components must be [H_kv, D, D] of key = {(kv_heads, size, size)}, got shape "
            f"{components.shape}"
        )
    rank = counted("rank", rank, 1, size)
    some = components[:, :, :rank]
    grouped = query.reshape(batch, kv_heads, -1, size)
    factor = size**-0.5 if scale is None else real("scale", scale)
    scores = (grouped @ some) @ (key @ some).swapaxes(-1, -2) * factor
    return np.asarray(scores.reshape(batch, query.shape[1], -1))
