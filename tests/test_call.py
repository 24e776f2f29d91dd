"""What a call knows: rows that see each key, column sums, head outputs."""

from dataclasses import fields, replace

import numpy as np
import pytest
from reattend import attention, reference
from reattend.border.request import MaskSpec
from reattend.call import NEVER, Call, Prompt


def test_call_counts_rows(rng):
    query = rng.standard_normal((2, 1, 4, 8), dtype=np.float32)
    key = rng.standard_normal((2, 1, 7, 8), dtype=np.float32)
    key_mask = np.ones((2, 7), bool)
    key_mask[0, :4] = key_mask[1, 6] = False
    for causal in (True, False):
        for window in (None, 1, 2, 5, 50):
            for mask in (None, key_mask):
                what = {"causal": causal, "window": window, "key_mask": mask}
                seen = reference.weights(query, key, **what)[2][:, 0]  # [B, N, M]
                if mask is not None:  # rows that stand at padding are none
                    seen = seen & mask[:, 3:, None]
                call = Call(2, 8, query, key, key, Prompt(), MaskSpec(**what))
                np.testing.assert_array_equal(call.row_counts, seen.sum(1), str(what))


@pytest.mark.parametrize("cross_row", [None, 5])
def test_a_copy_of_a_call_is_the_same_call_but_for_what_is_replaced(cross_row):
    query, key = np.ones((2, 4, 1, 8), np.float32), np.ones((2, 2, 7, 8), np.float32)
    call = Call(2, 8, query, key, key, Prompt(5), cross_row=cross_row, confidence=np.ones(2))
    copy = replace(call, num_threads=3)
    for name in {each.name for each in fields(call)} - {"num_threads", "computed"}:
        assert getattr(copy, name) is getattr(call, name), name
    assert copy.num_threads == 3
    assert copy.cross == (cross_row is not None)


def test_a_step_counts_once_for_each_key_and_nobody_can_change_that():
    query, key = np.ones((2, 4, 1, 8), np.float32), np.ones((2, 2, 7, 8), np.float32)
    counts = Call(2, 8, query, key, key, Prompt(), MaskSpec(causal=True)).row_counts
    np.testing.assert_array_equal(counts, np.ones((2, 7), np.int64))
    with pytest.raises(ValueError, match="read-only"):
        counts[:] = 2


@pytest.mark.parametrize("shape", [(2, 1, 300, 303), (1, 1, 300, 303), (300, 303), (2, 1, 1, 303)])
def test_call_counts_rows_under_a_bias_that_hides(rng, shape):
    query = rng.standard_normal((2, 3, 300, 8), dtype=np.float32)
    key = rng.standard_normal((2, 3, 303, 8), dtype=np.float32)
    bias = np.where(rng.random(shape) < 0.3, -np.inf, 0.5).astype(np.float32)
    key_mask = rng.random((2, 303)) < 0.8
    for causal in (True, False):
        for window in (None, 40):
            for mask in (None, key_mask):
                what = {"causal": causal, "window": window, "key_mask": mask, "bias": bias}
                ones = reference.weights(query, key, **what)[0][:, 0] > 0  # [B, N, M]
                if mask is not None:
                    ones = ones & mask[:, 3:, None]
                call = Call(2, 8, query, key, key, Prompt(), MaskSpec(**what))
                np.testing.assert_array_equal(call.row_counts, ones.sum(1), str((causal, window)))


def test_call_counts_no_rows_where_heads_see_different_keys():
    query = np.ones((1, 2, 3, 4), np.float32)
    bias = np.zeros((1, 2, 3, 3), np.float32)
    bias[0, 1, 2, 0] = -np.inf
    call = Call(2, 8, query, query, query, Prompt(), MaskSpec(bias=bias))
    with pytest.raises(ValueError, match="bias must hide the same keys in all heads"):
        _ = call.row_counts


def test_call_column_sums_of_some_heads(rng):
    query = rng.standard_normal((2, 4, 5, 8), dtype=np.float32)
    key = rng.standard_normal((2, 2, 5, 8), dtype=np.float32)
    bias = rng.standard_normal((1, 4, 5, 5), dtype=np.float32)
    call = Call(2, 8, query, key, key, Prompt(), MaskSpec(causal=True, bias=bias))
    some = np.array([False, True, True, False])
    sums = call.column_sums(some)
    np.testing.assert_allclose(sums[:, some], call.column_sums()[:, some], rtol=0, atol=1e-6)
    assert not sums[:, ~some].any()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("causal", [True, False])
def test_call_leaves_out_rows_that_stand_at_padding(rng, causal, side):
    """A padded prompt with two keys that see each other gets what it gets without padding."""
    query, key = rng.standard_normal((2, 1, 4, 9, 8), dtype=np.float32)
    bias = np.where(np.tri(9, dtype=bool), 0, -np.inf).astype(np.float32)[None, None]
    bias[..., 4:6, 4:6] = 0
    some = slice(3, 9) if side == "left" else slice(0, 6)
    key_mask = np.zeros((1, 9), bool)
    key_mask[:, some] = True
    mask = {"causal": causal, "bias": bias}
    padded = Call(2, 8, query, key, key, Prompt(), MaskSpec(**mask, key_mask=key_mask))
    query, key = query[:, :, some], key[:, :, some]
    alone = Call(
        2, 8, query, key, key, Prompt(), MaskSpec(causal=causal, bias=bias[..., some, some])
    )
    np.testing.assert_array_equal(padded.row_counts[:, some], alone.row_counts)
    sums = padded.column_sums()
    np.testing.assert_allclose(sums[:, :, some], alone.column_sums(), rtol=0, atol=1e-6)
    assert not padded.row_counts[~key_mask].any()
    assert not sums[:, :, ~key_mask[0]].any()


def test_call_head_outputs_are_those_of_the_last_row(rng):
    query = rng.standard_normal((2, 4, 6, 8), dtype=np.float32)
    key, value = rng.standard_normal((2, 2, 2, 6, 8), dtype=np.float32)
    bias = rng.standard_normal((6, 6), dtype=np.float32)
    key_mask = np.arange(6) < np.array([[6], [4]])
    mask = {"causal": True, "bias": bias, "key_mask": key_mask, "window": 3}
    outputs = Call(2, 8, query, key, value, Prompt(), MaskSpec(**mask)).head_outputs
    full = attention(query, key, value, **mask)
    np.testing.assert_allclose(outputs[0], full[0, :, 5], rtol=0, atol=1e-6)
    np.testing.assert_allclose(outputs[1], full[1, :, 3], rtol=0, atol=1e-6)


def test_image_end_is_behind_the_first_image():
    image = np.array([[0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 1, 1], [0] * 6], bool)
    assert Prompt(image=image).image_end.tolist() == [3, 6, NEVER]
