"""Policies that concern few keys, applied to what the policies before them made of a pass."""

import ml_dtypes
import numpy as np
import pytest
import reattend as ra
from reattend import Plan, Reweight, Share, reference
from reattend.border.core_call import attend
from reattend.border.request import MaskSpec
from reattend.methods import ACT, VAR, VHR
from reattend.plan import compose
from test_second_pass import MASKS, inputs, mask_of

TOLERANCE = 1e-5
ASKED = ("masses", "factors", "changed")
AHEAD = (*ASKED, "logsumexp", "column_sums")


def plans_of(rng, query_len, key_len, heads=4, sinks=5):
    """Give two plans that label many keys, and two behind them that label few."""
    many = np.zeros((2, 1, key_len - 10), np.uint8)
    many[:, :, key_len // 8 : key_len // 2] = rng.integers(1, 4, (key_len // 2 - key_len // 8,))
    first = Plan(
        many, Reweight((1, 0.6, 0.5, 1), to=(3,), when=(Share((1, 2, 3), 0.3),)),
        rng.random((2, 1, query_len)) < 0.8,
    )  # fmt: skip
    scaled = Plan(None, Reweight(rng.choice([1.0, 2.0], (2, heads, 1))))
    few = np.zeros((2, heads, key_len), np.uint8)
    for each in few.reshape(-1, key_len)[1:]:  # a head without any
        each[rng.choice(key_len, sinks, replace=False)] = 1
    sink = Plan(few, Reweight((1, 0.4), to=(0,)), few.any(-1, keepdims=True))
    last = Plan(
        None, Reweight(rng.uniform(0.5, 1, (1, heads, 1))), rng.random((1, 1, query_len)) < 0.5
    )
    return [first, scaled, sink, last]


def both_ways(tensors, mask, plans, count):
    """Give attention under all plans by way of a pass under the first ones, and the reference."""
    ahead, whole = compose(plans[:count]), compose(plans)
    spec = MaskSpec(**mask)
    found = attend(*tensors, spec, ahead.request(AHEAD), None)
    request = whole.request_behind(ahead, found, ASKED)
    revised = attend(*tensors, spec, request, None)
    assert revised.out is found.out
    expected = reference.attention(
        *(np.asarray(x, np.float32) for x in tensors), segments=whole.segments,
        policy=list(whole.policies), where=list(whole.wheres), returns=ASKED, **mask,
    )  # fmt: skip
    return found, revised, expected


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("query_len", "count"), [(300, 2), (40, 1)])
def test_it_is_what_one_pass_gives(rng, name, query_len, count):
    tensors = inputs(rng, query_len=query_len)
    mask = mask_of(name, rng, query_len, 300)
    plans = plans_of(rng, query_len, 300)
    found, revised, expected = both_ways(tensors, mask, plans, count)
    np.testing.assert_array_equal(revised.changed, (revised.factors != 1).any(-1))
    for each in ("out", "masses", "factors"):
        np.testing.assert_allclose(
            getattr(revised, each), getattr(expected, each), atol=TOLERANCE, rtol=1e-4
        )
    assert revised.changed.mean() > 0.3
    sums = reference.attention(*tensors, returns=("column_sums",), **mask).column_sums
    np.testing.assert_allclose(found.column_sums, sums, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("sinks", [1, 5, 60, 100])
def test_rows_that_sinks_hold_and_many_sinks(rng, sinks):
    """Where the rest has lost its digits a row is computed anew, and so is all with many keys."""
    query, key, value = inputs(rng)
    plans = plans_of(rng, 300, 300, sinks=sinks)
    at = plans[2].segments[:, :2].any(1)
    key = np.where(at[:, None, :, None], key * 3, key)
    query = np.abs(query)
    key = np.where(at[:, None, :, None], np.abs(key), key)
    _, revised, expected = both_ways((query, key, value), {"causal": True}, plans, 2)
    for each in ("out", "masses", "factors"):
        np.testing.assert_allclose(
            getattr(revised, each), getattr(expected, each), atol=TOLERANCE, rtol=1e-4
        )


def test_sixteen_bits(rng):
    tensors = [x.astype(ml_dtypes.bfloat16) for x in inputs(rng)]
    _, revised, expected = both_ways(tensors, {"causal": True}, plans_of(rng, 300, 300), 2)
    off = np.abs(revised.out.astype(np.float32) - expected.out)
    assert off.max() < 0.05
    assert off.mean() < 3e-3


def test_only_few_keys_are_read_again(rng):
    """What the pass before gave is corrected, not computed anew."""
    tensors, mask = inputs(rng), MaskSpec(causal=True)
    plans = plans_of(rng, 300, 300)
    ahead, whole = compose(plans[:2]), compose(plans)
    found = attend(*tensors, mask, ahead.request(AHEAD), None)
    found.out[...] = 1000
    revised = attend(*tensors, mask, whole.request_behind(ahead, found, ASKED), None)
    assert (np.abs(revised.out) > 100).mean() > 0.9
    request = whole.request_behind(ahead, found, ASKED)
    with pytest.raises(ValueError, match="ahead: not of this call"):
        attend(*tensors, mask, request._replace(plain=None), None)


def test_rows_that_are_not_finite_stay_so_alone(rng):
    query, key, value = inputs(rng)
    query[0, 1, 250] = np.nan
    value[1, 0, 299] = np.inf
    plans = plans_of(rng, 300, 300)
    _, revised, expected = both_ways((query, key, value), {"causal": True}, plans, 2)
    finite = np.isfinite(expected.out)
    assert not finite.all()
    np.testing.assert_array_equal(np.isfinite(revised.out), finite)
    np.testing.assert_allclose(revised.out[finite], expected.out[finite], atol=TOLERANCE, rtol=1e-4)


@pytest.mark.parametrize("labels", ["runs", "scattered", "per head"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_column_sums_of_a_pass_with_labels(rng, labels, dtype):
    tensors = [x.astype(dtype) for x in inputs(rng, query_len=290, key_len=600)]
    segments = np.zeros((2, 4 if labels == "per head" else 1, 580), np.uint8)
    if labels == "runs":
        segments[:, :, 100:400] = 1
    else:
        segments[...] = rng.integers(0, 2, segments.shape) * rng.integers(0, 9, segments.shape)
    mask = {"causal": True, "key_mask": np.arange(600) >= np.array([[7], [0]])}
    how = {"segments": segments, "policy": Reweight((1, 0.5) + (1,) * 7, to=(0,)), **mask}
    found = ra.attention(*tensors, returns=("column_sums", "masses"), **how)
    plain = ra.attention(*tensors, returns="column_sums", **mask)
    alone = ra.attention(*tensors, **how)
    np.testing.assert_allclose(found.column_sums, plain.column_sums, atol=2e-5, rtol=1e-5)
    np.testing.assert_array_equal(found.out, alone)


SINKS = VAR(sink_dims=(7,), tau=0.3, image_mass=0.05)
METHODS = [
    [SINKS, ACT(theta=0.05)],
    [SINKS, VHR(layers=(3,)), ACT(theta=0.05)],
    [SINKS, ACT(theta=0.05), VHR(layers=(3,))],
    [SINKS, ACT({3: (1, 2)}, theta=0.05), ACT({3: (0,)}, theta=0.1)],
    [SINKS, ACT(theta=0.999)],
]


@pytest.mark.parametrize(
    "methods", METHODS, ids=lambda each: " ".join(type(m).__name__ for m in each)
)
@pytest.mark.parametrize("given_out", [False, True])
def test_a_session_makes_one_pass(rng, methods, given_out, monkeypatch):
    query = rng.standard_normal((2, 4, 120, 16), dtype=np.float32) * 2
    key, value = rng.standard_normal((2, 2, 2, 120, 16), dtype=np.float32)
    states = rng.standard_normal((2, 120, 32), dtype=np.float32)
    states[:, [30, 45], 7] = 40
    image = np.zeros((2, 120), bool)
    image[:, 20:80] = True
    texts = {3: rng.standard_normal((2, 4, 16), dtype=np.float32)}
    asked = []

    def counted(*arguments):
        asked.append(arguments[4])
        return attend(*arguments)

    for module in ("call", "session"):
        monkeypatch.setattr(f"reattend.{module}.attend", counted)

    def run():
        asked.clear()
        session = ra.Session(methods, num_layers=6)
        with session.generation(image, text_outputs=texts):
            out = np.empty_like(query) if given_out else None
            prompt = session.attend(3, query, key, value, hidden_states=states, out=out)
            assert out is None or np.shares_memory(prompt, out)
            first = np.array(prompt)
            passes = [
                each for each in asked if (each.plain is None and each.out is None) or each.returns
            ]
            steps = [
                session.attend(
                    3,
                    query[:, :, :1],
                    *(np.concatenate([x, x[:, :, -n:]], 2) for x in (key, value)),
                )
                for n in (1, 2)
            ]
            report = session.report()
        return first, steps, report, passes

    first, steps, report, passes = run()
    behind = [each for each in passes if each.ahead is not None]
    over_all = [each for each in passes if each.ahead is None and each.segments is not None]
    assert len(over_all) == 1
    assert not [
        each
        for each in passes
        if each.segments is None and each.policy is None and "column_sums" in each.returns
    ]
    assert len(behind) == (methods[1].theta < 0.9 if type(methods[1]) is ACT else 1)
    monkeypatch.setattr("reattend.call.Call._run_ahead", lambda call, heads: None)
    other, others, expected, _ = run()
    np.testing.assert_allclose(first, other, atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(steps, others, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-4)
    assert report.prompt_changed[3] == pytest.approx(expected.prompt_changed[3], abs=1e-3)
    assert [str(each.found) for each in report.readings] == [
        str(each.found) for each in expected.readings
    ]
