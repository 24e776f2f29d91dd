"""Items that share their first keys: read together, and the same as with all keys of each."""

import ml_dtypes
import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from reattend import (
    ACT,
    VAR,
    VHR,
    KVCache,
    Prefixed,
    Reweight,
    Session,
    apply_policy,
    attention,
    column_sums,
    explain,
    quantize,
    segment_pass,
)
from reattend.transform import Transform
from tensors import TOLERANCE, Sizes, agree, close, tensors


def shared_and_own(rng, batch, kv_heads, shared, own, dim, value_dim):
    """Give Prefixed keys and values, of normal distributions."""
    return (
        Prefixed(
            rng.standard_normal((1, kv_heads, shared, size), np.float32),
            rng.standard_normal((batch, kv_heads, own, size), np.float32),
        )
        for size in (dim, value_dim)
    )


def whole(*prefixed):
    return [each.whole() for each in prefixed]


@given(st.data())
@settings(max_examples=examples(80), deadline=None)
def test_all_results_are_those_of_all_keys(data):
    """Masks, biases, labels and policies of any kind, and whatever is asked for beside."""
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, kv_heads, group = (draw(st.integers(1, most)) for most in (5, 2, 3))
    shared = draw(st.sampled_from([0, 1, 7, 511, 512, 513, 700, 1100]))
    own, rows = draw(st.sampled_from([0, 1, 5, 530])), draw(st.integers(1, 8))
    key, value = shared_and_own(rng, batch, kv_heads, shared, own, 8, draw(st.integers(1, 9)))
    total, heads = shared + own, kv_heads * group
    query = rng.standard_normal((batch, heads, rows, 8), np.float32)
    how = {"causal": draw(st.booleans())}
    if draw(st.booleans()):
        how["key_mask"] = rng.random((batch, total)) < 0.7
    if draw(st.booleans()):
        how["window"] = draw(st.integers(1, 600))
    if draw(st.booleans()):
        how["bias"] = rng.standard_normal((batch, 1, 1, total), np.float32)
    if draw(st.booleans()):
        how["softcap"] = 3.0
    count = draw(st.integers(1, 4))
    labels_of = draw(st.sampled_from(["none", "all", "items", "heads"]))
    if labels_of != "none":
        shape = (batch if labels_of != "all" else 1, heads if labels_of == "heads" else 1, total)
        labels = rng.integers(0, count, shape, np.uint8)
        if draw(st.booleans()):
            labels = np.sort(labels)  # long runs
        how["segments"] = np.broadcast_to(labels, (batch, *shape[1:]))
    weight = rng.random((batch, heads, count)) + 0.1
    how["policy"] = [Reweight(weight, to=(0,)), Reweight(np.linspace(0.5, 2, count))]
    how["where"] = [rng.random((batch, heads, rows)) < 0.8, None]
    returns = ["masses", "logsumexp", "factors", "score_sums", "entropies", "largest", "scores"]
    if rows == 1:
        returns.append("column_sums")
    found = attention(query, key, value, returns=returns, **how)
    expected = attention(query, *whole(key, value), returns=returns, **how)
    for name, actual in found._asdict().items():
        if actual is not None:
            close(actual, getattr(expected, name), name)
    agree((query, *whole(key, value)), returns=("masses",), **how)  # as the specification says


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("batch", [1, 3, 12])
def test_stored_types(rng, kind, batch):
    """What is stored narrow is widened; the output is that of the numbers stored."""
    key, value = shared_and_own(rng, batch, 2, 600, 9, 16, 16)
    query = rng.standard_normal((batch, 4, 1, 16), np.float32)
    if kind == "int8":
        key, value = (Prefixed(*map(quantize, each)) for each in (key, value))
        wide = [each.whole().to_float32() for each in (key, value)]
    elif kind == "int4":
        key = Prefixed(*(quantize(each, bits=4, by_channel=True) for each in key))
        value = Prefixed(*(quantize(each, bits=4) for each in value))
        wide = [each.whole() for each in (key, value)]
    else:
        dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else np.float16
        key, value = (Prefixed(*(x.astype(dtype) for x in each)) for each in (key, value))
        wide = [each.whole().astype(np.float32) for each in (key, value)]
    close(attention(query, key, value), attention(query, *wide))


def test_neither_who_shares_nor_threads_change_a_byte(rng):
    """An item gets what it gets alone, of a few items or of more than are read together."""
    key, value = shared_and_own(rng, 70, 2, 1300, 20, 24, 24)
    query = rng.standard_normal((70, 6, 1, 24), np.float32)
    labels = rng.integers(0, 3, (1, 1, 1320), np.uint8)
    how = {"policy": Reweight((1, 0.5, 0.2), to=(0,)), "returns": ("masses", "column_sums")}

    def run(items, threads):
        parts = (Prefixed(each.prefix, each.own[:items]) for each in (key, value))
        segments = np.broadcast_to(labels, (items, 1, 1320))
        return attention(query[:items], *parts, segments=segments, num_threads=threads, **how)

    everyone = run(70, 1)
    for items, threads in ((1, 1), (2, 2), (9, 3), (70, 4)):
        for part, of_all in zip(run(items, threads), everyone, strict=True):
            if part is not None:
                np.testing.assert_array_equal(part, of_all[:items])


