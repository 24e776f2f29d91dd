"""Steps whose sinks the core follows give what methods that are asked in each step give."""

import numpy as np
import pytest
from reattend import quantize
from reattend.border.prefixed import keys_between
from reattend.following import FollowedSteps
from reattend.methods import ACT, VAR, VHR
from reattend.plan import Plan, compose_with_columns
from reattend.policy import Reweight
from reattend.session import Session

LAYER, LAYERS, DIMS = 2, 5, (3,)
HEADS, KV_HEADS, SIZE, PROMPT = 6, 2, 16, 40
TOLERANCE = 5e-6  # a few float32 roundings of outputs near 1
THETA = 0.05


class _Asked(ACT):
    """ACT that is asked in every step: a plan of its own is never passed over."""

    def plan(self, call, state):
        return super().plan(call, state)


def numbers(rng, length, batch=2):
    query = rng.standard_normal((batch, HEADS, length, SIZE), dtype=np.float32)
    key, value = rng.standard_normal((2, batch, KV_HEADS, length, SIZE), dtype=np.float32)
    query[..., 0] = 2
    for place, score in {4: (5, 4), 17: (3, 6), PROMPT + 2: (5.5, 5.5)}.items():  # the sinks
        if place < length:
            key[:, :, place, 0] = score
    return query, key, value


def image_of(batch=2):
    image = np.zeros((batch, PROMPT), bool)
    image[:, 8:30] = True
    return image


def states_of(rng, batch=2):
    states = rng.standard_normal((batch, PROMPT, 32)).astype(np.float32)
    states[:, [4, 17, 20], DIMS[0]] = 60
    return states


def generation(methods, arrays, rng, *, length, **mask):
    """Outputs of the steps behind the prompt, and the session."""
    session = Session(methods, num_layers=LAYERS)
    query, key, value = arrays
    batch = len(query)
    key_mask = mask.pop("key_mask", None)
    found = []

    def attend(start, end, **more):
        return session.attend(
            LAYER, query[:, :, start:end], *(_until(x, end) for x in (key, value)),
            key_mask=None if key_mask is None else key_mask[:, :end],
            **mask, **more,
        )  # fmt: skip

    with session.text_only():
        session.attend(LAYER, *(_until(x, 8) for x in arrays))
    with session.generation(image_of(batch)):
        attend(0, PROMPT, hidden_states=states_of(rng, batch))
        for start in range(PROMPT, length):
            found.append(attend(start, start + 1))
    return np.concatenate(found, axis=2), session


def _until(array, end):
    return keys_between(array, slice(end))


def methods_of(names, act):
    made = {"VAR": VAR(sink_dims=DIMS, tau=0.3), "VHR": VHR(layers=(LAYER,)), "ACT": act}
    return [made[name] for name in names.split()]


ORDERS = pytest.mark.parametrize("names", ["ACT", "VAR ACT", "ACT VAR", "VAR VHR ACT", "VHR ACT"])


@pytest.fixture
def followed(monkeypatch):
    """How many calls went to steps that the core follows."""
    calls = []
    serves = FollowedSteps.serves
    monkeypatch.setattr(
        FollowedSteps, "serves", lambda *given: calls.append(serves(*given)) or calls[-1]
    )
    return calls


def both(names, arrays, **given):
    """Outputs and sessions, followed by the core and asked in each step."""
    return zip(*(
        generation(methods_of(names, act), arrays, np.random.default_rng(1), **given)
        for act in (ACT(theta=THETA), _Asked(theta=THETA))
    ), strict=True)  # fmt: skip


def check_readings(one, two):
    changed = []
    for a, b in zip(one.report().readings, two.report().readings, strict=True):
        assert a.segments == b.segments
        assert a.found.keys() == b.found.keys()
        for name in a.found:
            np.testing.assert_equal(a.found[name], b.found[name])
        if b.rows:
            assert a.rows == b.rows
            np.testing.assert_allclose(a.before, b.before, atol=1e-5)
            np.testing.assert_allclose(a.after, b.after, atol=1e-5)
            np.testing.assert_allclose(a.changed, b.changed)
            changed.append((a.changed > 0).any())
    assert all(changed)
    assert changed


@ORDERS
@pytest.mark.parametrize("mask", ["none", "window", "softcap", "left", "holes"])
def test_steps_are_those_of_methods_that_are_asked(rng, followed, names, mask):
    length = PROMPT + 9
    given = {
        "none": {}, "window": {"window": 30}, "softcap": {"softcap": 8.0},
        "left": {"key_mask": np.arange(length) >= np.array([[3], [0]])},
        "holes": {"key_mask": rng.random((2, length)) < 0.9},
    }[mask]  # fmt: skip
    outs, sessions = both(names, numbers(rng, length), length=length, **given)
    # ACT alone is followed from the prompt on; beside others from the second step on.
    assert followed == [True] * (9 if names == "ACT" else 8)
    np.testing.assert_allclose(*outs, atol=TOLERANCE)
    check_readings(*sessions)


