"""Where attention goes, by part of the prompt: image, text, roles, documents."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from reattend.attention import segment_pass
from reattend.border.arguments import array_or_stored
from reattend.checks import integers, numbers
from reattend.policy import Array


def mass_by_segment(
    query: Array, key: Array, segments: Array, *, num_segments: int | None = None, **mask: Any
) -> Array:
    """Compute each row's attention on segments of keys: image, system prompt, roles of a chat.

    On the Loss of Context-awareness in General Instruction Fine-tuning (2024),
    reads it by chat role.

    Parameters
    ----------
    query, key : array [B, H, N, D] and [B, H_kv, M, D]
        As for `reattend.attention`.
    segments : uint8 array [B, 1 or H, M' <= M]
        Label of each key, below 16; 0 is the rest, and so are keys beyond M'.
    num_segments : int, optional
        G; the largest label + 1 by default.
    **mask
        ``causal`` (True by default), ``key_mask``, ``scale`` and what else masks there.

    Returns
    -------
    array [B, H, N, G]

    Examples
    --------
    >>> query, key = np.zeros((2, 1, 1, 4, 8), np.float32)
    >>> mass_by_segment(query, key, np.array([[[0, 1, 1, 0]]], np.uint8))[0, 0, -1].tolist()
    [0.5, 0.5]
    """
    mask = {"causal": True, **mask}
    key = array_or_stored("key", key, "[B, H_kv, M, D]")
    values = np.zeros((*key.shape[:3], 1), np.float32)  # nobody reads the output
    return segment_pass(
        query, key, values, segments=segments, num_segments=num_segments, **mask
    ).masses


def mass_by_document(weights: Array, documents: Array) -> Array:
    """Compute the attention on each document, in the mean over rows, heads and layers.

    Attention Sorting Combats Recency Bias In Long Context Language Models (2023),
    arXiv 2310.01427. Any number of documents.

    Parameters
    ----------
    weights : array [..., M]
        Of the last row of the prompt, see `attention_rows`.
    documents : array of int [M]
        Number of each key's document, from 0; -1 for keys of none.

    Returns
    -------
    array [number of documents]

    Raises
    ------
    ValueError
        If shapes do not fit, or a document has a number beyond all keys: there can be no more
        documents than those.

    Examples
    --------
    >>> mass_by_document(np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([-1, 0, 1, 1]))
    array([0.2, 0.7])
    """
    weights = numbers("weights", weights, "[..., M]").astype(np.float64, copy=False)
    documents = integers("documents", documents, "[M]")
    if documents.shape != weights.shape[-1:]:
        raise ValueError(
            f"documents must be integers [M] of weights = {weights.shape[-1:]}, got shape "
            f"{documents.shape}"
        )
    if documents.size and documents.max() >= documents.size:
        raise ValueError(
            f"documents must be below the number of keys, {documents.size}, got {documents.max()}"
        )
    mean = weights.reshape(prod(weights.shape[:-1]), weights.shape[-1]).mean(0)
    some = documents >= 0
    return np.bincount(documents[some], weights=mean[some])


def sorting_order(masses: Array) -> Array:
    """Give the order in which to put documents, the one with most attention last.

    Attention Sorting Combats Recency Bias In Long Context Language Models (2023),
    arXiv 2310.01427: put them so, read the prompt again, and repeat.

    Parameters
    ----------
    masses : array [number of documents]
        Of `mass_by_document`.

    Returns
    -------
    array of int
        Documents of equal mass keep their order.

    Examples
    --------
    >>> sorting_order(np.array([0.3, 0.1, 0.2]))
    array([1, 2, 0])
    """
    return np.argsort(numbers("masses", masses, "[number of documents]"), kind="stable")


def slot_order(profile: Array, relevance: Array) -> Array:
    """Give which document to put into each slot: the most relevant where attention is most.

    Attention Basin: Why Contextual Position Matters in Large Language Models (2025).

    Parameters
    ----------
    profile : array [S]
        Mean attention on each slot, of `mass_by_document` over prompts with shuffled documents.
    relevance : array [S]
        Of each document.

    Returns
    -------
    array of int [S]
        The document of each slot.

    Raises
    ------
    ValueError
        If there are not as many slots as documents.

    Examples
    --------
    >>> slot_order(np.array([0.5, 0.1, 0.4]), relevance=np.array([1.0, 2.0, 3.0]))
    array([2, 0, 1])
    """
    # As float64: the negative of an unsigned integer is none.
    profile = numbers("profile", profile, "[S]").astype(np.float64)
    relevance = numbers("relevance", relevance, "[S]").astype(np.float64)
    if profile.shape != relevance.shape:
        raise ValueError(
            f"relevance must have a number for each slot of profile, {profile.shape}, got "
            f"{relevance.shape}"
        )
    order = np.empty(len(profile), dtype=np.intp)
    order[np.argsort(-profile, kind="stable")] = np.argsort(-relevance, kind="stable")
    return order
