"""Methods on spans of the prompt equal their formulas on the full matrix, in float64."""

from functools import partial

import numpy as np
import pytest
from full_matrix import holds as holds_on_weights
from reattend.methods import PASTA, ContextEmphasis, RowEdit
from reattend.testing import run
from reattend.testing.sample import sample

INPUTS = sample(0)
LAST = INPUTS.prompt_len - 1
holds = partial(holds_on_weights, INPUTS)
HEADS = {0: (1, 2), 4: (0,)}


@pytest.mark.parametrize("factor", [4.0, 0.1, 1e12, 1e30])
def test_context_emphasis(factor):
    def edit(weights, layer, item):
        for head in HEADS.get(layer, ()):
            weights[head][:, [3, 4, 5, 6, 10, 11]] *= factor
            weights[head] /= weights[head].sum(-1, keepdims=True)

    assert holds(ContextEmphasis(((3, 7), (10, 12)), HEADS, factor), edit) == 3 * 3 * 24


@pytest.mark.parametrize("phase", ["prefill", "both"])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.3, 0.0)])
def test_row_edit(shares, phase):
    steps = phase == "both"
    one, two = [3], [10, 11, 12]
    rest = np.setdiff1d(np.arange(INPUTS.length), one + two)

    def edit(weights, layer, item):
        for head in HEADS.get(layer, ()):
            for i in range(LAST, INPUTS.length if steps else LAST + 1):
                row = weights[head, i]
                for keys, share in ((one, shares[0]), (two, shares[1]), (rest, 1 - sum(shares))):
                    row[keys] *= share / row[keys].sum()

    method = RowEdit(((3, 4), (10, 13)), shares, HEADS, phase=phase)
    assert holds(method, edit) == 3 * 3 * (4 if steps else 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContextEmphasis(factor=0), "factor must be a number above 0, got 0"),
        (lambda: PASTA(alpha=1e-40), "alpha must leave weights from 1e-37 to 1e\\+37, got 1e-40"),
        (
            lambda: PASTA(tuple((i, i + 1) for i in range(19)), as_published=True),
            "got 0.01 for 19 spans as published",
        ),
        (lambda: PASTA(((1, 2),) * 900, alpha=1e30, as_published=True), "for 900 spans as"),
        (lambda: ContextEmphasis(((5, 2),)), "spans must be"),
        (lambda: RowEdit(((1, 2),), (0.5, 0.5)), "shares must be numbers from 0, one for each of"),
        (lambda: RowEdit(((1, 2), (4, 5)), (0.7, 0.5)), "and together at most 1"),
        (lambda: RowEdit(((1, 4), (3, 5)), (0.1, 0.1)), "spans must not overlap"),
        (lambda: run(RowEdit(((23, 26),), (1,), None), INPUTS.cut_left(2)), "prompts of"),
    ],
)
def test_errors_name_the_parameter(make, message):
    with pytest.raises(ValueError, match=message):
        make()
