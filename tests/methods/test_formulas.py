"""Methods on masses and heads equal their formulas on the full matrix, written out in float64."""

from functools import partial

import numpy as np
import pytest
from full_matrix import holds as holds_on_weights
from full_matrix import scores_of
from reattend.border.request import MaskSpec
from reattend.call import Call, Prompt
from reattend.methods import ADHH, PAI, PASTA, SPIN, VAF, HeadMask, SplitSoftmax
from reattend.testing import run
from reattend.testing.laws import TOLERANCE
from reattend.testing.sample import sample

INPUTS = sample(0)
LAST = INPUTS.prompt_len - 1


holds = partial(holds_on_weights, INPUTS)


@pytest.mark.parametrize("gate", [0.0, -1.0, 3.0])
def test_head_mask(gate):
    def edit(weights, layer, item):
        for head in {0: (1,), 3: (0, 2)}.get(layer, ()):
            weights[head] *= gate

    assert holds(HeadMask({0: (1,), 3: (0, 2)}, gate), edit) == 3 * 3 * 27


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5])
def test_adhh(threshold):
    heads = {1: (0, 3), 2: (1, 2)}

    def edit(weights, layer, item):
        image = np.flatnonzero(INPUTS.image[item])
        if not len(image):
            return
        end = next(j for j in range(image[0], 99) if j not in image)
        text = [j for j in range(end, INPUTS.length) if j not in image]
        for head in heads.get(layer, ()):
            for i in range(LAST, INPUTS.length):
                if weights[head, i, text].sum() >= threshold:
                    weights[head, i, text] = 0

    changed = holds(ADHH(heads, threshold), edit)
    assert changed == 2 * 4 * 4 if threshold == 0 else 0 < changed < 2 * 4 * 4


@pytest.mark.parametrize(("r", "gamma"), [(0.95, 0.08), (0.5, 0.0), (0.0, 2.0)])
def test_spin(r, gamma):
    def edit(weights, layer, item):
        image = np.flatnonzero(INPUTS.image[item])
        if not len(image):
            return
        scores = scores_of(INPUTS, layer, item)
        for i in range(LAST, INPUTS.length):
            looks = scores[:, i, image].sum(-1)
            kept = sorted(range(4), key=lambda h: -looks[h])[: int(r * 4)]
            for head in set(range(4)) - set(kept):
                weights[head, i] *= gamma

    assert holds(SPIN(r, gamma), edit) == 5 * 2 * 4 * (4 - int(r * 4))


@pytest.mark.parametrize("published", [False, True])
def test_pasta(published):
    """On scores, as the paper has it; the method does it on masses."""
    spans, heads, alpha = ((3, 7), (10, 12)), {0: (1, 2), 4: (0,)}, 0.05

    def edit(weights, layer, item):
        scores = scores_of(INPUTS, layer, item)
        for head in heads.get(layer, ()):
            for j in range(INPUTS.prompt_len):
                outside = [not a <= j < b for a, b in spans]
                times = sum(outside) if published else all(outside)
                scores[head, :, j] += times * np.log(alpha)
            raised = np.exp(scores[head] - scores[head].max(-1, keepdims=True))
            weights[head] = raised / raised.sum(-1, keepdims=True)

    assert holds(PASTA(spans, heads, alpha, published), edit) > 3 * 3 * 20


