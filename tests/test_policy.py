"""Policies: Reweight in NumPy and in the pass, its properties, and the open road for callables."""

import pickle
from unittest import mock

import numpy as np
import pytest
from cases import POLICIES
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reattend import Reweight, Share, attention, combine, reference, segment_pass
from reattend.policy import KEEP, LARGEST, MAX_SEGMENTS, SMALLEST_MASS, decided_factors
from reattend.transform import Transform

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


def compiled_and_numpy(policy, seed):
    """The factors of a pass, and those of NumPy for the very masses that the pass reports."""
    rng = np.random.default_rng(seed)
    query, key, value = rng.standard_normal((3, 2, 3, 5, 8), dtype=np.float32)
    labels = rng.integers(0, policy.num_segments, (2, 1, 5), dtype=np.uint8)
    result = attention(query, key, value, segments=labels, policy=policy,
                       returns=("masses", "factors"))  # fmt: skip
    assert np.isfinite(result.factors).all()
    return result.factors, policy(result.masses), result.masses


# A weight that once put what is received on float32's edge, in the pass and not in NumPy.
TINY = 2.0964511515804453e-37


def tiny_weights(count, *kept):
    return Reweight([TINY if g in kept else 0.0 for g in range(count)], to=(0, 1, 2, 12))


@settings(max_examples=examples(100))
@given(
    masses_and_policies(weights=st.floats(0, 4) | st.floats(0, 1e-36) | st.floats(-3e38, 3e38)),
    st.integers(0, 99),
)
@example((None, tiny_weights(13, 0)), 0)
@example((None, tiny_weights(13, 0, 1, 2, 12)), 1)
@example((None, tiny_weights(16, 1, 12)), 2)
@example((None, Reweight((0, 3e38), to=(1,))), 0)
@example((None, Reweight((-3e38, 1e-5), to=(1,))), 0)
def test_compiled_policy_equals_numpy(drawn, seed):
    compiled, numpy, _ = compiled_and_numpy(drawn[1], seed)
    assert compiled.dtype == numpy.dtype == np.float32
    np.testing.assert_array_equal(compiled, numpy)


@settings(max_examples=examples(50))
@given(masses_and_policies(weights=st.floats(0, 2)), st.data(), st.integers(0, 99))
def test_powers_keep_what_they_say(drawn, data, seed):
    """Without receivers exactly w m^p is left; the pass finds what NumPy does."""
    masses, policy = drawn
    count = policy.num_segments
    power = data.draw(st.lists(st.sampled_from([0, 0.5, 1, 2]), min_size=count, max_size=count))
    lost = Reweight(policy.weight, power=power)
    changed = (lost(masses) != 1).any(-1)
    wanted = np.array(policy.weight) * np.where(masses > 0, masses, 1) ** np.array(power, float)
    wanted = np.where((np.array(power) == 1) & (masses == 0), 0, wanted)
    left = (lost(masses) * masses)[changed]
    np.testing.assert_allclose(left, wanted[changed], rtol=1e-12, atol=1e-300)
    policy = Reweight(policy.weight, policy.to, policy.when, power)
    compiled, numpy, _ = compiled_and_numpy(policy, seed)
    np.testing.assert_allclose(compiled, numpy, rtol=1e-6)  # two libraries' powers
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_powers_of_1_are_none_and_nothing_is_raised_from_nothing():
    assert Reweight((1, 0.5), power=(1, 1)) == Reweight((1, 0.5))
    assert Reweight((1, 0.5), power=(1, 0.5)) != Reweight((1, 0.5))
    row = np.array([1.0, 0.0])
    assert Reweight((1, 1), to=(0,), power=(1, 0.5))(row).tolist() == [1, 1]
    assert Reweight((1, 0), power=(0, 0))(row).tolist() == [1, 0]
    for power in ((1,), (1, -1), (1, np.inf), (1, np.nan)):
        with pytest.raises(ValueError, match="power must be a finite number from 0 for each"):
            Reweight((1, 1), power=power)


@pytest.mark.parametrize("seed", range(4))
def test_the_edge_of_receiving_is_one_edge(seed):
    receivers = (0, 1, 2, 12)
    masses = compiled_and_numpy(Reweight((1,) * 13), seed)[2].astype(np.float64)
    received = masses[..., receivers].sum(-1)
    found = set()
    for mass in received[received > 0][:12]:
        weight = np.float32(SMALLEST_MASS / mass)
        for _ in range(3):
            weight = np.nextafter(weight, np.float32(0))
        for _ in range(6):
            policy = Reweight([weight if g in receivers else 0.0 for g in range(13)], receivers)
            compiled, numpy, _ = compiled_and_numpy(policy, seed)
            np.testing.assert_array_equal(compiled, numpy)
            found |= set((compiled == 1).all(-1).ravel().tolist())
            weight = np.nextafter(weight, np.float32(1))
    assert found == {True, False}  # both sides of the edge were met


