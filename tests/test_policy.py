"""Policies: Reweight in NumPy and in the pass, its properties, and the open road for callables."""

import pickle

import numpy as np
import pytest
from cases import POLICIES
from hypothesis import given, settings
from hypothesis import strategies as st
from reattend import Reweight, Share, attention, combine, reference, segment_pass
from reattend.policy import SMALLEST_MASS

EXACT = 1e-12  # float64 sums of at most 16 numbers below 16


SHARES = st.floats(0, 1)


@st.composite
def masses_and_policies(draw, weights=SHARES, to=None):
    count = draw(st.integers(1, 16))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    concentration = draw(st.sampled_from([0.02, 0.3, 1.0, 30.0]))  # peaked to even
    masses = rng.dirichlet(np.full(count, concentration), size=(2, 3, 5))
    weight = draw(st.lists(weights, min_size=count, max_size=count))
    if to is None:
        receivers = draw(st.sets(st.integers(0, count - 1)))
    else:
        receivers = set(range(count)) if to == "all" else set()
    when = ()
    if draw(st.booleans()):
        when = Share(draw(st.integers(0, count - 1)), draw(st.floats(0, 1)))
    return masses, Reweight(weight, tuple(receivers), when)


@given(masses_and_policies())
def test_factors_are_not_negative(drawn):
    masses, policy = drawn
    factors = policy(masses)
    assert factors.shape == masses.shape
    assert np.isfinite(factors).all()
    assert (factors >= 0).all()


@given(masses_and_policies(weights=st.just(1.0)))
def test_weight_1_is_the_identity(drawn):
    masses, policy = drawn
    np.testing.assert_array_equal(policy(masses), 1)


@given(masses_and_policies())
def test_rows_keep_their_sum_when_somebody_receives(drawn):
    masses, policy = drawn
    if not policy.to:
        return
    total = (policy(masses) * masses).sum(-1)
    # A receiver of 1e-38 gets a factor of 1e38, whose product is as exact as any other.
    np.testing.assert_allclose(total, 1, rtol=0, atol=EXACT)


@given(masses_and_policies(to="nobody"))
def test_freed_mass_is_lost_when_nobody_receives(drawn):
    masses, policy = drawn
    factors = policy(masses)
    changed = np.ones(masses.shape[:-1], bool)
    for share in policy.when:
        changed &= share(masses)
    np.testing.assert_array_equal(
        factors[changed], np.broadcast_to(policy.weight, masses.shape)[changed]
    )
    np.testing.assert_array_equal(factors[~changed], 1)


@given(masses_and_policies(to="all"))
def test_receivers_keep_their_proportions(drawn):
    masses, policy = drawn
    weighed = np.asarray(policy.weight) * masses
    left = policy(masses) * masses
    changed = (policy(masses) != 1).any(-1)
    expected = weighed[changed] / weighed[changed].sum(-1, keepdims=True)
    np.testing.assert_allclose(left[changed], expected, rtol=1e-9, atol=EXACT)


@settings(max_examples=60)
@given(masses_and_policies(weights=st.floats(0, 4)), st.integers(0, 99))
def test_compiled_policy_equals_numpy(drawn, seed):
    masses, policy = drawn
    count = policy.num_segments
    rng = np.random.default_rng(seed)
    query, key, value = rng.standard_normal((3, 2, 3, 5, 8), dtype=np.float32)
    labels = rng.integers(0, count, (2, 1, 5), dtype=np.uint8)
    result = attention(query, key, value, segments=labels, policy=policy,
                       returns=("masses", "factors"))  # fmt: skip
    expected = policy(result.masses.astype(np.float64))
    # Rows at the very edge of a condition may fall to either side in float32.
    edge = np.zeros(masses.shape[:-1], bool)
    for share in policy.when:
        edge |= np.abs(result.masses[..., share.segments].sum(-1) - share.at_least) < 1e-6
    np.testing.assert_allclose(result.factors[~edge], expected[~edge], rtol=2e-5, atol=2e-5)


def tensors(rng, num_rows=7):
    query = rng.standard_normal((2, 4, num_rows, 16), dtype=np.float32)
    key, value = rng.standard_normal((2, 2, 2, 9, 16), dtype=np.float32)
    labels = rng.integers(0, 4, (2, 1, 9), dtype=np.uint8)
    where = rng.random((2, 1, num_rows)) < 0.7
    return (query, key, value), labels, where


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("num_rows", [1, 7])
def test_fused_equals_three_open_steps(policy, num_rows, rng):
    arrays, labels, where = tensors(rng, num_rows)
    fused = attention(*arrays, causal=True, segments=labels, policy=policy, where=where)
    state = segment_pass(*arrays, causal=True, segments=labels, num_segments=4)
    factors = np.where(where[..., None], policy(state.masses), 1)
    np.testing.assert_allclose(fused, combine(state.partials, factors), rtol=0, atol=5e-6)
    exact = reference.attention(*arrays, causal=True, segments=labels, policy=policy, where=where)
    np.testing.assert_allclose(fused, exact, rtol=0, atol=5e-6)


