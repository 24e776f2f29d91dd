"""Which keys a cache keeps: scores of published methods, and the choice by score."""

from __future__ import annotations

import numpy as np

from reattend.checks import count as counted
from reattend.checks import integer, numbers, real
from reattend.policy import Array

MOST_POOLED = 2**16 - 1  # neighbours, one sum each


def observed_scores(column_sums: Array, num_kv_heads: int) -> Array:
    """Score keys by the mean attention they received from the rows behind them, as H2O does.

    H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models
    (NeurIPS 2023), arXiv 2306.14048.

    Parameters
    ----------
    column_sums : array [B, H, M]
        Of causal attention over M rows.
    num_kv_heads : int
        H_kv; the heads that share a key head are averaged.

    Returns
    -------
    array [B, H_kv, M]

    Examples
    --------
    >>> observed_scores(np.array([[[2.0, 1.0], [4.0, 1.0]]]), num_kv_heads=1).tolist()
    [[[1.5, 1.0]]]
    """
    column_sums = numbers("column_sums", column_sums, "[B, H, M]")
    num_keys = column_sums.shape[-1]
    return _grouped(column_sums / (num_keys - np.arange(num_keys)), num_kv_heads)


def window_scores(weights: Array, num_kv_heads: int, *, pool: int = 5) -> Array:
    """Score keys by what the last rows see, smoothed over neighbours, as SnapKV does.

    The keys of these rows themselves are kept: they score infinity. SnapKV: LLM Knows What You are
    Looking for Before Generation (NeurIPS 2024), arXiv 2404.14469.

    Parameters
    ----------
    weights : array [B, H, W, M]
        Of the last W rows, see `reattend.measures.attention_rows`; the paper has 64 or fewer.
    num_kv_heads : int
        H_kv.
    pool : int, optional
        How many neighbours are averaged, odd; keys beyond the ends count as 0.

    Returns
    -------
    array [B, H_kv, M]

    Raises
    ------
    ValueError
        If pool is even or below 1, or shapes do not fit.

    Examples
    --------
    >>> weights = np.array([[[[0.6, 0.0, 0.0, 0.4]]]])
    >>> window_scores(weights, 1, pool=3).round(2).tolist()
    [[[0.2, 0.2, 0.0, inf]]]
    """
    weights, pool = numbers("weights", weights, "[B, H, W, M]"), integer("pool", pool)
    if not 1 <= pool <= MOST_POOLED or pool % 2 == 0:
        raise ValueError(f"pool must be odd and from 1 to {MOST_POOLED}, got {pool}")
    rows = weights.shape[2]
    if rows > weights.shape[3]:
        raise ValueError(f"weights must be [B, H, W, M] with W <= M, got shape {weights.shape}")
    before = weights[..., : weights.shape[-1] - rows].mean(2)  # [B, H, M - W]
    padded = np.pad(before, ((0, 0), (0, 0), (pool // 2, pool // 2)))
    size = before.shape[-1]
    smooth = sum(padded[..., i : i + size] for i in range(pool)) / pool
    scores = _grouped(np.asarray(smooth), num_kv_heads)
    return np.pad(scores, ((0, 0), (0, 0), (0, rows)), constant_values=np.inf)


def last_row_scores(weights: Array, num_kv_heads: int) -> Array:
    """Score keys by what the last row sees in the mean over all heads, as TOVA does.

    The last key is kept: it scores infinity. Transformers are Multi-State RNNs (EMNLP 2024),
    arXiv 2401.06104.

    Parameters
    ----------
    weights : array [B, H, 1, M]
        Of the last row.
    num_kv_heads : int
        H_kv; all get the same scores.

    Returns
    -------
    array [B, H_kv, M]

    Raises
    ------
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> last_row_scores(np.array([[[[0.2, 0.8]], [[0.4, 0.6]]]]), 2).round(1).tolist()
    [[[0.3, inf], [0.3, inf]]]
    """
    weights = numbers("weights", weights, "[B, H, 1, M]")
    if 0 in weights.shape[1:]:
        raise ValueError(f"weights must have heads, a row and keys, got shape {weights.shape}")
    num_kv_heads = counted("num_kv_heads", num_kv_heads, 1, weights.shape[1])
    scores = weights[:, :, -1].mean(1, keepdims=True)
    scores = np.array(np.broadcast_to(scores, (len(scores), num_kv_heads, scores.shape[-1])))
    scores[..., -1] = np.inf
    return scores


def forgetting_scores(weights: Array, num_kv_heads: int, *, forget: float = 0.95) -> Array:
    r"""Score keys by the attention they received, older rows counting less, as A2SF does.

    .. code-block:: text

        S_j = sum_i f^(N - 1 - i) a_ij

    A2SF: Accumulative Attention Scoring with Forgetting Factor for Token Pruning in Transformer
    Decoder (2024), arXiv 2407.20485.

    Parameters
    ----------
    weights : array [B, H, N, M]
        Of all rows.
    num_kv_heads : int
        H_kv.
    forget : float, optional
        f, from 0 to 1.

    Returns
    -------
    array [B, H_kv, M]

    Raises
    ------
    ValueError
        If forget is out of its range.

    Examples
    --------
    >>> forgetting_scores(np.array([[[[1.0, 0.0], [0.5, 0.5]]]]), 1, forget=0.5).tolist()
    [[[1.0, 0.5]]]
    """
    weights, forget = numbers("weights", weights, "[B, H, N, M]"), real("forget", forget)
    if not 0 <= forget <= 1:
        raise ValueError(f"forget must be from 0 to 1, got {forget!r}")
    power = forget ** np.arange(weights.shape[2])[::-1]
    return _grouped(np.einsum("n,bhnm->bhm", power, weights), num_kv_heads)


def highest(scores: Array, count: int) -> Array:
    """Give the keys of the highest scores, in the order in which they lie.

    Parameters
    ----------
    scores : array [B, H_kv, M]
        Of one of the functions here.
    count : int
        How many keys each head keeps; of equal scores the later ones.

    Returns
    -------
    array of int [B, H_kv, count]
        For `KVCache.keep`.

    Raises
    ------
    ValueError
        If there are fewer keys.

    Examples
    --------
    >>> highest(np.array([[[0.5, 0.1, 0.9]]]), 2).tolist()
    [[[0, 2]]]
    """
    scores, count = numbers("scores", scores, "[..., M]"), integer("count", count)
    num_keys = scores.shape[-1]
    if not 0 <= count <= num_keys:
        raise ValueError(f"count must be from 0 to {num_keys}, the keys of scores, got {count}")
    order = np.argsort(scores, axis=-1, kind="stable")[..., num_keys - count :]
    return np.sort(order, axis=-1)


def streaming(num_keys: int, *, sinks: int = 4, recent: int = 256) -> Array:
    """Give the keys that a streaming head keeps: the first ones and the latest.

    DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads
    (ICLR 2025), arXiv 2410.10819, with 64 sinks and 256 recent keys.

    Parameters
    ----------
    num_keys : int
        M.
    sinks, recent : int, optional
        How many of either.

    Returns
    -------
    array of int [at most sinks + recent]

    Raises
    ------
    TypeError, ValueError
        If a number is no integer from 0.

    Examples
    --------
    >>> streaming(10, sinks=2, recent=3).tolist()
    [0, 1, 7, 8, 9]
    """
    num_keys = counted("num_keys", num_keys, 0)
    sinks, recent = counted("sinks", sinks, 0), counted("recent", recent, 0)
    place = np.arange(num_keys)
    return place[(place < sinks) | (place >= num_keys - recent)]


def _grouped(scores: Array, num_kv_heads: int) -> Array:
    """Average the heads that share a key head."""
    batch, heads, num_keys = scores.shape
    num_kv_heads = integer("num_kv_heads", num_kv_heads)
    if num_kv_heads < 1 or heads % num_kv_heads:
        raise ValueError(f"num_kv_heads must divide {heads}, the scored heads, got {num_kv_heads}")
    return np.asarray(scores.reshape(batch, num_kv_heads, heads // num_kv_heads, num_keys).mean(2))
