"""Massive activations, sink scores, and readings that change nothing."""

import numpy as np
import pytest
from reattend.measures import head_divergence, sink_rate, total_divergence
from reattend.sinks import (
    column_sinks,
    massive_activations,
    sink_dims,
    sink_score,
    sink_tokens,
    update_column_sinks,
)


@pytest.fixture
def states(rng):
    states = rng.standard_normal((2, 6, 64)).astype(np.float32)
    states[:, 0, 9] = 4000
    states[1, 4, 30] = -4000
    return states


def test_massive_activations_are_above_both_limits(states):
    found = massive_activations(states)
    assert np.argwhere(found).tolist() == [[0, 0, 9], [1, 0, 9], [1, 4, 30]]
    assert not massive_activations(states / 100).any()  # 1000 times the median, but small
    assert not massive_activations(states + 50).any()  # large, but so are the others


def test_padding_has_no_massive_activations(states):
    padded = np.concatenate([np.full((2, 50, 64), 1e6, np.float32), states], axis=1)
    key_mask = np.arange(56) >= np.array([[50], [50]])
    found = massive_activations(padded, key_mask)
    np.testing.assert_array_equal(found[:, 50:], massive_activations(states))
    assert not found[:, :50].any()
    np.testing.assert_array_equal(sink_dims(padded, key_mask), sink_dims(states))


def test_the_median_is_of_all_tokens(states):
    """The first token's other channels are large as well in real models, some 50 in SmolLM2."""
    states[:, 0] = np.where(np.arange(64) == 9, 22000, 30 * states[:, 0])
    assert np.argwhere(sink_dims(states)).tolist() == [[0, 9], [1, 9]]


def test_items_do_not_share_a_median(states):
    states[1] *= 1e4
    np.testing.assert_array_equal(massive_activations(states)[:1], massive_activations(states[:1]))


def test_sink_dims_are_those_of_the_first_token(states):
    assert np.argwhere(sink_dims(states)).tolist() == [[0, 9], [1, 9]]
    key_mask = np.arange(6) >= np.array([[0], [4]])
    assert np.argwhere(sink_dims(states, key_mask)).tolist() == [[0, 9], [1, 30]]


def test_sink_score_is_the_formula(states):
    x = states.astype(np.float64)
    phi = np.abs(x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6))
    expected = phi[..., [9, 30]].max(-1)
    np.testing.assert_allclose(sink_score(states, (9, 30)), expected, rtol=1e-5)
    mask = np.zeros(64, bool)
    mask[[9, 30]] = True
    np.testing.assert_allclose(sink_score(states, mask), expected, rtol=1e-5)
    per_item = np.zeros((2, 64), bool)
    per_item[0, 9] = per_item[1, 30] = True
    own = np.stack([phi[0, :, 9], phi[1, :, 30]])
    np.testing.assert_allclose(sink_score(states, per_item), own, rtol=1e-5)


def test_sink_score_is_at_most_the_root_of_the_size(states):
    assert sink_score(states, range(64)).max() <= 8


def test_sink_score_without_dimensions_is_zero(states):
    assert not sink_score(states, ()).any()
    assert not sink_score(states, np.zeros((2, 64), bool)).any()


@pytest.mark.parametrize("size", [64, 1024])
def test_sink_tokens_are_those_above_tau(size, rng):
    states = rng.standard_normal((3, 200, size)).astype(np.float32)
    states[..., [2, size - 1]] *= rng.choice([1, 10, 1000], (3, 200, 1))
    states[..., 256:] *= 0.01  # the first channels tell all, or nothing
    states[1] = states[1, :, ::-1]
    per_item = rng.random((3, size)) < 0.05
    for dims in ((2, size - 1), per_item, ()):
        phi = sink_score(states, dims)
        for tau in (0.5, 2, 5, size**0.5 * 0.9):
            np.testing.assert_array_equal(sink_tokens(states, dims, tau), phi > tau)


def test_sink_score_in_half_precision_does_not_overflow(states):
    expected = sink_score(states, (9,))
    np.testing.assert_allclose(sink_score(states.astype(np.float16), (9,)), expected, rtol=1e-2)


@pytest.mark.parametrize("dims", [(64,), (-1,), np.ones(3, bool), np.ones((3, 64), bool)])
def test_sink_dimensions_are_checked(states, dims):
    with pytest.raises(ValueError, match="sink_dims must"):
        sink_score(states, dims)
    with pytest.raises(ValueError, match="sink_dims must"):
        sink_tokens(states, dims, tau=2)


def test_sink_dimensions_are_integers(states):
    with pytest.raises(TypeError, match="sink_dims must"):
        sink_score(states, (1.5,))


def as_records(states):
    """Lay tokens out a byte apart, so that they are not whole numbers from one another."""
    kind = np.dtype([("state", np.float32, states.shape[-1:]), ("mark", np.uint8)])
    records = np.zeros(states.shape[:-1], kind)
    records["state"] = states
    return records["state"]


def test_sink_tokens_of_any_layout_and_type(states):
    expected = sink_score(states, (9, 30)) > 1.5
    assert 0 < expected.sum() < expected.size
    for laid in (
        states.swapaxes(0, 1).copy().swapaxes(0, 1), np.repeat(states, 2, -1)[..., ::2],
        states[:, ::-1].copy()[:, ::-1], states.astype(np.float64), states.astype(np.float16),
        as_records(states),
    ):  # fmt: skip
        np.testing.assert_array_equal(sink_tokens(laid, (9, 30), 1.5), expected)
    assert sink_tokens(states[:, :0], (9,), 1.5).shape == (2, 0)


def test_column_sinks_are_strict():
    assert column_sinks(np.array([0.15, 0.1500001]), 0.15).tolist() == [False, True]


