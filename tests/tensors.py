"""Arrays, masks and labels that the kernel's tests draw from, and how close results must be."""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from reattend import AttentionResult, attention, reference

# Relative to 1 + |expected|: float32 sums of up to 700 numbers near 1, whose scores (up to 30)
# carry some roundings of their own. Random cases at v2, v3 and v4 stayed below 2e-6.
TOLERANCE = 5e-6
STATISTICS = ("score_sums", "abs_score_sums", "entropies", "largest", "largest_keys", "scores")
EVERYTHING = ("masses", "logsumexp", "column_sums", "factors", "changed")


class Sizes(NamedTuple):
    query_len: int
    key_len: int
    batch: int = 2
    heads: int = 4
    kv_heads: int = 2
    dim: int = 16
    value_dim: int = 16


def tensors(rng, sizes):
    """Give query, key and value of a normal distribution."""
    batch, kv_heads, key_len = sizes.batch, sizes.kv_heads, sizes.key_len
    query = rng.standard_normal((batch, sizes.heads, sizes.query_len, sizes.dim), np.float32)
    key = rng.standard_normal((batch, kv_heads, key_len, sizes.dim), np.float32)
    value = rng.standard_normal((batch, kv_heads, key_len, sizes.value_dim), np.float32)
    return query, key, value


def close(actual, expected, name="result", tolerance=TOLERANCE):
    """Assert equality within the tolerance; NaN equals NaN, infinities equal themselves.

    The tolerance may be an array, for what is uncertain by row.
    """
    assert actual.shape == expected.shape, name
    if actual.dtype == bool:
        return np.testing.assert_array_equal(actual, expected, name)
    with np.errstate(invalid="ignore"):
        error = np.abs(actual - expected) / (1 + np.abs(expected))
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    error = np.where(same, 0, error)
    beyond = np.max(error / tolerance, initial=0)
    assert beyond <= 1, f"{name} differs by {np.max(error):.3g}, {beyond:.3g} times what is allowed"


def agree(arrays, returns=EVERYTHING, num_threads=None, numbers=None, tolerance=TOLERANCE, **how):
    """Assert that the kernel and the reference give the same; give what the kernel gave.

    `numbers` are what the arrays hold, where these are stored in another way.
    """
    found = attention(*arrays, returns=returns, num_threads=num_threads, **how)
    expected = reference.attention(*(numbers or arrays), returns=returns, **how)
    for name, actual in found._asdict().items():
        if name == "changed" and name in returns:  # to be held against the kernel's own factors
            assert actual.dtype == bool
            assert actual.shape == expected.changed.shape
            if found.factors is not None:
                np.testing.assert_array_equal(actual, (found.factors != 1).any(-1))
        elif name == "out" or name in returns:
            assert actual.dtype == np.float32
            close(actual, getattr(expected, name), name, tolerance)
        else:
            assert actual is None
    return found


def agree_on_statistics(arrays, numbers=None, tolerance=5e-6, num_threads=None, **how):
    """Assert that the pass and the reference tell the same; give what the pass told."""
    found = attention(*arrays, returns=STATISTICS, num_threads=num_threads, **how)
    expected = reference.attention(*(numbers or arrays), returns=STATISTICS, **how)
    sizes = 1 + expected.abs_score_sums
    for name in ("score_sums", "abs_score_sums"):
        found = found._replace(**{name: getattr(found, name) / sizes})
        expected = expected._replace(**{name: getattr(expected, name) / sizes})
    for name in ("out", "score_sums", "abs_score_sums", "entropies", "largest", "scores"):
        close(getattr(found, name), getattr(expected, name), name, tolerance)
    ours, theirs = found.largest_keys, expected.largest_keys
    assert ours.dtype == np.int64
    np.testing.assert_array_equal(ours < 0, theirs < 0)
    if ours.size and expected.scores.shape[-1]:  # equal but for roundings of the scores
        of_ours, of_theirs = (
            np.where(keys < 0, 0, np.take_along_axis(expected.scores, np.maximum(keys, 0), -1))
            for keys in (ours, theirs)
        )
        close(of_ours, of_theirs, "largest_keys", tolerance)
    return found


def same_bytes(actual, expected):
    """Assert that two results are equal bit by bit (NaN equals NaN)."""
    pairs = {"out": (actual, expected)}
    if isinstance(actual, AttentionResult):
        pairs = {name: (getattr(actual, name), getattr(expected, name)) for name in actual._fields}
    for name, (ours, theirs) in pairs.items():
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def _padding(keep):
    return lambda rng, sizes: {"key_mask": np.broadcast_to(keep(rng, sizes), _keys(sizes)).copy()}


def _keys(sizes):
    return sizes.batch, sizes.key_len


