"""Any two methods together give what one after the other gives, or are refused with the reason."""

import re
from itertools import combinations, pairwise

import numpy as np
import pytest
from cases import ACTING
from reattend import Session
from reattend.method import registered
from reattend.policy import KEEP
from reattend.testing import Recorder
from reattend.testing.laws import TOLERANCE
from reattend.testing.sample import sample

INPUTS = sample(0).take(np.array([0, 2]))  # one image, and none
LAYER = 2
CUTS = [0, *range(INPUTS.prompt_len, INPUTS.length + 1)]


def test_every_method_is_among_them():
    assert {*ACTING} == {*registered()}


def edited(plan):
    """Name what a plan changes of attention."""
    if plan.transform is not None:
        yield "scores"
    if plan.null_logit is not None:
        yield "null key"
    if plan.segments is not None or plan.heads_from is not None:
        yield "weights"
    if plan.epilogue is not None or (plan.segments is None and plan.policy != KEEP):
        yield "outputs"


@pytest.mark.parametrize("name", ACTING)
def test_tables_say_what_plans_edit(name):
    recorder = Recorder(ACTING[name])
    in_layer((recorder,))
    found = {each for plan in recorder.plans if plan is not None for each in edited(plan)}
    assert found == {registered()[name].edits}
    assert registered()[name].statistic


def expected(plans, start, end):
    """One call of the layer with plans one after the other, on the full matrix."""
    query, key, value = (x[LAYER].astype(float) for x in (INPUTS.query, INPUTS.key, INPUTS.value))
    query, key, value = query[:, :, start:end], key[:, :, :end].repeat(2, 1), value[:, :, :end]
    for plan in plans:
        if plan.heads_from is not None:
            for item, heads in enumerate(plan.heads_from):
                query[item], key[item] = query[item][heads], key[item][heads]
    rows, columns = np.arange(start, end), np.arange(end)
    scores = query @ key.swapaxes(-1, -2) / 4
    extra = np.full((*scores.shape[:3], 1), -np.inf)
    for plan in plans:
        if plan.transform is not None:
            scores = plan.transform(scores, rows)
        if plan.null_logit is not None:
            extra = np.broadcast_to(plan.null_logit[..., None], extra.shape)
    scores = np.where(columns <= rows[:, None], scores, -np.inf)
    weights = np.exp(np.concatenate([scores, extra], -1) - scores.max(-1, keepdims=True))
    weights = (weights / weights.sum(-1, keepdims=True))[..., :-1]
    for plan in plans:
        labels = np.zeros((1, 1, 0), np.uint8) if plan.segments is None else plan.segments
        labels = np.pad(labels, ((0, 0), (0, 0), (0, end - labels.shape[-1])))
        inside = labels[:, :, None, :, None] == np.arange(plan.num_segments)
        factors = plan.policy((weights[..., None] * inside).sum(-2))
        if plan.where is not None:
            factors = np.where(plan.where[..., None], factors, 1)
        weights = (weights[..., None] * inside * factors[..., None, :]).sum(-1)
    out = weights @ value.repeat(2, 1)
    for plan in plans:
        if plan.epilogue is not None:
            out = plan.epilogue(out, plan.where)
    return out


def in_layer(methods):
    """Run the layer alone along the generation; gives [B, H, T, Dv]."""
    session = Session(methods, num_layers=5)
    query, key, value = (x[LAYER] for x in (INPUTS.query, INPUTS.key, INPUTS.value))
    with session.text_only():
        session.attend(LAYER, *(x[LAYER] for x in INPUTS.text))
    with session.generation(INPUTS.image):
        rows = [
            session.attend(
                LAYER, query[:, :, start:end], key[:, :, :end], value[:, :, :end],
                hidden_states=INPUTS.hidden_states[LAYER][:, start:end],
            )
            for start, end in pairwise(CUTS)
        ]  # fmt: skip
    return np.concatenate(rows, axis=2)


@pytest.mark.parametrize(("one", "two"), [*combinations(ACTING, 2)])
def test_two_methods(one, two):
    recorders = Recorder(ACTING[one]), Recorder(ACTING[two])
    reason = None
    try:
        out = in_layer(recorders)
    except ValueError as error:
        reason = str(error)
    calls = [*zip(*(r.plans for r in recorders), strict=True)]
    if reason is not None:
        found = re.search(r"at most one (\w+) when|no policy behind an (epilogue) when", reason)
        edit = found[1] or found[2]
        assert all(getattr(r.plans[-1], edit) is not None for r in recorders if found[1])
        if found[2]:  # the other way round it runs
            in_layer((ACTING[two], ACTING[one]))
        return
    assert all(any(plans[i] is not None for plans in calls) for i in (0, 1)), "one does not act"
    for plans, (start, end) in zip(calls, pairwise(CUTS), strict=True):
        right = expected([plan for plan in plans if plan is not None], start, end)
        assert np.abs(out[:, :, start:end] - right).max() < TOLERANCE