def in_numpy(sums, counts, first, theta, heads, before):
    """What `update_column_sinks` must give."""
    batch, num_heads, length = sums.shape
    chosen = np.arange(num_heads) if heads is None else np.flatnonzero(heads)
    received = np.concatenate([sums[:, chosen], counts[:, None].astype(np.float32)], axis=1)
    if before is not None:
        received[..., : before.shape[2]] += before
    means = received[:, :-1] / np.maximum(received[:, -1:], 1)
    labels = np.zeros((batch, num_heads, length), np.uint8)
    labels[:, chosen] = column_sinks(means, theta)
    labels[np.arange(batch), :, np.minimum(first, length - 1)] = 0
    return received, labels[..., : max(np.flatnonzero(labels.any((0, 1))), default=-1) + 1]


@pytest.mark.parametrize("length", [1, 5, 700])
@pytest.mark.parametrize("heads", [None, (True, False, True, False), (False,) * 4])
@pytest.mark.parametrize("theta", [0.0, 0.3, 0.999])
def test_columns_are_followed_as_numpy_follows_them(rng, length, heads, theta):
    heads = None if heads is None else np.array(heads)
    first, received, labels = np.array([0, 3]), None, None
    for step in range(4):
        keys = length + step
        sums = rng.random((2, 4, keys), np.float32)
        sums[:, :, -1] = np.float32(theta)  # a new key that is no sink: the comparison is strict
        counts = np.ones((2, keys), np.int64) if step else rng.integers(0, 3, (2, keys))
        if step == 2:
            counts = np.broadcast_to(counts[:, :1], counts.shape)
        expected = in_numpy(sums, counts, first, theta, heads, received)
        known, given = labels, (sums.copy(), counts.copy())
        received, labels = update_column_sinks(sums, counts, first, theta, heads, received, known)
        np.testing.assert_array_equal(received, expected[0])
        np.testing.assert_array_equal(labels, expected[1])
        for x, was in zip((sums, counts), given, strict=True):
            np.testing.assert_array_equal(x, was)
        again = update_column_sinks(sums, counts, first, theta, heads, None, labels)[1]
        same = np.array_equal(again, labels)
        assert (again is labels) == same


def test_sinks_that_stay_are_the_same_array():
    sums, counts = np.full((1, 2, 6), 0.5, np.float32), np.ones((1, 6), np.int64)
    how = sums, counts, np.zeros(1, int), 0.2
    received, labels = update_column_sinks(*how)
    assert labels.tolist() == [[[0, 1, 1, 1, 1, 1]] * 2]
    assert update_column_sinks(*how, before=received, known=labels)[1] is labels
    other = labels.copy()
    other[0, 1, 3] = 0
    for known in (other, labels[..., :5].copy(), labels[:, :1].copy(), labels[..., :0]):
        assert update_column_sinks(*how, known=known)[1] is not known


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("column_sums", np.ones((2, 5), np.float32)),
        ("row_counts", np.ones((1, 4), np.int64)),
        ("row_counts", np.ones(5, np.int64)),
        ("first_key", np.zeros(2, int)),
        ("heads", np.ones(3, bool)),
        ("before", np.ones((1, 2, 5), np.float32)),
        ("before", np.ones((1, 3, 6), np.float32)),
        ("before", np.ones((2, 3, 5), np.float32)),
    ],
)
def test_columns_that_do_not_fit_are_named(name, value):
    how = {
        "column_sums": np.ones((1, 2, 5), np.float32), "row_counts": np.ones((1, 5), np.int64),
        "first_key": np.zeros(1, int), "theta": 0.2,
    }  # fmt: skip
    update_column_sinks(**how)
    with pytest.raises(ValueError, match=f"{name} must be"):
        update_column_sinks(**{**how, name: value})


def test_columns_of_other_types_and_strides_are_converted(rng):
    sums = rng.random((2, 4, 9))
    counts, first = rng.integers(0, 3, (2, 9)), np.array([0, 1])
    expected = update_column_sinks(sums.astype(np.float32), counts, first, 0.4)
    for laid in (sums, np.repeat(sums, 2, -1)[..., ::2], sums[:, ::-1].copy()[:, ::-1]):
        found = update_column_sinks(laid, counts.astype(np.int32), first.astype(np.int32), 0.4)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_columns_without_a_number_are_no_sinks():
    sums = np.array([[[1, np.nan, np.inf, 0.5]]], np.float32)
    received, labels = update_column_sinks(sums, np.ones((1, 4), np.int64), np.zeros(1, int), 0.4)
    assert labels.tolist() == [[[0, 0, 1, 1]]]
    np.testing.assert_array_equal(received[:, :1], sums)


def test_divergence_of_equal_branches_chooses_nobody(rng):
    outputs = rng.standard_normal((3, 8, 4))
    found = head_divergence(outputs, outputs)
    assert not found.chosen.any()
    assert not found.divergence.any()


def test_divergence_of_a_single_head(rng):
    found = head_divergence(rng.standard_normal((1, 4)), rng.standard_normal((1, 4)))
    assert np.isfinite(found.limits).all()
    assert not found.chosen.any()


def test_divergence_needs_equal_shapes():
    with pytest.raises(ValueError, match="text_outputs must have the shape of head_outputs"):
        head_divergence(np.zeros((2, 4)), np.zeros((3, 4)))


def test_total_divergence_counts_some_heads():
    with pytest.raises(ValueError, match="k must be from 1 to 3, the heads of divergence, got 4"):
        total_divergence(np.zeros((2, 3)), 4)


def test_sink_rate_is_a_share_of_heads():
    means = np.array([[[0.9, 0.1], [0.3, 0.7]]])
    assert sink_rate(means).tolist() == [0.5]
    assert sink_rate(means, key=1, threshold=0.05).tolist() == [1.0]
