"""Plans are data; several become one on the common refinement of their segments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reattend import Plan, Reweight, Share, attention, reference
from reattend.plan import compose


def labels_of(rng, count, heads=1, length=9):
    return rng.integers(0, count, (2, heads, length), dtype=np.uint8)


def full_matrix(arrays, plans):
    """Apply each plan to the weights of the one before it, in its own segments."""
    weights = reference.weights(arrays[0], arrays[1], causal=True)[0]  # [B, H, N, M]
    for plan in plans:
        labels = np.zeros((2, 1, 9), np.uint8) if plan.segments is None else plan.segments
        labels = np.pad(labels, ((0, 0), (0, 0), (0, 9 - labels.shape[-1])))
        chosen = labels[:, :, None, :, None] == np.arange(plan.num_segments)
        masses = (weights[..., None] * chosen).sum(-2)  # [B, H, N, G]
        factors = plan.policy(masses)
        if plan.where is not None:
            factors = np.where(plan.where[..., None], factors, 1)
        weights = (weights[..., None] * chosen * factors[..., None, :]).sum(-1)
    return weights @ arrays[2].astype(np.float64).repeat(2, axis=1)


def compare(arrays, plans):
    both = compose(plans)
    out = attention(*arrays, causal=True, segments=both.segments, policy=both.policies,
                    where=both.wheres)  # fmt: skip
    np.testing.assert_allclose(out, full_matrix(arrays, plans), rtol=0, atol=1e-5)
    return both


@pytest.fixture
def arrays(rng):
    query = rng.standard_normal((2, 4, 9, 16), dtype=np.float32)
    key, value = rng.standard_normal((2, 2, 2, 9, 16), dtype=np.float32)
    return query, key, value


IMAGE = Reweight((1, 0.5, 1.2), to=(1, 2), when=Share((1, 2), 0.2))
SINKS = Reweight((1, 0.3), to=(0,))


def test_one_plan_costs_nothing(rng):
    plan = Plan(labels_of(rng, 3), IMAGE, np.ones((2, 1, 9), bool))
    both = compose([plan])
    assert both.segments is plan.segments
    assert both.policies[0] is plan.policy
    assert both.wheres[0] is plan.where


def test_plans_without_segments_cost_nothing():
    gate = Plan(None, Reweight(np.full((2, 4, 1), 2.0)))
    both = compose([gate, gate])
    assert both.segments is None
    assert both.policies == (gate.policy, gate.policy)


def test_two_labelled_plans(arrays, rng):
    plans = [Plan(labels_of(rng, 3), IMAGE), Plan(labels_of(rng, 2, heads=4), SINKS)]
    both = compare(arrays, plans)
    assert both.segments.shape == (2, 4, 9)
    assert both.segments.max() < both.policies[0].num_segments == both.policies[1].num_segments


def test_labels_of_unequal_length(arrays, rng):
    compare(arrays, [Plan(labels_of(rng, 3, length=4), IMAGE), Plan(labels_of(rng, 2), SINKS)])


def test_a_gate_joins_labelled_plans(arrays, rng):
    gate = Plan(None, Reweight(rng.random((2, 4, 1))), rng.random((2, 4, 9)) < 0.5)
    labelled = Plan(labels_of(rng, 3), IMAGE, rng.random((2, 1, 9)) < 0.5)
    compare(arrays, [gate, labelled])
    compare(arrays, [labelled, gate, Plan(labels_of(rng, 2), SINKS)])


def test_callables_see_their_own_segments(arrays, rng):
    def boost(masses):
        assert masses.shape[-1] == 3
        factors = np.ones_like(masses)
        factors[..., 2] = 1.5
        return factors

    labels = labels_of(rng, 3)
    labels[0, 0, 0] = 2
    compare(arrays, [Plan(labels, boost), Plan(labels_of(rng, 2), SINKS), Plan(labels, boost)])


def test_powers_are_of_a_segments_whole_mass(arrays, rng):
    """Not of each part that others cut it into."""
    raised = Plan(labels_of(rng, 3), Reweight((1, 1, 0.5), to=(0,), power=(1, 0.5, 2)))
    compare(arrays, [raised, Plan(labels_of(rng, 2), SINKS), raised])


def test_weights_by_head_are_spread(arrays, rng):
    by_head = Reweight(rng.random((1, 4, 3)), to=(1,))
    compare(arrays, [Plan(labels_of(rng, 2), SINKS), Plan(labels_of(rng, 3), by_head)])


@given(st.lists(st.integers(1, 3), min_size=2, max_size=4), st.integers(0, 999))
def test_refinement_keeps_every_label(counts, seed):
    rng = np.random.default_rng(seed)
    plans = [Plan(labels_of(rng, n, length=5), Reweight((1,) * 3)) for n in counts]
    if np.prod(counts) > 16:
        return  # the test below
    both = compose(plans)
    assert both.segments.dtype == np.uint8
    for plan, labels in zip(plans, both.labels, strict=True):
        assert labels[0] == 0  # keys beyond the labels are the rest of every plan
        np.testing.assert_array_equal(labels[both.segments], plan.segments)


def test_too_many_segments():
    a = np.arange(9, dtype=np.uint8).reshape(1, 1, 9) // 1
    b = np.arange(18, dtype=np.uint8).reshape(1, 1, 18) % 9
    a = np.repeat(a, 2, axis=-1)
    plans = [Plan(a, Reweight((1,) * 9)), Plan(b, Reweight((1,) * 9))]
    with pytest.raises(ValueError, match=r"at most 16 common segments.*got 18"):
        compose(plans)


@pytest.mark.parametrize("label", [3, 16, 200])
@pytest.mark.parametrize("place", [0, 1])
def test_labels_that_are_no_segment_are_refused(rng, label, place):
    """As where a plan is alone; 16 and more would be another's segments."""
    plans = [Plan(labels_of(rng, 3), Reweight((1, 1, 1))) for _ in range(2)]
    wrong = plans[place].segments.copy()
    wrong[0, 0, 4] = label
    plans[place] = Plan(wrong, Reweight((1, 1, 1)))
    with pytest.raises(ValueError, match=f"labels below 3, the number of segments, got {label}"):
        compose(plans)


