"""What rows tell of segments beside their masses: sums of scores, entropy, the largest weight."""

import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from reattend import Reweight, attention, reference
from reattend.border.dtypes import to_float32
from reattend.border.quantized import quantize
from reattend.border.request import MaskSpec
from reattend.call import Call, Prompt
from tensors import (
    LABELS,
    MASKS,
    STATISTICS,
    Sizes,
    agree_on_statistics,
    close,
    labels_of,
    mask_of,
    same_bytes,
    tensors,
)
from test_properties import MASKED, SEEDS, all_sizes

KINDS = pytest.mark.parametrize(
    "sizes",
    [
        Sizes(1, 1500, batch=3, dim=64, value_dim=8),
        Sizes(5, 700, batch=3, kv_heads=4, dim=24),
        Sizes(300, 300, batch=3, dim=32, value_dim=8),
    ],
    ids=["decode-one-row", "decode-five-rows", "many-tiles"],
)


@settings(max_examples=examples(60))
@given(st.data(), all_sizes(), MASKED, SEEDS)
def test_the_pass_tells_what_the_reference_tells(data, sizes, masks, seed):
    rng = np.random.default_rng(seed)
    how = mask_of(rng, sizes, "+".join(masks)) if masks else {}
    how["segments"] = labels_of(rng, sizes, data.draw(st.sampled_from(sorted(LABELS))))
    if data.draw(st.booleans()):
        how["policy"] = Reweight(rng.random(4), to=(0,))
    if data.draw(st.booleans()):
        shape = sizes.batch, sizes.heads, sizes.query_len
        how["null_logit"] = np.where(rng.random(shape) < 0.5, rng.standard_normal(shape), -np.inf)
    agree_on_statistics(tensors(rng, sizes), num_threads=data.draw(st.integers(1, 3)), **how)


def test_a_later_chunk_has_far_larger_scores(rng):
    """By more than exp() can hold: a step's chunks are brought to the larger maximum of two."""
    query, key, value = tensors(rng, Sizes(1, 1500, batch=1, heads=2, kv_heads=1))
    key[:, :, 900:] *= 60
    agree_on_statistics((query, key, value), tolerance=2e-5)


@KINDS
@pytest.mark.parametrize("hides", ["first", "last", "some", "all-but-one", "all"])
def test_keys_hidden_by_the_least_number(rng, sizes, hides):
    """As a bias where transformers masks: finite, and beyond all other scores."""
    query, key, value = tensors(rng, sizes)
    place = np.arange(sizes.key_len)
    hidden = {
        "first": place < 600, "last": place >= 20, "some": rng.random(sizes.key_len) < 0.5,
        "all-but-one": place != 7, "all": place >= 0,
    }[hides]  # fmt: skip
    bias = np.where(hidden, np.finfo(np.float32).min, 0).astype(np.float32)
    how = {"bias": bias, "segments": labels_of(rng, sizes, "image-and-sinks")}
    asked = ("masses", "entropies", "largest", "largest_keys")
    found = attention(query, key, value, returns=asked, **how)
    expected = reference.attention(query, key, value, returns=asked, **how)
    for name in ("out", "masses", "entropies", "largest"):
        close(getattr(found, name), getattr(expected, name), name)


@KINDS
@pytest.mark.parametrize("masks", ["causal+holes", "window+left-padding+bias-hides", "softcap"])
def test_threads_and_batches_change_nothing(rng, sizes, masks):
    query, key, value = tensors(rng, sizes)
    how = mask_of(rng, sizes, masks) | {"segments": labels_of(rng, sizes, "image-and-sinks")}
    how["segments"][..., -1] = 3
    asked = ("masses", *STATISTICS)
    whole = attention(query, key, value, returns=asked, num_threads=3, **how)
    again = attention(query, key, value, returns=asked, num_threads=1, **how)
    for name in ("out", *asked):
        same_bytes(getattr(whole, name), getattr(again, name))
    cut = {k: x[1:2] if isinstance(x, np.ndarray) else x for k, x in how.items()}
    alone = attention(query[1:2], key[1:2], value[1:2], returns=asked, num_threads=2, **cut)
    for name in ("out", *asked):
        same_bytes(getattr(whole, name)[1:2], getattr(alone, name))


@KINDS
@pytest.mark.parametrize("masks", [*sorted(MASKS)])
def test_who_asks_for_statistics_gets_the_same_output(rng, sizes, masks):
    arrays = tensors(rng, sizes)
    how = mask_of(rng, sizes, masks) | {"segments": labels_of(rng, sizes, "image-and-sinks")}
    plain = attention(*arrays, returns=("masses", "logsumexp"), **how)
    told = attention(*arrays, returns=("masses", "logsumexp", *STATISTICS), **how)
    for name in ("out", "masses", "logsumexp"):
        same_bytes(getattr(told, name), getattr(plain, name))
    for name in STATISTICS:  # each alone is what it is among the others
        one = attention(*arrays, returns=("masses", name), **how)
        same_bytes(getattr(one, name), getattr(told, name))


