"""The full matrix of a sample generation, for formulas to be written on."""

import numpy as np
from reattend.testing import run
from reattend.testing.laws import TOLERANCE


def scores_of(inputs, layer, item):
    """Causal scores of one item [H, N, M], in float64; -inf where a row sees nothing."""
    query, key = inputs.query[layer, item].astype(float), inputs.key[layer, item].astype(float)
    scores = query @ key.repeat(len(query) // len(key), 0).swapaxes(-1, -2)
    scores /= np.sqrt(query.shape[-1])
    rows = np.arange(scores.shape[-1])
    scores[:, rows > rows[:, None]] = -np.inf
    return scores


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def expected(inputs, edit):
    """Attention [L, B, H, N, Dv] after `edit(weights, layer, item)`, and how many rows differ."""
    out, changed = np.empty((*inputs.query.shape[:-1], inputs.value.shape[-1])), 0
    for layer in range(len(out)):
        for item in range(inputs.batch):
            plain = softmax(scores_of(inputs, layer, item))
            weights = plain.copy()
            edit(weights, layer, item)
            changed += int((np.abs(weights - plain) > 1e-12).any(-1).sum())
            value = inputs.value[layer, item].astype(float)
            out[layer, item] = weights @ value.repeat(len(weights) // len(value), 0)
    return out, changed


def holds(inputs, method, edit):
    """Compare with `edit(weights [H, N, M], layer, item)`; give how many rows it changed."""
    right, changed = expected(inputs, edit)
    assert np.abs(run(method, inputs) - right).max() < TOLERANCE
    return changed


def holds_on_scores(inputs, method, edit):
    """Compare with `edit(scores [H, N, M], layer, item)`; give how many rows it changed."""

    def on_weights(weights, layer, item):
        scores = scores_of(inputs, layer, item)
        edit(scores, layer, item)
        weights[...] = softmax(scores)

    return holds(inputs, method, on_weights)