def test_take_reorders_what_has_a_batch(rng):
    plan = Plan(labels_of(rng, 3), Reweight(rng.random((2, 4, 3))), rng.random((2, 1, 9)) < 0.5)
    taken = plan.take(np.array([1, 0, 1]))
    np.testing.assert_array_equal(taken.segments, plan.segments[[1, 0, 1]])
    np.testing.assert_array_equal(taken.policy.weight, plan.policy.weight[[1, 0, 1]])
    np.testing.assert_array_equal(taken.where, plan.where[[1, 0, 1]])
    alike = Plan(None, Reweight((1, 2)), np.ones((1, 4, 1), bool)).take(np.array([1, 0]))
    assert alike.where.shape == (1, 4, 1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Plan(np.zeros((1, 1, 3)), IMAGE), ValueError, "segments must be uint8.*float64"),
        (lambda: Plan(np.zeros(3, np.uint8), IMAGE), ValueError, "segments must be uint8"),
        (lambda: Plan(None, 3), TypeError, "policy must be a Reweight or a callable, got 3"),
        (lambda: Plan(None, IMAGE, np.ones(3)), ValueError, "where must be bool"),
        (lambda: compose([]), ValueError, "plans must hold at least one plan"),
    ],
)
def test_errors_name_the_argument(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_receivers_that_no_key_belongs_to_leave_every_row(rng):
    query, key, value = rng.standard_normal((3, 1, 2, 6, 8), dtype=np.float32)
    first = Plan(np.array([[[0, 1, 1, 0]]], np.uint8), Reweight((1, 0.5, 1), to=(2,)))
    second = Plan(np.array([[[1, 0, 0, 0]]], np.uint8), Reweight((1, 1)))
    both = compose([first, second])
    changed = attention(query, key, value, segments=both.segments, policy=both.policies)
    np.testing.assert_allclose(changed, attention(query, key, value), atol=1e-6)