@pytest.mark.parametrize("num_rows", [1, 7])
def test_a_callable_takes_the_open_road(num_rows, rng):
    arrays, labels, where = tensors(rng, num_rows)
    policy = POLICIES["gated"]
    fused = attention(*arrays, segments=labels, policy=policy, where=where)
    labels[..., 0] = 3  # a callable tells no number of segments: all labels must occur
    fused = attention(*arrays, segments=labels, policy=policy, where=where)
    opened = attention(*arrays, segments=labels, policy=lambda masses: policy(masses), where=where)
    np.testing.assert_allclose(fused, opened, rtol=0, atol=5e-6)


def test_policies_apply_in_order(rng):
    arrays, labels, where = tensors(rng)
    first, second, third = (POLICIES[name] for name in ("hand_on", "gated", "per_head"))
    wheres = [None, where, None]
    result = attention(*arrays, segments=labels, policy=[first, second, third], where=wheres,
                       returns=("masses", "factors"))  # fmt: skip
    one = first(result.masses)
    two = one * np.where(where[..., None], second(result.masses * one), 1)
    expected = two * third(result.masses * two)
    np.testing.assert_allclose(result.factors, expected, rtol=1e-5, atol=1e-6)
    exact = reference.attention(
        *arrays, segments=labels, policy=[first, second, third], where=wheres
    )
    np.testing.assert_allclose(result.out, exact, rtol=0, atol=1e-5)


def test_a_denormal_receiver_counts_as_zero():
    tiny = SMALLEST_MASS / 4
    policy = Reweight(weight=(0.5, 1), to=(1,))
    np.testing.assert_array_equal(policy(np.array([1 - tiny, tiny])), 1)
    assert np.isfinite(policy(np.array([1, SMALLEST_MASS]))).all()


def test_a_receiver_that_is_nan_receives_nothing():
    factors = Reweight(weight=(0.5, 1), to=(1,))(np.array([0.5, np.nan]))
    np.testing.assert_array_equal(factors, 1)


def test_shares_are_not_strict():
    assert Share(0, 0.25)(np.array([0.25, 0.75]))
    assert Share((0,), 0.5, within=(0, 1))(np.array([0.25, 0.25, 0.5]))
    assert not Share(0, 0.2500001)(np.array([0.25, 0.75]))


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_is_a_value(policy):
    copy = pickle.loads(pickle.dumps(policy))
    assert copy == policy
    assert hash(copy) == hash(policy)
    assert policy != Reweight(weight=(3, 3, 3, 3))
    with pytest.raises(AttributeError):
        policy.weight = (1,)


def test_weights_are_a_copy():
    weight = np.ones((1, 2, 3))
    policy = Reweight(weight)
    weight[:] = 7
    assert (policy.weight == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        policy.weight[:] = 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Reweight(1.0), TypeError, "weight must be a number per segment"),
        (lambda: Reweight(("a", "b")), TypeError, "weight must be a number per segment"),
        (lambda: Reweight((1, np.inf)), ValueError, "weight must be finite"),
        (lambda: Reweight(()), (TypeError, ValueError), "weight must have 1 to 16 segments"),
        (lambda: Reweight((1,) * 17), ValueError, "weight must have 1 to 16 segments"),
        (lambda: Reweight(np.ones((1, 1, 1, 2))), ValueError, r"broadcast to \[B, H, G\]"),
        (lambda: Reweight((1, 2), to=(2,)), ValueError, "to must name segments below 2.*got 2"),
        (lambda: Reweight((1, 2), to=(-1,)), ValueError, "to must hold labels from 0 to 15"),
        (lambda: Reweight((1,), when=Share(3, 0.5)), ValueError, "when must name segments below 1"),
        (lambda: Reweight((1,), when=(1,)), TypeError, "when must be a Share"),
        (lambda: Reweight((1,), when=(Share(0, 0),) * 9), ValueError, "at most 8 Shares, got 9"),
        (lambda: Share((99,), 0.1), ValueError, "segments must hold labels from 0 to 15"),
        (lambda: Share((0,), np.nan), ValueError, "at_least must be a finite number"),
        (lambda: Share((0,), 0.1, within=(20,)), ValueError, "within must hold labels"),
    ],
)
def test_errors_name_the_argument(make, error, message):
    with pytest.raises(error, match=message):
        make()
