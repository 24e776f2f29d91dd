"""A row's query and its keys, as several selections are given them."""

from __future__ import annotations

import numpy as np

from reattend.checks import numbers
from reattend.policy import Array


def row_and_keys(query: Array, key: Array) -> tuple[Array, Array]:
    """Give query [B, H, D] and key [B, H_kv, M, D] in float64, once they fit each other."""
    query = numbers("query", query, "[B, H, D]").astype(np.float64)
    key = numbers("key", key, "[B, H_kv, M, D]").astype(np.float64)
    batch, kv_heads, num_keys, size = key.shape
    if query.shape[::2] != (batch, size) or not kv_heads or query.shape[1] % kv_heads:
        raise ValueError(
            f"query must be [B, H, D] with B, D of key = {(batch, size)} and a multiple of its "
            f"{kv_heads} heads, got shape {query.shape}"
        )
    if not num_keys:
        raise ValueError(f"key must hold at least one key, got shape {key.shape}")
    return query, key