def _bias(*kept, hide=0.0):
    def make(rng, sizes):
        full = (sizes.batch, sizes.heads, sizes.query_len, sizes.key_len)
        shape = tuple(n if axis in kept else 1 for axis, n in enumerate(full))
        bias = rng.standard_normal(shape, np.float32)
        return {"bias": np.where(rng.random(shape) < hide, -np.inf, bias).astype(np.float32)}

    return make


def _starts(sizes):
    return np.linspace(0, sizes.key_len // 2, sizes.batch).astype(int)[:, None] + 1


MASKS = {  # name -> what makes the mask arguments
    "full": lambda rng, sizes: {},
    "causal": lambda rng, sizes: {"causal": True},
    "scale": lambda rng, sizes: {"scale": -0.3},
    "scale-0": lambda rng, sizes: {"scale": 0.0},
    "left-padding": _padding(lambda rng, s: np.arange(s.key_len) >= _starts(s)),
    "right-padding": _padding(lambda rng, s: np.arange(s.key_len) < s.key_len - _starts(s)),
    "holes": _padding(lambda rng, s: rng.random(_keys(s)) < 0.6),
    "all-padding": _padding(lambda rng, s: np.arange(s.batch)[:, None] > 0),
    "window": lambda rng, sizes: {"window": max(1, sizes.key_len // 3)},
    "window-1": lambda rng, sizes: {"window": 1},
    "window-beyond": lambda rng, sizes: {"window": 10**12},
    "softcap": lambda rng, sizes: {"softcap": 1.5},
    "bias": _bias(0, 1, 2, 3),
    "bias-batch": _bias(0),
    "bias-heads": _bias(1, 3),
    "bias-rows": _bias(2),
    "bias-keys": _bias(3),
    "bias-hides": _bias(0, 2, 3, hide=0.3),
    "bias-without-leading-axes": lambda rng, s: {"bias": rng.standard_normal(s.key_len, "f4")},
    "bias-number": lambda rng, sizes: {"bias": np.float32(3)},
}


def mask_of(rng, sizes, names):
    """Give the arguments of several masks, named with + between them."""
    return {
        name: mask for part in names.split("+") for name, mask in MASKS[part](rng, sizes).items()
    }


def _image(labels, rng):
    length = labels.shape[-1]
    labels[..., length // 5 : length // 2] = 2
    return labels


def _sinks(labels, rng):
    _image(labels, rng)
    labels[rng.random(labels.shape) < 0.03] = 3
    labels[..., :1] = 1
    return labels


# name -> (heads have labels of their own, share of the keys that has labels, what fills them)
LABELS = {
    "none": (False, 1, lambda labels, rng: labels),
    "image": (False, 1, _image),
    "image-and-sinks": (False, 1, _sinks),
    "random": (False, 1, lambda labels, rng: rng.integers(0, 4, labels.shape, np.uint8)),
    "one-for-all": (False, 1, lambda labels, rng: labels + np.uint8(3)),
    "per-head": (True, 1, _sinks),
    "shorter": (False, 0.6, _sinks),
    "per-head-and-shorter": (True, 0.6, lambda labels, rng: rng.integers(0, 4, labels.shape, "u1")),
    "empty": (False, 0, lambda labels, rng: labels),
}


def labels_of(rng, sizes, name):
    """Give uint8 labels below 4."""
    per_head, share, fill = LABELS[name]
    heads = sizes.heads if per_head else 1
    return fill(np.zeros((sizes.batch, heads, int(sizes.key_len * share)), np.uint8), rng)


def _swapped(array, first, second):
    return np.ascontiguousarray(array.swapaxes(first, second)).swapaxes(first, second)


def _steps(array):
    wide = np.zeros([2 * n for n in array.shape], array.dtype)
    view = wide[(slice(None, None, 2),) * array.ndim]
    view[...] = array
    return view


def _unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _field(array):
    records = np.zeros(array.shape, np.dtype([("other", "u1"), ("this", array.dtype)]))
    records["this"] = array
    return records["this"]


def _read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


STRIDES = {  # name -> the same numbers, laid out in another way
    "rows-outside-heads": lambda x: _swapped(x, 1, min(2, x.ndim - 1)),
    "columns-outside-rows": lambda x: _swapped(x, -1, -2),
    "fortran": np.asfortranarray,
    "rows-backwards": lambda x: np.ascontiguousarray(x[..., ::-1, :])[..., ::-1, :],
    "heads-backwards": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "all-backwards": lambda x: np.flip(np.ascontiguousarray(np.flip(x))),
    "every-other": _steps,
    "unaligned": _unaligned,
    "field-of-records": _field,
    "read-only": _read_only,
}


def overlapping_rows(rng, batch, heads, length, dim):
    """Give [B, H, M, D] whose rows overlap: windows over a signal."""
    signal = rng.standard_normal((batch, heads, length + dim - 1), np.float32)
    return sliding_window_view(signal, dim, axis=-1)
