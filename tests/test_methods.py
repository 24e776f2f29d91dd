"""What every method must satisfy, and each one's formula on the full matrix, written out."""

from dataclasses import dataclass, replace
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
from cases import METHODS
from reattend import Plan, Reweight
from reattend.method import Method
from reattend.methods import ACT, VAR, VHR
from reattend.methods.act import Columns
from reattend.reading import Reading
from reattend.session import Session
from reattend.testing import Case, checks, parametrize_with_checks, run
from reattend.testing.laws import TOLERANCE
from reattend.testing.sample import sample


@parametrize_with_checks(METHODS)
def test_laws(method, check):
    check(method)


@dataclass(frozen=True)
class Highlight(Method):
    """The first keys get more attention, at the cost of all others.

    Paper: none, as small as a method can be.
    """

    width: int = 4  # how many keys

    def plan(self, call, state):
        if state is None:
            offset = np.arange(call.key_len) - call.first_key[:, None, None]
            state = ((offset >= 0) & (offset < self.width)).astype(np.uint8)
        return Plan(state, Reweight(weight=(0.5, 1), to=(1,))), state


@parametrize_with_checks([Highlight()])
def test_laws_of_a_bare_method(method, check):
    check(method)


@dataclass
class Broken(Method):
    steady = True  # and plans each step anew

    factor: float
    calls: Any = None
    rows: str = "all"  # a word that means nothing

    def plan(self, call, state):
        self.calls = (self.calls or 0) + 1  # state that is kept where it must not be
        call.value[..., 0] = 1
        labels = np.zeros((call.batch, 1, call.key_len), dtype=np.uint8)
        labels[:, :, self.calls % 3 :: 2] = 1
        if call.batch > 1:
            labels[1:] = 0
        return Plan(labels, Reweight(weight=(self.factor, 1))), None


def test_a_broken_method_breaks_the_laws():
    broken = set()
    case = Case(
        Broken(0.5), neutral=Broken(0.9), conserves=True, idle=True, one_pass=True, chunks=True
    )
    for check in checks():
        try:
            check(case)
        except SkipTest:
            raise AssertionError(f"{check.__name__} was skipped") from None
        except (AssertionError, TypeError):
            broken.add(check.__name__)
    assert broken == {check.__name__ for check in checks()} - {
        "acts_on_the_inputs", "equals_the_reference", "is_printable",
        "output_has_the_type_of_query",
    }  # fmt: skip


# The formulas, on the full matrix.