def test_a_factor_beyond_float32_leaves_the_row_as_it_is():
    policy = Reweight((-3e38, 1e-5), to=(1,))  # frees 2.7e38 for a receiver that keeps 1e-6
    beyond, within = np.array([0.9, 0.1]), np.array([0, 1.0])
    np.testing.assert_array_equal(policy(beyond), 1)
    np.testing.assert_allclose(policy(within), [-3e38, 1], rtol=1e-7)


def test_factors_whose_product_is_beyond_float32_leave_the_row_as_it_is(rng):
    query, key, value = rng.standard_normal((3, 1, 2, 4, 8), dtype=np.float32)
    labels = np.array([[[0, 1, 0, 1]]], np.uint8)
    policies = [Reweight((1e30, 1)), Reweight((1e30, 0.5)), Reweight((1, 0.25))]
    how = {"segments": labels, "returns": ("factors",)}
    compiled = attention(query, key, value, policy=policies, **how)
    exact = reference.attention(query, key, value, policy=policies, **how)
    opened = attention(
        query, key, value, policy=[*policies, lambda masses: np.ones_like(masses)], **how
    )
    expected = np.broadcast_to(np.float32([1e30, 0.25]), compiled.factors.shape)
    np.testing.assert_array_equal(compiled.factors, expected)
    np.testing.assert_array_equal(opened.factors, expected)
    np.testing.assert_allclose(exact.factors, expected, rtol=1e-7)


def test_the_largest_factor_is_one():
    largest = float(np.finfo(np.float32).max)
    masses = np.ones((1, 1, 1, 1))
    policies = [Reweight((largest,)), Reweight((1,))]
    assert decided_factors(masses, np.zeros((1, 1, 1)), policies, [None, None]) == largest


def test_the_largest_numbers_and_labels_are_taken():
    assert Share(0, -LARGEST).at_least == -LARGEST
    assert Reweight((1, 1), power=(1, LARGEST)).power == (1, LARGEST)
    last = MAX_SEGMENTS - 1
    assert Reweight((1,) * MAX_SEGMENTS, to=(last,)).to == (last,)
    with pytest.raises(ValueError, match=f"labels from 0 to {last}"):
        Share(MAX_SEGMENTS, 0.5)


def test_the_policy_that_keeps_all_changes_nothing():
    assert KEEP(np.ones(1)) == [1]


def test_eight_conditions_are_not_too_many():
    shares = (Share(0, 0.1),) * 8
    assert Reweight((1,), when=shares).when == shares


def test_numbers_print_as_they_were_written():
    assert repr(Reweight((1, 0.4), (0,)).weight) == "(1.0, 0.4)"


def test_a_label_named_twice_counts_once():
    masses = np.array([0.25, 0.25, 0.5])
    assert not Share((0, 0), 0.4)(masses)
    np.testing.assert_array_equal(
        Reweight((0.5, 1, 1), to=(1, 1))(masses), Reweight((0.5, 1, 1), to=(1,))(masses)
    )


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
    assert policy(np.array([1, SMALLEST_MASS]))[0] == 0.5  # the least normal number counts
    raised = Reweight(weight=(1, 1), power=(1, 0.5))
    np.testing.assert_allclose(raised(np.array([1, SMALLEST_MASS]))[1], SMALLEST_MASS**-0.5)
    np.testing.assert_array_equal(raised(np.array([1, tiny])), 1)


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
    assert policy == mock.ANY  # what is no policy is asked in its turn
    with pytest.raises(AttributeError):
        policy.weight = (1,)


def test_weights_are_a_copy():
    weight = np.ones((1, 2, 3))
    policy = Reweight(weight)
    weight[:] = 7
    assert (policy.weight == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        policy.weight[:] = 0


@pytest.mark.parametrize("base", [Reweight, Share, Transform], ids=lambda base: base.__name__)
def test_a_subclass_has_no_rule_of_its_own(base):
    """The core would not call it."""
    type("Named", (base,), {"name": "of a method"})
    with pytest.raises(TypeError, match=f"Own must not define __call__: .* of a {base.__name__}"):
        type("Own", (base,), {"__call__": lambda self, masses: masses})


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
        (lambda: Reweight((1, 1e39)), ValueError, "weight must be finite in float32"),
        (lambda: Share((0,), 1e39), ValueError, "at_least must be a finite number"),
        (lambda: Share((0,), np.nan), ValueError, "at_least must be a finite number"),
        (lambda: Share((0,), 0.1, within=(20,)), ValueError, "within must hold labels"),
    ],
)
def test_errors_name_the_argument(make, error, message):
    with pytest.raises(error, match=message):
        make()
