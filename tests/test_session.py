"""Session: generations, several methods at once, text-only runs, reports, and what is refused."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from cases import ACTING
from reattend import attention, reference
from reattend.border import core_call
from reattend.method import Method
from reattend.methods import ACT, ADHH, PAI, VAR, VHR, HeadMask
from reattend.plan import Plan
from reattend.policy import Reweight
from reattend.session import Session
from reattend.testing import Recorder, run
from reattend.testing.laws import PADDING, TOLERANCE
from reattend.testing.sample import sample

ALL = (VAR(), VHR(), ACT())


@pytest.fixture
def inputs():
    return sample(0)


def prompt(inputs, layer):
    arrays = (inputs.query, inputs.key, inputs.value)
    return tuple(x[layer, :, :, : inputs.prompt_len] for x in arrays)


# Several methods


def test_methods_compose_in_order(inputs):
    """One after the other on the full matrix gives what the composition gives in one pass."""
    recorders = [Recorder(method) for method in ALL]
    out = run(recorders, inputs)
    cuts = [0, *range(inputs.prompt_len, inputs.length + 1)]
    calls = [(layer, *c) for c in pairwise(cuts) for layer in range(5)]
    for call, (layer, start, end) in enumerate(calls):
        query, key, value, _ = list(inputs.layers())[layer]
        weights = reference.weights(query[:, :, start:end], key[:, :, :end], causal=True)[0]
        for recorder in recorders:
            plan = recorder.plans[call]
            if plan is None:
                continue
            labels = np.zeros((1, 1, 0), np.uint8) if plan.segments is None else plan.segments
            labels = np.pad(labels, ((0, 0), (0, 0), (0, end - labels.shape[-1])))
            chosen = labels[:, :, None, :, None] == np.arange(plan.num_segments)
            factors = plan.policy((weights[..., None] * chosen).sum(-2))
            if plan.where is not None:
                factors = np.where(plan.where[..., None], factors, 1)
            weights = (weights[..., None] * chosen * factors[..., None, :]).sum(-1)
        expected = weights @ value[:, :, :end].astype(np.float64).repeat(2, axis=1)
        assert np.abs(out[layer][:, :, start:end] - expected).max() < TOLERANCE


def test_no_method_is_plain_attention(inputs):
    out = run((), inputs)
    for layer in range(5):
        plain = attention(*prompt(inputs, layer), causal=True)
        np.testing.assert_array_equal(out[layer][:, :, : inputs.prompt_len], plain)


def test_composition_under_padding_and_reorder(inputs):
    out = run(ALL, inputs)
    assert np.abs(run(ALL, inputs.pad_left(3))[..., 3:, :] - out).max() <= PADDING
    order = np.array([2, 0, 1, 0])
    np.testing.assert_array_equal(run(ALL, inputs, reorder=order), out[:, order])


# Image and text-only branch


def test_right_padding(inputs):
    """A prompt that is padded at the right gives its rows what it gives alone."""
    drop = np.array([0, 5, 3])
    steps = inputs.length - inputs.prompt_len
    mask = np.arange(inputs.prompt_len) < inputs.prompt_len - drop[:, None]
    mask = np.pad(mask, ((0, 0), (0, steps)), constant_values=True)
    for method in ALL:
        out = run(method, replace(inputs, key_mask=mask, image=inputs.image & mask[:, :-steps]))
        for item, width in enumerate(drop):
            keep = np.r_[: inputs.prompt_len - width, inputs.prompt_len : inputs.length]
            one = inputs.take(np.array([item]))
            alone = replace(
                one, query=one.query[..., keep, :], key=one.key[..., keep, :],
                value=one.value[..., keep, :], hidden_states=one.hidden_states[..., keep, :],
                image=one.image[:, : inputs.prompt_len - width],
                prompt_len=inputs.prompt_len - width,
            )  # fmt: skip
            difference = out[:, item : item + 1, :, keep] - run(method, alone)
            assert np.abs(difference).max() <= PADDING, method


def test_text_branch_of_its_own_and_in_the_batch_choose_the_same_heads(inputs):
    pad = ((0, 0), (0, 0), (0, 0), (inputs.prompt_len - inputs.text[0].shape[3], 0), (0, 0))
    both = [
        np.concatenate([full[..., : inputs.prompt_len, :], np.pad(text, pad)], axis=1)
        for full, text in zip((inputs.query, inputs.key, inputs.value), inputs.text, strict=True)
    ]
    key_mask = np.ones((6, inputs.prompt_len), bool)
    key_mask[3:, : pad[3][0]] = False
    session = Session(VHR(), num_layers=5)
    image = np.concatenate([inputs.image, np.zeros_like(inputs.image)])
    with session.generation(image, text_only=np.arange(6) >= 3):
        for layer in range(5):
            session.attend(layer, *(x[layer] for x in both), key_mask=key_mask)
    in_batch = {r.layer: r.found for r in session.report().readings}
    own = Session(VHR(), num_layers=5)
    run((), inputs, session=own)
    for reading in own.report().readings:
        found = in_batch[reading.layer]
        np.testing.assert_array_equal(found["chosen"][:3], reading.found["chosen"])
        np.testing.assert_allclose(found["divergence"][:3], reading.found["divergence"], rtol=1e-5)
        assert not found["chosen"][3:].any()


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_by_itself_a_prompt_is_read_once_and_the_same_heads_are_chosen(inputs, monkeypatch, kind):
    """The pass that VHR corrects tells the last row as well; 16 bits would have rounded it."""
    passes = []
    attend = core_call.attend

    def counted(query, key, value, mask, asked, num_threads):
        corrects = asked.plain is not None
        passes.append("correction" if corrects else "prompt" if query.shape[2] > 1 else "row")
        return attend(query, key, value, mask, asked, num_threads)

    monkeypatch.setattr("reattend.call.attend", counted)
    monkeypatch.setattr("reattend.session.attend", counted)
    found = []
    idle = ACT(heads={0: ()})
    for methods in ((VHR(),), (VHR(), idle)):
        session = Session(methods, num_layers=5)
        with session.text_only():
            for layer in range(5):
                session.attend(layer, *(x[layer].astype(kind) for x in inputs.text))
        passes.clear()
        with session.generation(inputs.image):
            out = session.attend(4, *(x.astype(kind) for x in prompt(inputs, 4)))
        found.append((out, session.report().readings[0].found, list(passes)))
    (alone, one, own), (beside, two, others) = found
    assert one["chosen"].any()
    np.testing.assert_array_equal(one["chosen"], two["chosen"])
    np.testing.assert_allclose(alone, beside, atol=TOLERANCE if kind == "float32" else 2e-3)
    assert own == (["prompt", "correction"] if kind == "float32" else ["row", "prompt"])
    assert others == ["row", "prompt"]


def test_text_only_run_in_chunks(inputs):
    def heads(cuts):
        session = Session(VHR(), num_layers=5)
        with session.text_only():
            for start, end in zip([0, *cuts], [*cuts, 14], strict=True):
                for layer in range(5):
                    q, k, v = (x[layer] for x in inputs.text)
                    session.attend(layer, q[:, :, start:end], k[:, :, :end], v[:, :, :end])
        with session.generation(inputs.image):
            for layer in range(5):
                session.attend(layer, *prompt(inputs, layer))
        return [r.found["chosen"] for r in session.report().readings]

    np.testing.assert_array_equal(heads([]), heads([4, 9]))


def test_text_only_run_is_used_up(inputs):
    session = Session(VHR(), num_layers=5)
    run((), inputs, session=session)
    with (
        session.generation(inputs.image),
        pytest.raises(ValueError, match=r"run it first inside session\.text_only"),
    ):
        session.attend(0, *prompt(inputs, 0))


def test_a_failed_text_only_run_leaves_nothing(inputs):
    session = Session(VHR(), num_layers=5)

    def fail():
        with session.text_only():
            session.attend(0, *(x[0] for x in inputs.text))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert session._text_outputs is None


def test_dims_are_not_found_in_chunks(inputs):
    with pytest.raises(ValueError, match=r"sink_dims must be given where.*got rows 0 to 8 of 24"):
        run(VAR(), inputs, chunks=(9,))


@pytest.mark.parametrize("method", ALL, ids=lambda method: type(method).__name__)
def test_a_plan_of_its_own_is_asked_in_every_step(inputs, method):
    """A subclass inherits what its class says of steps only with its class's plan."""
    rows = []

    class _Own(type(method)):
        def plan(self, call, state):
            rows.append((call.layer, call.first_row))
            return super().plan(call, state)

    run((), inputs, session=Session(_Own(), num_layers=5))
    steps = range(inputs.prompt_len, inputs.query.shape[3])
    assert {(layer, row) for layer in range(5) for row in steps} <= set(rows)


