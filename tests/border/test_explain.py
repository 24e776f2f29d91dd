"""explain() says what attention() does."""

import inspect

import ml_dtypes
import numpy as np
import pytest
from reattend import Reweight, _core, attention, explain, quantize
from reattend.transform import Transform
from tensors import Sizes, tensors


def test_it_takes_what_attention_takes():
    assert inspect.signature(explain).parameters == inspect.signature(attention).parameters


@pytest.mark.parametrize(("rows", "kernel"), [(1, "decode"), (8, "decode"), (9, "prefill")])
def test_few_rows_go_the_way_of_decoding(rng, rows, kernel):
    found = explain(*tensors(rng, Sizes(rows, 600, dim=128, value_dim=128)), num_threads=2)
    assert found.kernel == kernel
    assert found.tile[0] == (2 * rows if kernel == "decode" else 256)  # two heads share a key head
    assert found.units == (2 * 2 * 2 if kernel == "decode" else 2 * 4)
    assert found.threads == 2
    assert found.instruction_set == _core.isa()


def test_a_small_call_wakes_no_thread(rng):
    found = explain(*tensors(rng, Sizes(1, 30)), num_threads=2)
    assert found.threads == 1
    assert "waking" in str(found)


def test_threads_beyond_the_work_are_not_counted(rng):
    assert explain(*tensors(rng, Sizes(200, 2000)), num_threads=64).threads == 8


def test_the_order_of_units_is_that_of_the_threads_woken(rng):
    arrays = tensors(rng, Sizes(1, 520, batch=1, heads=23, kv_heads=23, dim=32))
    found = explain(*arrays, num_threads=64)
    assert found.threads == 2
    assert found.shares == explain(*arrays, num_threads=2).shares


@pytest.mark.parametrize("sizes", [Sizes(300, 300), Sizes(2, 300, dim=32, value_dim=64)])
def test_it_knows_where_weights_are_rounded(rng, sizes):
    """What it says of bfloat16 products shows in the numbers."""
    arrays = [x.astype(ml_dtypes.bfloat16) for x in tensors(rng, sizes)]
    whole = np.empty((2, 4, sizes.query_len, sizes.value_dim), np.float32)
    attention(*arrays, out=whole)
    off = np.abs(whole - attention(*(x.astype(np.float32) for x in arrays))).max()
    assert (off > 1e-5) == (explain(*arrays).products == "bfloat16")
    assert explain(*arrays[:2], arrays[2].astype(np.float32)).products == "float32"


def test_a_single_row_of_a_key_head_is_not_rounded(rng):
    arrays = tensors(rng, Sizes(1, 300, heads=2, dim=32, value_dim=32))
    assert explain(*(x.astype(ml_dtypes.bfloat16) for x in arrays)).products == "float32"


def test_it_tells_of_types_segments_and_passes(rng):
    query, key, value = tensors(rng, Sizes(1, 600))
    segments = np.zeros((2, 1, 600), np.uint8)
    segments[..., 5:9] = 1
    policies = [Reweight((1, 0.5)), np.ones_like]
    how = {"segments": segments, "policy": policies, "returns": "column_sums"}
    text = str(explain(query, quantize(key), quantize(value), **how))
    assert "key, value converted to float32 in registers" in text
    assert "2 segments are kept apart" in text
    assert "Python callable" in text
    assert "the row's weights" in text


@pytest.mark.parametrize(
    ("sizes", "labelled", "said"),
    [
        (Sizes(1, 30), True, "the row's weights"),
        (Sizes(2, 30), False, "second pass"),
        (Sizes(40, 40), False, "kept until"),
        (Sizes(40, 40), True, "kept until"),
        (Sizes(9, 4097), False, "second pass"),
    ],
)
def test_it_tells_where_column_sums_come_from(rng, sizes, labelled, said):
    labels = np.ones((2, 1, 2), np.uint8) if labelled else None
    text = str(explain(*tensors(rng, sizes), segments=labels, returns="column_sums"))
    assert said in text


def test_errors_are_those_of_attention(rng):
    query, key, value = tensors(rng, Sizes(3, 5))
    with pytest.raises(ValueError, match="value must have batch, heads and length of key"):
        explain(query, key, value[:, :, 1:])
    with pytest.raises(ValueError, match="where must be one array or one for each policy"):
        explain(query, key, value, policy=[np.ones_like], where=[None, None])


def test_it_says_that_scores_are_edited(rng):
    arrays = tensors(rng, Sizes(9, 60, dim=16, value_dim=16))
    boost = Transform(shift=np.ones((1, 1, 4)))
    found = explain(*arrays, transform=boost, null_logit=np.float32(0))
    assert "scores of chosen keys are transformed before the softmax" in found.reasons
    assert "a key without a value joins each row's sum" in found.reasons
    neutral = explain(*arrays, transform=Transform(shift=np.zeros((1, 1, 4))))
    assert "scores of chosen keys are transformed before the softmax" not in neutral.reasons
    with pytest.raises(TypeError, match="attn_mask"):
        explain(*arrays, attn_mask=None)