def test_what_no_row_sees_may_be_anything(rng):
    """NaN in keys that an item's mask hides reaches that item not, others who see it only."""
    key, value = shared_and_own(rng, 3, 1, 40, 4, 8, 8)
    value.prefix[:, :, 7] = np.nan
    mask = np.ones((3, 44), bool)
    mask[:2, 7] = False
    query = rng.standard_normal((3, 2, 1, 8), np.float32)
    found = attention(query, key, value, key_mask=mask)
    assert np.isfinite(found[:2]).all()
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize("rows", [9, 40])
def test_calls_that_join_both_parts(rng, rows):
    """Many rows, column sums of several, Python's policies and the open steps are exact too."""
    key, value = shared_and_own(rng, 2, 2, 300, rows, 16, 16)
    query = rng.standard_normal((2, 4, rows, 16), np.float32)
    both = whole(key, value)
    np.testing.assert_array_equal(
        attention(query, key, value, causal=True), attention(query, *both, causal=True)
    )
    few = query[:, :, :3]
    close(
        attention(few, key, value, returns="column_sums").column_sums,
        attention(few, *both, returns="column_sums").column_sums,
    )
    logsumexp = attention(few, *both, returns="logsumexp").logsumexp
    np.testing.assert_array_equal(
        column_sums(few, key, logsumexp), column_sums(few, both[0], logsumexp)
    )
    labels = rng.integers(0, 2, (2, 1, 300 + rows), np.uint8)
    how = {"segments": labels, "policy": lambda masses: 1 + masses}
    close(attention(few, key, value, **how), attention(few, *both, **how))
    for actual, expected in zip(
        segment_pass(few, key, value, segments=labels),
        segment_pass(few, *both, segments=labels),
        strict=True,
    ):
        close(actual, expected)
    boost = Transform(shift=np.ones((1, 1, 250)))
    null = np.float32(1)
    close(
        attention(few, key, value, transform=boost, null_logit=null),
        attention(few, *both, transform=boost, null_logit=null),
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_generation_of_questions_about_one_prompt(rng, dtype):
    """Methods at work in a forked batch, step by step, against caches of each item's own."""
    batch, heads, kv_heads, dim, prompt, layers = 5, 4, 2, 16, 530, 4
    image = np.zeros((1, prompt), bool)
    image[:, 20:400] = True
    states = rng.standard_normal((1, prompt, 32)).astype(np.float32)
    states[:, 30, 7] = 90

    def steps(shared):
        draws = np.random.default_rng(1)
        methods = [
            VAR(sink_dims=(7,), tau=5, rho=0, image_mass=0.05),
            VHR(layers=(2,)),
            ACT(theta=0.02),
        ]
        session = Session(methods, num_layers=layers)
        cache, items = KVCache(layers, dtype=dtype), batch
        first = draws.standard_normal((3, layers, 1, heads, prompt, dim)).astype(np.float32)
        text = {layer: np.zeros((batch, heads, dim), np.float32) for layer in range(layers)}
        everyone = KVCache(layers, dtype=dtype)
        outputs = []
        with session.generation(image.repeat(items, 0), text_outputs=text):
            for layer in range(layers):
                query, key, value = first[0, layer], *first[1:, layer, :, :kv_heads]
                cache.append(layer, key, value)
                stored = everyone.append(layer, key.repeat(items, 0), value.repeat(items, 0))
                outputs.append(
                    session.attend(
                        layer, query.repeat(items, 0), *stored,
                        hidden_states=states.repeat(items, 0),
                    )
                )  # fmt: skip
            if shared:
                everyone = cache.fork(batch=items)
            for _ in range(4):
                for layer in range(layers):
                    query, key, value = draws.standard_normal((3, items, heads, 1, dim)).astype(
                        np.float32
                    )
                    stored = everyone.append(layer, key[:, :kv_heads], value[:, :kv_heads])
                    assert isinstance(stored[0], Prefixed) == shared
                    outputs.append(session.attend(layer, query, *stored))
        return outputs, session.report()

    (found, report), (expected, known) = steps(True), steps(False)
    for actual, wanted in zip(found, expected, strict=True):
        close(actual, wanted, tolerance=1e-2 if dtype == "bfloat16" else 4 * TOLERANCE)
    assert str(report) == str(known)
    assert {each.method for each in report.readings} == {"VAR", "VHR", "ACT"}


class TestForks:
    def test_what_forks_do_shows_in_none_other(self, rng):
        cache = KVCache(1)
        first = rng.standard_normal((1, 2, 6, 4), np.float32)
        cache.append(0, first, first)
        questions = cache.fork(batch=3)
        one = rng.standard_normal((3, 2, 1, 4), np.float32)
        keys, _ = questions.append(0, one, 2 * one)
        more = rng.standard_normal((1, 2, 2, 4), np.float32)
        cache.append(0, more, more)
        np.testing.assert_array_equal(
            keys.whole(), np.concatenate([first.repeat(3, 0), one], axis=2)
        )
        assert (len(cache), len(questions), questions.length(0)) == (8, 7, 7)
        again = questions.fork()
        again.append(0, one, one)
        assert (len(questions), len(again)) == (7, 8)

    def test_reorder_and_crop(self, rng):
        cache = KVCache(1)
        first = rng.standard_normal((1, 1, 6, 4), np.float32)
        cache.append(0, first, first)
        questions = cache.fork(batch=3)
        one = rng.standard_normal((3, 1, 2, 4), np.float32)
        questions.append(0, one, one)
        questions.reorder(np.array([2, 0]))
        questions.crop(7)
        next_one = rng.standard_normal((2, 1, 1, 4), np.float32)
        keys, _ = questions.append(0, next_one, next_one)
        whole_key = np.concatenate([first.repeat(2, 0), one[[2, 0], :, :1], next_one], axis=2)
        np.testing.assert_array_equal(keys.whole(), whole_key)
        questions.crop(4)  # into what is shared
        keys, _ = questions.append(0, next_one, next_one)
        np.testing.assert_array_equal(
            keys.whole(), np.concatenate([first.repeat(2, 0)[:, :, :4], next_one], axis=2)
        )
        assert len(cache) == 6

    def test_it_takes_the_memory_of_one_prompt(self, rng):
        cache = KVCache(1, capacity=2048)
        first = np.zeros((1, 4, 2048, 16), np.float32)
        cache.append(0, first, first)
        questions = cache.fork(batch=16)
        questions.append(0, first[:, :, :1].repeat(16, 0), first[:, :, :1].repeat(16, 0))
        assert questions.nbytes <= cache.nbytes + 16 * 2 * 4 * 16 * 4

    def test_errors(self, rng):
        cache = KVCache(1)
        first = rng.standard_normal((2, 1, 6, 4), np.float32)
        cache.append(0, first, first)
        with pytest.raises(ValueError, match="a cache of one item that shares no prefix, got 2"):
            cache.fork(batch=3)
        with pytest.raises(ValueError, match="batch must be at least 1"):
            cache.fork(batch=0)
        cache.reorder(np.array([0]))
        questions = cache.fork(batch=3)
        with pytest.raises(ValueError, match="one that does"):
            questions.fork(batch=2)
        with pytest.raises(ValueError, match="keep, then fork"):
            questions.keep(0, np.array([0]))
        with pytest.raises(ValueError, match=r"\(3, 1, 4, 4\), got \(2, 1, 4, 4\)"):
            questions.append(0, first, first)


def test_prefixes_that_do_not_fit(rng):
    key, value = shared_and_own(rng, 3, 2, 20, 4, 8, 8)
    query = rng.standard_normal((3, 2, 1, 8), np.float32)
    with pytest.raises(ValueError, match=r"key must have a prefix \[1, H_kv, P, D\]"):
        attention(query, Prefixed(key.own, key.own), value)
    with pytest.raises(TypeError, match="key must have parts of one type"):
        attention(query, Prefixed(key.prefix.astype(np.float16), key.own), value)
    with pytest.raises(ValueError, match="value must have batch, heads and length of key"):
        attention(query, key, Prefixed(value.prefix[:, :, 1:], value.own))
    other = Prefixed(value.whole()[:1, :, :21], value.own[:, :, 1:])  # as long, cut elsewhere
    joined = [value.prefix.repeat(3, 0), value.own]
    joined[0] = np.concatenate([joined[0], value.own[:1, :, :1].repeat(3, 0)], axis=2)
    joined = np.concatenate([joined[0], value.own[:, :, 1:]], axis=2)
    close(attention(query, key, other), attention(query, key.whole(), joined))


def test_explain_tells_of_it(rng):
    key, value = shared_and_own(rng, 16, 2, 2048, 4, 8, 8)
    query = rng.standard_normal((16, 2, 1, 8), np.float32)
    text = str(explain(query, key, value))
    assert "the first 2048 keys are read for several items together" in text
    assert explain(query, key, value).units == 2 * 4 + 16 * 2
    assert "read once" not in str(explain(*tensors(rng, Sizes(20, 20))))


@pytest.mark.parametrize("own", [1, 3])
def test_what_joins_both_parts_joins_few_as_well(rng, own):
    """One key head and one own key: NumPy would lay out both with the batch inside."""
    shared, more = (
        quantize(rng.standard_normal((batch, 1, length, 16), np.float32))
        for batch, length in ((1, 70), (3, own))
    )
    both = Prefixed(shared, more)
    assert all(part.flags.c_contiguous for part in both.whole())
    query = rng.standard_normal((3, 2, 1, 16), np.float32)
    plain = attention(query, both, both, returns="logsumexp")
    how = {"segments": np.ones((3, 1, 5), np.uint8), "policy": Reweight((1, 0.5), to=(0,))}
    close(apply_policy(plain, query, both, both, **how).out, attention(query, both, both, **how))