# Steps


def test_several_rows_a_step_equal_one_row_a_step(inputs):
    one = run(VAR(), inputs)
    session = Session(VAR(), num_layers=5)
    with session.generation(inputs.image):
        for layer, (query, key, value, states) in enumerate(inputs.layers()):
            session.attend(layer, *prompt(inputs, layer), hidden_states=states[:, :24])
            out = session.attend(layer, query[:, :, 24:], key, value)
            assert np.abs(out - one[layer][:, :, 24:]).max() < TOLERANCE


def test_act_sinks_may_stay_those_of_the_prompt(inputs):
    session = Session(ACT(update_sinks=False, theta=0.1), num_layers=5)
    run((), inputs, session=session)
    assert all(max(map(max, r.found["sinks"])) < 24 for r in session.report().readings)
    session = Session(ACT(theta=0.1), num_layers=5)
    run((), inputs, session=session)
    assert any(max(map(max, r.found["sinks"])) >= 24 for r in session.report().readings)


def test_act_changes_no_row_of_a_head_without_a_sink(rng):
    query, key, value = rng.standard_normal((3, 1, 2, 40, 8), np.float32)
    query[..., 0] = key[..., 0] = 0
    query[:, 0, :, 0], key[:, 0, 5, 0] = 9, 3  # only the first head has a sink
    session = Session(ACT(theta=0.4), num_layers=5)
    with session.generation():
        for end in range(30, 41):
            rows = slice(0 if end == 30 else end - 1, end)
            out = session.attend(2, query[:, :, rows], key[:, :, :end], value[:, :, :end])
            plain = attention(query[:, :, rows], key[:, :, :end], value[:, :, :end], causal=True)
            assert (out[:, 1] == plain[:, 1]).all()
    report = session.report()
    (reading,) = report.readings
    assert reading.found["counts"].tolist() == [[1, 0]]
    assert reading.changed.tolist() == [1, 0]
    assert report.prompt_changed[2] == (30 - 5) / 60  # rows before the sink do not see it


