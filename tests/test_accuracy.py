"""Rounding: at most twice what NumPy's float32 makes of the same formula, against float64."""

import numpy as np
import pytest
from reattend import _core, attention

# Where v2 is asked for on a newer CPU, NumPy keeps its wide vectors and fused sums.
MOST = 3 if _core.isa() == "x86-64-v2" else 2


def eager(query, key, value, dtype):
    """The whole matrix, in one type; causal."""
    query, key, value = (x.astype(dtype) for x in (query, key, value))
    scores = (query * dtype(query.shape[-1] ** -0.5)) @ key.swapaxes(-1, -2)
    rows, keys = scores.shape[-2:]
    seen = np.arange(keys) <= np.arange(keys - rows, keys)[:, None]
    scores = np.where(seen, scores, dtype(-np.inf))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)) @ value


# Head sizes of models, latent attention's (576 and 512), and beyond; steps, few rows, whole tiles.
@pytest.mark.parametrize(
    "dims", [(64, 64), (128, 128), (256, 256), (576, 512), (1024, 1024)], ids=str
)
@pytest.mark.parametrize(
    "lengths", [(1, 700), (2, 256), (9, 256), (9, 2048), (64, 256), (300, 300)], ids=str
)
def test_rounding_is_at_most_twice_numpys(rng, dims, lengths):
    (dim, value_dim), (rows, keys) = dims, lengths
    query = rng.standard_normal((3, 4, rows, dim), np.float32)
    key = rng.standard_normal((3, 1, keys, dim), np.float32)
    value = rng.standard_normal((3, 1, keys, value_dim), np.float32)
    exact = eager(query, key, value, np.float64)
    ours = attention(query, key, value, causal=True) - exact
    theirs = eager(query, key, value, np.float32) - exact
    assert np.sqrt(np.mean(ours**2)) <= MOST * np.sqrt(np.mean(theirs**2))
    assert np.abs(ours).max() <= MOST * np.abs(theirs).max()