@pytest.mark.parametrize(
    "ends", [(PROMPT,), (15, PROMPT), (15, 39, PROMPT), (30, PROMPT + 2)], ids=str
)
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_they_go_on_from_the_prompt(rng, followed, ends, padding):
    """In chunks, of one row too, and from one that holds the answer's first rows."""
    length = PROMPT + 6
    arrays = numbers(rng, length)
    seen = np.ones((2, length), bool)
    seen[1, {"none": slice(0), "left": slice(5), "right": slice(33, PROMPT)}[padding]] = False
    outs, reports = [], []
    for act in (ACT(theta=THETA), _Asked(theta=THETA)):
        session, found, start = Session([act], num_layers=LAYERS), [], 0
        with session.generation(prompt_len=PROMPT):
            for end in [*ends, *range(ends[-1] + 1, length + 1)]:
                query, (key, value) = (
                    arrays[0][:, :, start:end], (_until(x, end) for x in arrays[1:])
                )  # fmt: skip
                found.append(session.attend(LAYER, query, key, value, key_mask=seen[:, :end]))
                if end == ends[-1]:
                    reports.append(session.report())
                start = end
        outs.append(np.concatenate(found, axis=2))
        reports.append(session.report())
    assert followed == [True] * (length - ends[-1] - (ends[-1] > PROMPT))
    np.testing.assert_allclose(*outs, atol=TOLERANCE)
    for one, two in ((reports[0], reports[2]), (reports[1], reports[3])):
        for mine, asked in zip(one.readings, two.readings, strict=True):
            np.testing.assert_equal(mine.found, asked.found)
            np.testing.assert_allclose(mine.changed, asked.changed)


@pytest.mark.parametrize("heads", [{LAYER: (1, 4)}, {LAYER: ()}, {}], ids=str)
def test_some_heads(rng, heads):
    arrays, length = numbers(rng, PROMPT + 5), PROMPT + 5
    outs = [
        generation([act(heads=heads, theta=THETA)], arrays, rng, length=length)[0]
        for act in (ACT, _Asked)
    ]
    np.testing.assert_allclose(*outs, atol=TOLERANCE)


def test_chunks_of_keys_and_new_room(rng, followed):
    """Beyond 512 keys a step is read in chunks; room for what keys received grows on the way."""
    length = 700
    arrays = numbers(rng, length)
    outs, sessions = both("VAR ACT", arrays, length=length)
    assert all(followed)
    np.testing.assert_allclose(*outs, atol=TOLERANCE)
    check_readings(*sessions)
    again, _ = generation(methods_of("VAR ACT", ACT(theta=THETA)), arrays,
                          np.random.default_rng(1), length=length, num_threads=2)  # fmt: skip
    np.testing.assert_array_equal(outs[0], again)


@pytest.mark.parametrize("kind", ["float16", "int8", "int4"])
def test_other_types(rng, kind):
    length = PROMPT + 5
    query, key, value = numbers(rng, length)
    if kind == "int8":
        arrays = query, quantize(key), quantize(value)
    elif kind == "int4":
        arrays = query, quantize(key, bits=4, by_channel=True), quantize(value, bits=4)
    else:
        arrays = tuple(x.astype(kind) for x in (query, key, value))
    outs, _ = both("VAR ACT", arrays, length=length)
    np.testing.assert_allclose(*outs, atol=4e-3 if kind == "float16" else TOLERANCE)


def test_an_item_is_what_it_is_alone(rng):
    length = PROMPT + 7
    arrays = numbers(rng, length)
    methods = methods_of("VAR ACT", ACT(theta=THETA))
    states = states_of(np.random.default_rng(1))

    def run(items):
        session = Session(methods, num_layers=LAYERS)
        with session.generation(image_of(len(items))):
            outs = []
            for start, end in [(0, PROMPT), *((i, i + 1) for i in range(PROMPT, length))]:
                outs.append(session.attend(
                    LAYER, arrays[0][items, :, start:end], *(x[items, :, :end] for x in arrays[1:]),
                    hidden_states=states[items, start:end] if start < PROMPT else None,
                ))  # fmt: skip
        return np.concatenate(outs, axis=2)

    whole = run([0, 1])
    for item in (0, 1):
        np.testing.assert_array_equal(whole[item], run([item])[0])


@pytest.mark.parametrize("size", [14, 60])
def test_sinks_that_take_nearly_all(rng, size):
    """A row that is hardly anything beside its sinks keeps its digits, and so do such segments."""
    length = PROMPT + 5
    query, key, value = numbers(rng, length)
    key[:, :, [4, 17], 0] = size
    outs, sessions = both("VAR ACT", (query, key, value), length=length)
    reading = next(r for r in sessions[0].report().readings if r.method == "ACT")
    assert (reading.before[:, 1] > 0.95).all()
    np.testing.assert_allclose(*outs, atol=2e-5)