def test_out_is_written(inputs):
    session = Session(ALL[:1], num_layers=5)
    out = np.empty_like(prompt(inputs, 2)[0])
    with session.generation(inputs.image):
        states = inputs.hidden_states[2, :, :24]
        result = session.attend(2, *prompt(inputs, 2), hidden_states=states, out=out)
    assert result is out
    np.testing.assert_array_equal(out, run(VAR(), inputs)[2][:, :, :24])


# Report


def test_report_says_what_was_done(inputs):
    session = Session(ALL, num_layers=5)
    run((), inputs, session=session)
    report = session.report()
    by_layer = {(r.layer, r.method): r for r in report.readings}
    var = by_layer[2, "VAR"]
    assert var.rows == 3 * inputs.batch  # three steps
    assert var.segments == ("rest", "text sinks", "visual sinks", "image")
    np.testing.assert_allclose(var.before.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(var.after.sum(-1), 1, atol=1e-5)
    assert 0 < var.changed.mean() < 1
    assert var.found["visual sinks"] == [[6, 11], [5, 14], []]
    act = by_layer[2, "ACT"]
    assert (act.after[:, 1] <= act.before[:, 1]).all()
    assert by_layer[1, "VHR"].found["heads"][2] == []
    assert "visual sinks" in str(report)
    assert report.prompt_changed[1] == pytest.approx(1 / 3)


def test_report_adds_up_many_steps(rng):
    """Steps wait to be added up; their number must not show."""

    class _Half(Method):
        def plan(self, call, state):
            return Plan(np.ones((1, 1, 2), np.uint8), Reweight((1, 0.5), to=(0,))), state

    key = rng.standard_normal((1, 2, 200, 8), dtype=np.float32)
    session = Session(_Half(), num_layers=1)
    masses = []
    with session.generation(prompt_len=5):
        for end in range(5, 200):
            query = rng.standard_normal((1, 2, 1 if end > 5 else 5, 8), dtype=np.float32)
            session.attend(0, query, key[:, :, :end], key[:, :, :end])
            labels = np.ones((1, 1, 2), np.uint8)
            if end > 5:
                masses.append(
                attention(query, key[:, :, :end], key[:, :, :end], causal=True, segments=labels,
                          returns="masses").masses[:, :, -1]
            )  # fmt: skip
    reading = session.report().readings[0]
    assert reading.rows == 194
    np.testing.assert_allclose(reading.before, np.mean(masses, axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(reading.after[:, 1], reading.before[:, 1] / 2, rtol=1e-5)


def test_report_of_a_prompt_alone(rng):
    """As after an answer of one token: no step was taken, and yet layers were changed."""
    query, key, value = rng.standard_normal((3, 1, 2, 5, 8), np.float32)
    session = Session(HeadMask({1: (0,)}), num_layers=2)
    with session.generation(prompt_len=5):
        for layer in range(2):
            session.attend(layer, query, key, value)
    report = session.report()
    assert report.prompt_changed == {1: 0.5}
    assert str(report).splitlines()[1].split() == ["1", "50.0%", "0"]
    assert "<td>1<td><td>50.0%<td>0" in report._repr_html_()
    assert repr(report) == "Report(a prompt alone: 1 layer; print it for a table)"


def test_report_before_anything():
    assert str(Session(VAR(), num_layers=5).report()) == "No layer was changed."


# What is refused


def attend(session, inputs, layer=0, **kwargs):
    return session.attend(layer, *prompt(inputs, layer), **kwargs)


def test_attend_outside_a_generation(inputs):
    with pytest.raises(RuntimeError, match=r"must be called inside session\.generation"):
        attend(Session(VAR(), num_layers=5), inputs)


def test_generations_do_not_nest():
    session = Session((), num_layers=5)
    with (
        session.generation(),
        pytest.raises(RuntimeError, match="is open already"),
        session.generation(),
    ):
        pass
    with pytest.raises(RuntimeError, match="reorder"):
        session.reorder(np.array([0]))


def test_state_ends_with_an_exception(inputs):
    session = Session(VAR(), num_layers=5)
    with pytest.raises(ValueError, match="hidden_states"), session.generation(inputs.image):
        attend(session, inputs, 2)
    with pytest.warns(UserWarning, match="no image"), session.generation():
        attend(session, inputs, 2)


def test_a_generation_does_not_go_back(inputs):
    session = Session((), num_layers=5)
    with session.generation():
        attend(session, inputs)
        with pytest.raises(ValueError, match="layer 0: rows before 24 were seen already"):
            attend(session, inputs)
        attend(session, inputs, 1)  # another layer may


@pytest.mark.parametrize(
    ("opened", "called", "message"),
    [
        ({}, {"layer": 5}, "layer must be from 0 to 4, got 5"),
        ({"image": np.ones((2, 24), bool)}, {}, "query must have the batch size of the prompt, 2"),
        ({}, {"hidden_states": np.ones((3, 1, 8))}, r"hidden_states must be \[B, N, C\]"),
        ({}, {"key_mask": np.ones((3, 24))}, r"key_mask must be bool \[B, M\].*float64"),
        ({}, {"key_mask": np.ones((3, 2), bool)}, r"key_mask must be bool \[B, M\]"),
        ({"image": np.ones((3, 24))}, {}, r"image must be bool \[B, P\], got float64"),
        ({"image": np.ones((3, 24), bool), "prompt_len": 9}, {}, "prompt_len must be at least"),
        ({"prompt_len": 0}, {}, "prompt_len must be at least 1, got 0"),
        ({"text_only": np.ones(3)}, {}, r"text_only must be bool \[B\]"),
        (
            {"image": np.ones((3, 24), bool), "text_only": np.ones(2, bool)},
            {},
            "batch size of image",
        ),
        ({"text_only": np.array([True, False, False])}, {}, "must mark one row for each unmarked"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*will change nothing")
def test_errors_name_the_argument(inputs, opened, called, message):
    session = Session(VHR(), num_layers=5)
    with pytest.raises(ValueError, match=message), session.generation(**opened):
        attend(session, inputs, **called) if "layer" not in called else session.attend(
            called["layer"], *prompt(inputs, 0)
        )


def test_session_checks_its_arguments(inputs):
    with pytest.raises(TypeError, match="methods must be Method instances"):
        Session([VAR], num_layers=2)
    with pytest.raises(ValueError, match="num_layers must be at least 1"):
        Session(VAR(), num_layers=0)
    session = Session((), num_layers=5, num_heads=32)
    with session.generation(), pytest.raises(ValueError, match="query must have 32 heads, got 4"):
        attend(session, inputs)


def test_nothing_is_kept_when_a_call_fails(inputs):
    session = Session(ACT(theta=0.1), num_layers=5)
    with session.generation():
        query, key, value = prompt(inputs, 2)
        with pytest.raises(ValueError, match="value"):
            session.attend(2, query, key, value[:, :, :5])
        out = session.attend(2, query, key, value)
    np.testing.assert_array_equal(out, run(ACT(theta=0.1), inputs)[2][:, :, :24])


def test_report_counts_rows_whose_scores_were_edited(inputs):
    """PAI has no factors: its transform changes the prompt's last row and every step's."""
    session = Session([PAI(layers=(3,))], num_layers=5)
    run((), inputs, session=session)
    reading = next(r for r in session.report().readings if r.layer == 3)
    assert reading.method == "PAI"
    assert (reading.changed == 1).all()
    rows = inputs.image.shape[1]
    assert session.report().prompt_changed[3] == pytest.approx(1 / rows)


def test_report_counts_no_row_of_a_transform_that_changes_nothing(inputs):
    session = Session([PAI(layers=(3,), alpha=0.0)], num_layers=5)
    run((), inputs, session=session)
    assert not any(r.changed.any() for r in session.report().readings)


# What is prepared once
STEADY = [
    name for name, each in ACTING.items()
    if name not in ("ACT", "ILVAD")  # whose means are summed otherwise; evidence of other images
    and (each.steady or type(each).goes_on is not Method.goes_on)
]  # fmt: skip


@pytest.mark.parametrize("reorder", [None, [2, 0, 1]], ids=["", "reordered"])
@pytest.mark.parametrize("name", STEADY)
def test_a_steady_method_plans_every_step_as_the_first(name, reorder):
    """What a session repeats is what the method would say again, to the bit; so are reports."""
    inputs, method = sample(0), ACTING[name]
    order = None if reorder is None else np.array(reorder)
    sessions = [Session(each, num_layers=5) for each in (method, Recorder(method))]
    repeated, asked = (run((), inputs, session=each, reorder=order) for each in sessions)
    exact = method.steady or name in ("CAAC", "OWL")  # else a row's sums are made otherwise
    np.testing.assert_allclose(repeated, asked, rtol=0, atol=0 if exact else TOLERANCE)
    for found, wanted in zip(*(each.report().readings for each in sessions), strict=True):
        assert (found.layer, found.rows) == (wanted.layer, wanted.rows)
        np.testing.assert_array_equal(found.changed, wanted.changed)
        np.testing.assert_allclose(found.before.sum(-1), wanted.before.sum(-1), rtol=1e-12)
        np.testing.assert_allclose(found.after.sum(-1), wanted.after.sum(-1), rtol=1e-12)


@pytest.mark.parametrize(
    "method", [ADHH({1: (0, 1)}, 0.01, "after_image"), PAI(rows="after_image")]
)
def test_steps_of_several_rows_do_not_bind_those_behind_them(method, rng):
    """Rows are marked one by one where an item has no image: the next step has others."""
    query, key, value = rng.standard_normal((3, 2, 4, 16, 8), np.float32)
    image = np.zeros((2, 10), bool)
    image[0, 2:6] = True
    outputs = []
    for each in (method, Recorder(method)):
        with (session := Session(each, num_layers=3)).generation(image):
            for start, end in ((0, 10), (10, 12), (12, 13), (13, 16)):
                out = session.attend(1, query[:, :, start:end], key[:, :, :end], value[:, :, :end])
                outputs.append(out)
    for found, wanted in zip(outputs[:4], outputs[4:], strict=True):
        np.testing.assert_array_equal(found, wanted)