@KINDS
@pytest.mark.parametrize("stored", ["float16", "bfloat16", "quantized", "int4"])
def test_narrow_numbers(rng, sizes, stored):
    query, key, value = tensors(rng, sizes)
    how = {"causal": True, "segments": labels_of(rng, sizes, "image-and-sinks")}
    if stored == "quantized":
        arrays = query, quantize(key), quantize(value)
        agree_on_statistics(arrays, **how)
        return
    if stored == "int4":
        arrays = query, quantize(key, bits=4, by_channel=True), quantize(value, bits=4)
        agree_on_statistics(arrays, **how)
        return
    if stored == "bfloat16":
        pytest.importorskip("ml_dtypes")
    arrays = [x.astype(stored) for x in (query, key, value)]
    found = attention(*arrays, returns=STATISTICS, **how)
    wide = attention(*map(to_float32, arrays), returns=STATISTICS, **how)
    for name in STATISTICS:
        scale = 1 + wide.abs_score_sums if name.endswith("score_sums") else 1
        if name == "largest_keys":
            assert (getattr(found, name) == getattr(wide, name)).mean() > 0.999
        else:
            close(getattr(found, name) / scale, getattr(wide, name) / scale, name)


@pytest.mark.parametrize("length", [1, 40])
def test_values_that_are_not_finite_change_no_statistic(rng, length):
    query, key, value = tensors(rng, Sizes(length, 40))
    how = {"causal": True, "segments": labels_of(rng, Sizes(length, 40), "random")}
    expected = attention(query, key, value, returns=STATISTICS, **how)
    value[0, 0, 20] = np.nan
    found = attention(query, key, value, returns=STATISTICS, **how)
    assert np.isnan(found.out).any()
    for name in STATISTICS:
        scale = 1 + expected.abs_score_sums if name.endswith("score_sums") else 1
        close(getattr(found, name) / scale, getattr(expected, name) / scale, name)


def test_large_scores_and_policies_in_python(rng):
    query, key, value = tensors(rng, Sizes(9, 600))
    how = {"segments": labels_of(rng, Sizes(9, 600), "per-head"), "scale": 8.0}
    told = agree_on_statistics((query, key, value), tolerance=3e-5, **how)  # scores of hundreds
    assert told.entropies.min() >= -1e-5
    same = attention(query, key, value, returns=STATISTICS, policy=lambda m: m * 0 + 1, **how)
    for name in STATISTICS[2:]:
        close(getattr(same, name), getattr(told, name), name, 2e-7)


def test_equal_scores_give_the_first_key():
    key = np.zeros((1, 1, 1200, 8), np.float32)
    labels = np.arange(1200, dtype=np.uint8)[None, None] // 20 % 2
    for rows in (1, 20):
        query = np.ones((1, 1, rows, 8), np.float32)
        found = attention(query, key, key, segments=labels, returns=("largest_keys", "entropies"))
        assert (found.largest_keys == [0, 20]).all()
        close(found.entropies.sum(-1), np.full((1, 1, rows), np.log(1200), np.float32))


@pytest.mark.parametrize("masks", ["causal", "left-padding", "window", "softcap", "bias-keys"])
@pytest.mark.parametrize("length", [1, 12])
@pytest.mark.parametrize("stored", [np.asarray, quantize], ids=["float32", "int8"])
def test_a_call_reads_scores_off_a_pass(rng, masks, length, stored):
    sizes = Sizes(length, 12)
    query, key, value = tensors(rng, sizes)
    how = mask_of(rng, sizes, masks)
    given = stored(key)
    call = Call(0, 1, query, given, stored(value), Prompt(12), MaskSpec(**how))
    keys = np.zeros((2, 12), bool)
    keys[0, 3:7] = keys[1, 5:9] = True
    how.pop("bias", None)
    wide = given if stored is np.asarray else given.to_float32()
    bare = reference.attention(query, wide, value, returns=("scores",), **how).scores
    counted = np.where(keys[:, None, None] & (bare > -np.inf), bare, 0)
    close(call.row_scores(keys), counted[:, :, -1], "row_scores", 2e-6)
    rows = np.arange(length) >= length - 2
    close(call.score_sums(keys, rows), counted[:, :, rows].sum(-1), "score_sums", 5e-6)