@pytest.mark.parametrize("k", [0.5, 0.0, 2.0])
def test_split_softmax(k):
    spans, heads = ((3, 7), (10, 12)), {0: (1, 2), 4: (0,)}
    keys = [3, 4, 5, 6, 10, 11]
    others = np.setdiff1d(np.arange(INPUTS.length), keys)

    def edit(weights, layer, item):
        for head in heads.get(layer, ()):
            for i in range(INPUTS.length):
                mass = weights[head, i, keys].sum()
                if mass > 0:
                    weights[head, i, keys] *= mass**k / mass
                    weights[head, i, others] *= (1 - mass**k) / (1 - mass)

    assert holds(SplitSoftmax(spans, heads, k), edit) == 3 * 3 * 24


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeadMask({0: (1,)}, np.nan), "gate must be a finite number, got nan"),
        (lambda: ADHH(threshold=np.inf), "threshold must be a finite number"),
        (lambda: SPIN(r=1.5), "r must be from 0 to 1, got 1.5"),
        (lambda: SPIN(gamma=np.nan), "gamma must be a finite number"),
        (lambda: PASTA(alpha=0), "alpha must be a number above 0, got 0"),
        (lambda: PASTA(((5, 2),)), r"spans must be \(start, end\) with 0 <= start < end"),
        (lambda: SplitSoftmax(k=-1), "k must be a number from 0, got -1"),
        (lambda: SplitSoftmax(((-1, 2),)), "spans must be"),
        (lambda: run(HeadMask({2: (4,)}), INPUTS), "heads must be below 4, .* got 4 in layer 2"),
    ],
)
def test_errors_name_the_parameter(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("hidden", [{}, {"window": 12}, {"softcap": 1.5}], ids=str)
@pytest.mark.parametrize("stored", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("step", [False, True], ids=["prompt", "step"])
def test_spin_counts_the_keys_that_a_row_sees(hidden, stored, step):
    """With a window or softcap, and keys of other types, heads are those of the full matrix."""
    from reattend import Session, quantize, reference
    from reattend.border.prefixed import keys_between

    query, key, value = (x[1] for x in (INPUTS.query, INPUTS.key, INPUTS.value))
    if stored == "float16":
        key, value = key.astype(np.float16), value.astype(np.float16)
    if stored == "int8":
        key, value = quantize(key), quantize(value)
    if stored == "int4":
        key, value = quantize(key, bits=4, by_channel=True), quantize(value, bits=4)
    image = np.pad(INPUTS.image, ((0, 0), (0, 3)))
    session = Session(SPIN(r=0.5, gamma=0), num_layers=5)
    with session.generation(image[:, :26] if step else image):
        if step:
            before = (keys_between(each, slice(26)) for each in (key, value))
            session.attend(1, query[:, :, :26], *before, **hidden)
        out = session.attend(1, query[:, :, 26 if step else 0 :], key, value, **hidden)
    from reattend.border.dtypes import to_float32

    full = np.repeat(to_float32(key).astype(float), 2, 1)
    scores = query[:, :, -1:].astype(float) @ full.swapaxes(-1, -2) / 4
    if "softcap" in hidden:
        scores = 1.5 * np.tanh(scores / 1.5)
    seen = image & (np.arange(27) > 26 - hidden.get("window", 27))
    looks = np.where(seen[:, None], scores[:, :, 0], 0).sum(-1)
    plain = reference.attention(query, key, value, causal=True, **hidden)[:, :, -1]
    for item in range(2):
        for head in np.argsort(-looks[item])[2:]:
            plain[item, head] = 0
    assert np.abs(out[:, :, -1] - plain).max() < TOLERANCE


HEADS = {2: (0, 3)}


@pytest.mark.parametrize(
    "method",
    [
        ADHH(HEADS, 0.0),
        HeadMask(HEADS),
        PAI(layers=(2,)),
        PASTA(((1, 4),), HEADS),
        SplitSoftmax(((1, 4),), HEADS),
        VAF(layers=(2,)),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_step_has_the_plan_of_the_step_before(method):
    """What is prepared for a plan is used again as long as it is the very same."""
    plans, state = [], None
    for end in (INPUTS.prompt_len, *range(INPUTS.prompt_len + 1, INPUTS.length + 1)):
        rows = slice(0 if end == INPUTS.prompt_len else end - 1, end)
        query, key, value = INPUTS.query[2], INPUTS.key[2, :, :, :end], INPUTS.value[2, :, :, :end]
        prompt = Prompt(INPUTS.prompt_len, INPUTS.image)
        mask = MaskSpec(causal=True)
        plan, state = method.plan(Call(2, 5, query[:, :, rows], key, value, prompt, mask), state)
        plans.append(plan)
    assert len(plans) > 3
    assert plans[1] is not None
    assert all(plan is plans[1] for plan in plans[2:])
