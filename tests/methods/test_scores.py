"""Methods that edit scores equal their formulas on the full matrix, written out in float64."""

from functools import partial

import numpy as np
import pytest
from full_matrix import expected, holds_on_scores, scores_of, softmax
from reattend.methods import ACT, PAI, VAF, VAR, FarSight, ScalingVis
from reattend.testing import run
from reattend.testing.laws import TOLERANCE
from reattend.testing.sample import sample

INPUTS = sample(0)
LAST = INPUTS.prompt_len - 1


holds = partial(holds_on_scores, INPUTS)


@pytest.mark.parametrize("alpha", [0.5, -0.3, 2.0])
def test_pai(alpha):
    def edit(scores, layer, item):
        image = np.flatnonzero(INPUTS.image[item])
        for i in range(LAST, INPUTS.length):
            if layer in (1, 3):
                scores[:, i, image] += alpha * np.abs(scores[:, i, image])

    assert holds(PAI(alpha, layers=(3, 1)), edit) == 2 * 2 * 4 * 4


def test_pai_leaves_the_first_layers():
    assert PAI().boosted(32) == tuple(range(2, 32))
    assert PAI().boosted(5) == (0, 1, 2, 3, 4)


def test_vaf():
    def edit(scores, layer, item):
        image = np.flatnonzero(INPUTS.image[item])
        if layer in (1, 2) and len(image):
            end = next(j for j in range(image[0], 99) if j not in image)
            for i in range(end, INPUTS.length):
                seen = [j for j in image if j <= i]
                scores[:, i, seen] *= 1.15
                scores[:, i, : image[0]] *= 0.95

    assert holds(VAF(layers=(1, 2)), edit) == 2 * 4 * ((27 - 14) + (27 - 9))


def test_vaf_is_for_middle_layers():
    assert VAF().changed(32) == (9, 10, 11, 12, 13, 14)
    assert VAF().changed(40) == (11, 12, 13, 14, 15, 16, 17)
    assert VAF().changed(5) == (1,)
    assert VAF().changed(4) == (1,)  # never none


def test_scaling_vis():
    def edit(scores, layer, item):
        scores[:, LAST, np.flatnonzero(INPUTS.image[item])] *= 1.5

    assert holds(ScalingVis(1.5), edit) == 5 * 2 * 4


def test_adapt_vis_chooses_by_confidence():
    assert ScalingVis.adapted(0.294) == ScalingVis(0.5)
    assert ScalingVis.adapted(0.296) == ScalingVis(1.2)  # 0.3, rounded as published
    assert ScalingVis.adapted(0.5, threshold=0.6, low=0.8, high=2) == ScalingVis(0.8)


def test_scaling_vis_needs_the_prompt_on_its_own():
    with pytest.raises(ValueError, match="prompt and answer must come in calls of their own"):
        run(ScalingVis(), INPUTS, one_pass=True)
    run(ScalingVis(phase="both"), INPUTS, one_pass=True)


@pytest.mark.parametrize("slopes", [True, False])
def test_farsight(slopes):
    """With the registers themselves: columns behind the diagonal, dropped after the softmax."""

    def edit(weights, layer, item):
        scores, length = scores_of(INPUTS, layer, item), INPUTS.prompt_len
        for head in range(4):
            slope = 2 ** (-8 * (head + 1) / 4) if slopes else 0
            for i in range(length):
                row = scores[head, i, :length].copy()
                cost = 0.4 + 0.4 * (1 - 0.5 * i / (length - 1)) + slope
                row[i + 1 :] = -cost * np.arange(1, length - i)
                weights[head, i, : i + 1] = softmax(row)[: i + 1]

    right, changed = expected(INPUTS, edit)
    assert changed == 5 * 3 * 4 * LAST  # all but the last row, and no step
    assert np.abs(run(FarSight(slopes=slopes), INPUTS) - right).max() < TOLERANCE


@pytest.mark.parametrize("other", [VAR(sink_dims=(7, 100), tau=0.5, p=0.2, rho=0.3), ACT(beta=0.2)])
def test_a_policy_sees_masses_of_edited_scores(other):
    """Beside a method on masses, both hold: PAI first, then the policy on what it left."""
    from reattend import reference
    from reattend.plan import compose
    from reattend.testing.sample import Recorder

    recorders = Recorder(PAI(layers=(2,))), Recorder(other)
    out = run(recorders, INPUTS)
    start = 0
    for call, end in enumerate(range(INPUTS.prompt_len, INPUTS.length + 1)):
        plans = [r.plans[call * 5 + 2] for r in recorders]
        plans = [plan for plan in plans if plan is not None]
        both = compose(plans)
        right = reference.attention(
            INPUTS.query[2][:, :, start:end], INPUTS.key[2][:, :, :end],
            INPUTS.value[2][:, :, :end], causal=True, segments=both.segments,
            policy=both.policies, where=both.wheres, **both.edits,
        )  # fmt: skip
        assert len(plans) == 2
        assert np.abs(out[2][:, :, start:end] - right).max() < TOLERANCE
        start = end


def test_two_methods_on_scores_are_refused():
    with pytest.raises(ValueError, match="at most one transform when they are composed"):
        run([PAI(layers=(2,)), VAF(layers=(2,))], INPUTS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PAI(np.nan), "alpha must be a finite number"),
        (lambda: VAF(enhance=np.inf), "enhance must be a finite number"),
        (lambda: ScalingVis(np.nan), "w must be a finite number"),
        (lambda: FarSight(sigma=0), "sigma must be a number above 0, got 0"),
    ],
)
def test_errors_name_the_parameter(make, message):
    with pytest.raises(ValueError, match=message):
        make()
