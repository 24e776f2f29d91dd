"""The full matrix of a sample generation, for formulas to be written on."""

import numpy as np


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