@pytest.mark.parametrize("theta", [0.02, 0.05, 0.1, 0.2])
def test_a_key_that_is_hidden_for_a_while(rng, theta):
    """Rows that do not see a key do not count for it, also where rows before them did."""
    length = PROMPT + 60
    arrays = numbers(rng, length)
    outs, sessions = [], []
    for act in (ACT(theta=theta), _Asked(theta=theta)):
        session, found = Session([act], num_layers=LAYERS), []
        with session.generation(prompt_len=PROMPT):
            for start, end in [(0, PROMPT), *((i, i + 1) for i in range(PROMPT, length))]:
                seen = np.ones((2, end), bool)
                seen[:, [4, 17]] = not PROMPT < start < length - 5
                query, (key, value) = (
                    arrays[0][:, :, start:end],
                    (_until(x, end) for x in arrays[1:]),
                )
                found.append(session.attend(LAYER, query, key, value, key_mask=seen))
        outs.append(np.concatenate(found, axis=2))
        sessions.append(session)
    np.testing.assert_allclose(*outs, atol=TOLERANCE)
    for one, two in zip(*(session.report().readings for session in sessions), strict=True):
        np.testing.assert_equal(one.found, two.found)
        np.testing.assert_array_equal(one.changed, two.changed)


def test_what_act_says_of_its_sinks(rng):
    length = PROMPT + 5
    arrays = numbers(rng, length)
    _, session = generation([ACT(theta=THETA)], arrays, rng, length=length)
    (reading,) = session.report().readings
    assert all({4, 17} <= set(sinks) for sinks in reading.found["sinks"])
    first, *more = ACT().describe([reading], LAYERS)
    assert first == f"sinks behind the first key attenuated, in layers {LAYER}"
    assert more
    _, session = generation([ACT(theta=1.0)], arrays, rng, length=length)
    (reading,) = session.report().readings
    assert "no sink found" in ACT().describe([reading], LAYERS)[0]
    assert reading.found["sinks"] == [[], []]
    assert not reading.found["counts"].any()


def test_what_goes_beyond_is_asked_and_then_followed_again(rng, followed):
    """Several rows, a bias and a reordered batch: the means go on from where the core left them."""
    length = PROMPT + 12
    query, key, value = numbers(rng, length)
    bias = rng.standard_normal((1, 1, length, length)).astype(np.float32)
    outs = []
    for act in (ACT(theta=THETA), _Asked(theta=THETA)):
        session = Session([VAR(sink_dims=DIMS, tau=0.3), act], num_layers=LAYERS)
        found, order = [], np.array([0, 1])
        with session.generation(image_of()):
            for start, end, more in [
                (0, PROMPT, {"hidden_states": states_of(np.random.default_rng(1))}),
                (40, 41, {}), (41, 42, {}), (42, 45, {}), (45, 46, {}),
                (46, 47, {"bias": bias[..., 46:47, :47]}), (47, 48, {}), (48, 49, {}),
                (49, 50, {"reorder": np.array([1, 1])}), (50, 51, {}), (51, 52, {}),
            ]:  # fmt: skip
                if "reorder" in more:
                    session.reorder(more.pop("reorder"))
                    order = np.array([1, 1])
                found.append(session.attend(
                    LAYER, query[order, :, start:end], key[order, :, :end], value[order, :, :end],
                    **more,
                ))  # fmt: skip
        outs.append(np.concatenate(found, axis=2))
        readings = session.report().readings
    assert True in followed
    assert False in followed
    np.testing.assert_allclose(*outs, atol=TOLERANCE)
    assert any(np.any(each.changed) for each in readings)


def test_a_step_that_was_not_noted_is_made_again(rng):
    """Ctrl-C between the core and the session's own notes leaves the means as they were."""
    length = PROMPT + 6
    arrays = numbers(rng, length)
    session = Session([ACT(theta=THETA)], num_layers=LAYERS)
    with session.generation(prompt_len=PROMPT):
        outs = []
        for start, end in [(0, PROMPT), *((i, i + 1) for i in range(PROMPT, length))]:
            given = (LAYER, arrays[0][:, :, start:end], *(x[:, :, :end] for x in arrays[1:]))
            seen = dict(session._run.seen)
            out = session.attend(*given)
            if start >= PROMPT:
                session._run.seen.clear()
                session._run.seen.update(seen)
                np.testing.assert_array_equal(out, session.attend(*given))
            outs.append(out)
    once, _ = generation([ACT(theta=THETA)], arrays, rng, length=length)
    np.testing.assert_array_equal(np.concatenate(outs[1:], axis=2), once)


def test_values_that_are_not_finite_stay_with_rows_that_see_them(rng):
    length = PROMPT + 5
    query, key, value = numbers(rng, length)
    value[0, :, 20] = np.nan
    mask = np.ones((2, length), bool)
    mask[0, 20] = False
    outs, _ = both("ACT", (query, key, value), length=length, key_mask=mask)
    assert np.isfinite(outs[0]).all()
    np.testing.assert_allclose(*outs, atol=TOLERANCE)


def test_plans_that_cannot_be_followed_are_none(rng):
    labels = np.zeros((1, 1, 4), np.uint8)
    columns = Plan(None, Reweight((1, 0.4), to=(0,)))
    many = Plan(labels, Reweight((1,) * 9))
    assert compose_with_columns([many, columns], 1) is None
    assert compose_with_columns([Plan(labels, np.ones_like), columns], 1) is None
    assert compose_with_columns([columns, Plan(labels, Reweight((1,) * 8))], 0) is not None