def softmax(query, key):
    """Causal attention weights of one item [H, N, M] in float64; rows are the last N keys."""
    group = len(query) // len(key)
    scores = query.astype(np.float64) @ key.astype(np.float64).repeat(group, 0).swapaxes(-1, -2)
    scores /= np.sqrt(query.shape[-1])
    rows, keys = scores.shape[-2:]
    scores[:, np.arange(keys) > np.arange(keys - rows, keys)[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def values(value, num_heads):
    return value.astype(np.float64).repeat(num_heads // len(value), 0)


def item_of(inputs, layer, item):
    return tuple(x[layer, item] for x in (inputs.query, inputs.key, inputs.value))


def test_var_equals_its_formula():
    inputs, method = sample(0), VAR(sink_dims=(7, 100))
    out = run(method, inputs)
    changed = 0
    for layer in range(5):
        for item in range(inputs.batch):
            query, key, value = item_of(inputs, layer, item)
            weights = softmax(query, key)
            x = inputs.hidden_states[layer, item, : inputs.prompt_len].astype(np.float64)
            phi = np.abs(x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6))[:, [7, 100]].max(-1)
            image = np.flatnonzero(inputs.image[item])
            sinks = np.flatnonzero(phi > 20)
            visual = np.intersect1d(image, sinks)
            others = np.setdiff1d(image, sinks)
            if layer in (2, 3) and len(visual):
                end = next(j for j in range(image[0], 99) if j not in image)
                for head in range(len(weights)):
                    for i in range(end, inputs.length):
                        row = weights[head, i].copy()
                        mass = row[image].sum()
                        if mass >= 0.2 and 1 - row[visual].sum() / mass >= 0.5:
                            omega = 0.4 * row[sinks].sum()
                            weights[head, i, sinks] = 0.6 * row[sinks]
                            weights[head, i, others] += omega * row[others] / row[others].sum()
                            changed += 1
            expected = weights @ values(value, len(query))
            assert np.abs(out[layer, item] - expected).max() < TOLERANCE
    assert 50 < changed < 500  # some rows pass and some do not


def test_act_equals_its_formula():
    inputs, theta, beta = sample(0), 0.12, 0.4
    heads = {2: (0, 3), 3: (1,)}
    out = run(ACT(heads, theta, beta), inputs)
    calibrated = 0
    for layer in range(5):
        for item in range(inputs.batch):
            query, key, value = item_of(inputs, layer, item)
            plain = softmax(query, key)
            weights = plain.copy()
            for head in heads.get(layer, ()):
                # The prompt at once, then each step with the means so far, its own row included.
                for rows in [range(24), [24], [25], [26]]:
                    seen = rows[-1] + 1
                    matrix = plain[head, :seen, :seen]
                    means = matrix.sum(0) / (seen - np.arange(seen))
                    sinks = [j for j in range(1, seen) if means[j] > theta]
                    rest = np.setdiff1d(np.arange(seen), sinks)
                    for i in rows:
                        row = matrix[i].copy()
                        freed = (1 - beta) * row[sinks].sum()
                        weights[head, i, sinks] = beta * row[sinks]
                        weights[head, i, rest] += freed * row[rest] / row[rest].sum()
                    calibrated += len(sinks)
            expected = weights @ values(value, len(query))
            assert np.abs(out[layer, item] - expected).max() < TOLERANCE
    assert calibrated > 20


@pytest.mark.parametrize("heads", [None, {1: (0, 1, 2), 3: (), 4: (3,)}])
def test_vhr_equals_its_formula(heads):
    inputs = sample(0)
    out = run(VHR(heads=heads), inputs)
    allowed = dict.fromkeys((1, 3, 4), (0, 1, 2, 3)) if heads is None else heads
    text = [x.astype(np.float64) for x in inputs.text]
    for layer in range(5):
        for item in range(inputs.batch):
            query, key, value = item_of(inputs, layer, item)
            expected = softmax(query, key) @ values(value, 4)
            query, key, value = (x[layer, item] for x in text)
            plain = (softmax(query, key) @ values(value, 4))[:, -1]
            vhd = np.linalg.norm(expected[:, inputs.prompt_len - 1] - plain, axis=-1)
            ta = (plain**2).sum(-1)
            outlier = (vhd > vhd.mean() + vhd.std(ddof=1)) & (ta > ta.mean() + ta.std(ddof=1))
            vhd[outlier] = 0
            chosen = vhd > np.median(vhd)
            chosen &= np.isin(range(4), allowed.get(layer, ()))
            if inputs.image[item].any():
                expected[chosen] *= 2
            assert np.abs(out[layer, item] - expected).max() < TOLERANCE


# What the pages say of odd cases.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAR(p=2), "p must be from 0 to 1, got 2"),
        (lambda: VAR(tau=-1), "tau must be a positive number"),
        (lambda: VAR(tau=0), "tau must be a positive number"),
        (lambda: VAR(tau=np.inf), "tau must be a"),
        (lambda: VAR(sink_dims=(-1,)), "sink_dims must"),
        (lambda: VAR(sink_dims=()), "sink_dims must hold at least one"),
        (lambda: VHR(alpha=np.nan), "alpha must be a finite number"),
        (lambda: VHR(layers=(-1,)), "layers must be from 0"),
        (lambda: VHR(layers=(9,)).layers_for(4), "layers must be below 4"),
        (lambda: ACT(beta=-1), "beta must be from 0 to 1"),
        (lambda: ACT(theta=7), "theta must be from 0 to 1"),
        (lambda: ACT(heads={-1: (2,)}), "heads must hold layers and heads from 0"),
    ],
)
def test_errors_name_the_parameter(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_act_heads_must_be_a_mapping():
    with pytest.raises(TypeError, match="heads must map layers to heads"):
        ACT(heads=(1, 2))


def test_act_heads_must_be_in_the_model():
    with pytest.raises(ValueError, match="heads must be below 4"):
        run(ACT(heads={2: (4,)}), sample(0))


def test_act_heads_in_any_form_are_equal():
    assert ACT({3: [2, 0], 1: ()}) == ACT(((1, ()), (3, (0, 2))))


def test_var_says_when_tau_can_never_be_reached():
    with pytest.raises(ValueError, match=r"tau must be below sqrt\(C\) = 22.63.*got 30"):
        run(VAR(tau=30), sample(0))


def test_var_defaults_are_the_papers():
    assert VAR() == VAR(sink_dims=None, p=0.6, rho=0.5, tau=20.0, image_mass=0.2)


def test_var_tau_below_1_is_a_share_of_the_most_that_phi_can_be():
    same = [VAR(tau=tau)._threshold(400) for tau in (0.5, 10, 1)]
    assert same == [10.0, 10.0, 1.0]
    with pytest.raises(ValueError, match=r"tau must be below sqrt\(C\) = 20"):
        VAR(tau=20).check_model(5, 4, 400)


def test_var_dimensions_must_be_those_of_the_model():
    for fits in (VAR(sink_dims=(0, 511)), VAR()):
        fits.check_model(5, 4, 512)
        fits.check_model(5, 4, None)
    with pytest.raises(ValueError, match=r"sink_dims must be below 512.*got 512"):
        VAR(sink_dims=(7, 512)).check_model(5, 4, 512)


def test_var_tells_of_the_first_item():
    def reading(layer, *sinks):
        found = {"visual sinks": [list(sinks), [3]], "text sinks": [[], []]}
        mass = np.ones((4, 4))
        return Reading(layer, "VAR", VAR.segment_names, 1, np.ones(4), mass, mass, found)

    nothing = ["no image token is a sink, so VAR changes nothing"]
    assert VAR().describe([], 5) == nothing
    assert VAR().describe([reading(2)], 5) == nothing
    found = VAR().describe([reading(2, 6), reading(3, 6, 11)], 5)
    assert found[0] == "2 image tokens found to be a sink, in layers 2-3"
    assert len(found) > 1
    assert VAR().readings(None) == {}


def test_var_asks_for_hidden_states():
    inputs = sample(0)
    session = Session(VAR(), num_layers=5)
    with session.generation(inputs.image), pytest.raises(ValueError, match="hidden_states=x"):
        session.attend(2, *(x[2, :, :, :24] for x in (inputs.query, inputs.key, inputs.value)))


def test_act_leaves_the_first_two_layers_and_the_last():
    inputs = sample(0)
    changed = run([], inputs) != run(ACT(theta=0.05), inputs)  # [L, B, H, T, Dv]
    assert changed.any(axis=(1, 2, 3, 4)).tolist() == [False, False, True, True, False]


def test_act_tells_of_layers_whose_rows_it_changed():
    def reading(layer, changed):
        mass = np.ones((len(changed), 2))
        return Reading(layer, "ACT", ("rest", "sinks"), 1, np.array(changed), mass, mass, {})

    nothing = ["no sink found behind the first key, so ACT changes nothing"]
    assert ACT().describe([], 5) == nothing
    assert ACT().describe([reading(2, [0.0, 0.0])], 5) == nothing
    found = ACT().describe([reading(2, [0.0, 0.0]), reading(3, [0.0, 0.25])], 5)
    assert found[0] == "sinks behind the first key attenuated, in layers 3"
    assert len(found) > 1


def test_act_that_saw_nothing_yet_has_no_readings():
    assert ACT().readings(None) == {}
    found = ACT().readings(Columns(np.zeros((2, 3, 0)), None, 2))
    assert found["sinks"] == [[], []]
    assert found["counts"].tolist() == [[0, 0], [0, 0]]


def test_vhr_refuses_chunks():
    with pytest.raises(ValueError, match="must be read in one call, got rows 0 to 9 of 24"):
        run(VHR(), sample(0), chunks=(10,))


def test_vhr_layers_of_small_models():
    """Of 32 layers, layer 1 and the last 14: at least the last one, and none that is not there."""
    assert VHR().layers_for(1) == (0,)
    assert VHR().layers_for(2) == (1,)
    assert VHR().layers_for(5) == (1, 3, 4)


def test_vhr_without_an_image_has_nothing_to_tell():
    assert VHR().readings(None) == {}
    assert VHR().describe([], 2)[0].startswith("0 of 0 heads reinforced")


def test_vhr_tells_of_the_first_item():
    found = {"heads": [[0, 2], [1]], "chosen": np.ones((2, 4), bool)}
    reading = Reading(1, "VHR", ("rest",), 1, np.ones(4), np.ones((4, 1)), np.ones((4, 1)), found)
    assert VHR().describe([reading], 2) == ["2 of 8 heads reinforced, in layers 1"]


def test_vhr_asks_for_the_text_branch():
    with pytest.raises(ValueError, match=r"session\.text_only\(\)"):
        run(VHR(), replace(sample(0), text=None))
