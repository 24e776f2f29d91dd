"""A policy decided after the plain pass gives what it gives inside the pass."""

import numpy as np
import pytest
import reattend as ra
from reattend import reference
from reattend.border import arguments
from reattend.border.core_call import attend
from reattend.border.request import MaskSpec, Request

TOLERANCE = 5e-6  # a few float32 roundings of outputs near 1, and of 1 - (sum of the sinks' masses)

MASKS = {
    "causal": {"causal": True},
    "full": {},
    "window": {"causal": True, "window": 50},
    "softcap": {"causal": True, "softcap": 2.0},
    "bias": {"causal": True, "bias": "rows"},
    "padding": {"causal": True, "key_mask": "left"},
}


def inputs(rng, *, query_len=300, key_len=300, heads=4, kv_heads=2, dim=24, value_dim=20):
    query = rng.standard_normal((2, heads, query_len, dim), dtype=np.float32)
    key = rng.standard_normal((2, kv_heads, key_len, dim), dtype=np.float32)
    value = rng.standard_normal((2, kv_heads, key_len, value_dim), dtype=np.float32)
    return query, key, value


def mask_of(name, rng, query_len, key_len):
    mask = dict(MASKS[name])
    if "bias" in mask:
        mask["bias"] = rng.standard_normal((1, 4, query_len, key_len)).astype(np.float32)
    if "key_mask" in mask:
        mask["key_mask"] = np.arange(key_len) >= np.array([[key_len // 5], [0]])
    return mask


def check(tensors, mask, how, tolerance=TOLERANCE):
    plain = ra.attention(*tensors, returns="logsumexp", **mask)
    asked = ("masses", "factors", "changed")
    revised = ra.apply_policy(plain, *tensors, returns=asked, **how, **mask)
    expected = reference.attention(*tensors, returns=("masses", "factors"), **how, **mask)
    assert revised.out is plain.out
    np.testing.assert_array_equal(revised.changed, (revised.factors != 1).any(-1))
    for name in ("out", "masses", "factors"):
        np.testing.assert_allclose(
            getattr(revised, name), getattr(expected, name), atol=tolerance, rtol=tolerance * 10
        )


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("query_len", [300, 1, 5])
@pytest.mark.parametrize("per_head", [1, 4], ids=["shared", "per-head"])
def test_few_labelled_keys(rng, name, query_len, per_head):
    tensors = inputs(rng, query_len=query_len)
    labels = np.zeros((2, per_head, 300), np.uint8)
    labels[..., [3, 70, 71, 255, 299]] = 1
    labels[0, 0, [9, 100]] = 2
    labels[1, -1] = 0  # an item or a head without any
    policy = ra.Reweight((1, 0.4, 0.7), to=(0,), when=ra.Share((1, 2), 0.01))
    where = rng.random((2, 4, query_len)) < 0.8
    check(tensors, mask_of(name, rng, query_len, 300),
          {"segments": labels, "policy": policy, "where": where})  # fmt: skip


def test_many_labelled_keys(rng):
    labels = rng.integers(0, 3, (2, 1, 300)).astype(np.uint8)
    how = {"segments": labels, "policy": ra.Reweight((1, 0.4, 1), to=(2,))}
    check(inputs(rng), {"causal": True}, how)


def test_sinks_that_take_nearly_all(rng):
    # 1 - mass of the sinks would keep few digits: such rows are computed from scratch.
    query, key, value = inputs(rng)
    key[:, :, 7] = 0
    query[..., 0], key[:, :, 7, 0] = 6, 9
    labels = np.zeros((2, 1, 300), np.uint8)
    labels[..., 7] = 1
    plain = ra.attention(query, key, value, causal=True, segments=labels, returns="masses")
    assert np.median(plain.masses[..., 20:, 1]) > 0.99
    how = {"segments": labels, "policy": ra.Reweight((1, 0.4), to=(0,))}
    tensors = (query, key, value)
    revised = ra.apply_policy(
        ra.attention(*tensors, causal=True, returns="logsumexp"), *tensors, causal=True, **how
    )
    expected = reference.attention(*tensors, causal=True, **how)
    np.testing.assert_allclose(revised.out, expected, atol=2e-5)


def test_policies_without_segments_scale_heads(rng):
    heads = np.array([True, False, True, False])[None, :, None]
    check(inputs(rng), {"causal": True},
          {"segments": None, "policy": ra.Reweight((2.0,)), "where": heads})  # fmt: skip


def test_heads_without_labels_whose_rows_differ(rng):
    labels = np.zeros((2, 4, 300), np.uint8)
    labels[:, 0, 5] = 1
    how = {
        "segments": labels,
        "policy": ra.Reweight((0.5, 1)),
        "where": rng.random((2, 4, 300)) < 0.5,
    }
    check(inputs(rng), {"causal": True}, how)


def test_strided_out(rng):
    tensors = inputs(rng)
    labels = np.zeros((2, 1, 300), np.uint8)
    labels[..., 5] = 1
    how = {"segments": labels, "policy": ra.Reweight((1, 0.4), to=(0,))}
    out = np.empty((2, 300, 4, 20), np.float32).swapaxes(1, 2)
    plain = ra.attention(*tensors, returns="logsumexp", out=out)
    assert ra.apply_policy(plain, *tensors, **how).out is out
    np.testing.assert_allclose(out, reference.attention(*tensors, **how), atol=TOLERANCE)


def test_other_callables_are_refused(rng):
    tensors = inputs(rng)
    plain = ra.attention(*tensors, returns="logsumexp")
    with pytest.raises(TypeError, match="policy must be a Reweight"):
        ra.apply_policy(plain, *tensors, segments=None, policy=np.ones_like)


@pytest.mark.parametrize("query_len", [1, 8, 9, 300])
def test_column_sums_of_some_heads(rng, query_len):
    query, key, value = inputs(rng, query_len=query_len)
    mask = {"causal": True, "key_mask": np.arange(300) < np.array([[300], [220]])}
    lse = ra.attention(query, key, value, returns="logsumexp", **mask).logsumexp
    heads = np.array([True, False, False, True])
    sums = ra.column_sums(query, key, lse, heads=heads, **mask)
    expected = reference.column_sums(query, key, heads=heads, **mask)
    np.testing.assert_allclose(sums, expected, atol=2e-5)
    assert not sums[:, 1:3].any()


def test_unaligned_arrays_are_copied(rng):
    """NumPy's ascontiguousarray leaves numbers where they are; the core reads aligned ones."""
    aligned = rng.standard_normal((3, 1, 2, 5, 8), dtype=np.float32)
    raw = np.empty(aligned.nbytes + 1, np.uint8)
    shifted = raw[1:].view(np.float32).reshape(aligned.shape)
    shifted[...] = aligned
    assert not shifted.flags.aligned
    assert arguments.readable(shifted).flags.aligned
    expected = ra.attention(*aligned, returns="logsumexp")
    assert np.array_equal(ra.attention(*shifted), expected.out)
    sums = ra.column_sums(shifted[0], shifted[1], expected.logsumexp)
    assert np.array_equal(sums, ra.column_sums(aligned[0], aligned[1], expected.logsumexp))


@pytest.mark.parametrize("name", [*MASKS, "not causal, padding"])
@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("labelled", [3, 150, 290, 300])
@pytest.mark.parametrize("to", [(0,), (2,), ()])
def test_a_row_whose_weights_are_known(rng, name, kind, labelled, to):
    """What a session asks for in a step: no key is read again, and values only of labelled keys."""
    query, key, value = inputs(rng, query_len=1)
    mask = mask_of("padding", rng, 1, 300) if "not" in name else mask_of(name, rng, 1, 300)
    mask["causal"] = "not" not in name
    stored, exact = (key, value), (key, value)
    if kind == "float16":
        stored = exact = tuple(x.astype(np.float16) for x in stored)
    if kind == "int8":
        stored = tuple(map(ra.quantize, stored))
        exact = tuple(x.to_float32() for x in stored)
    if kind == "int4":
        stored = ra.quantize(key, bits=4, by_channel=True), ra.quantize(value, bits=4)
        exact = tuple(x.to_float32() for x in stored)
    labels = np.zeros((2, 4, 300), np.uint8)
    for item, head in np.ndindex(2, 4):
        some = rng.permutation(300)[: labelled + item - head]
        labels[item, head, some] = rng.integers(1, 3, len(some))
    labels[1, 2] = 0
    where = rng.random((2, 4, 1)) < 0.8
    policies = (ra.Reweight((1, 0.4, 0.7), to), ra.Reweight(rng.random((4, 3)) + 0.5))
    spec = MaskSpec(**mask)
    plain = attend(query, *stored, spec, Request(returns=("logsumexp", "column_sums")), None)
    known = {"out": plain.out, "plain": plain.logsumexp, "weights": plain.column_sums}
    asked = ("masses", "factors", "changed")
    request = Request(labels, policies, (where, None), returns=asked, **known)
    found = attend(query, *stored, spec, request, None)
    assert found.out is plain.out
    how = {"segments": labels, "policy": policies, "where": (where, None), "returns": asked}
    expected = reference.attention(query, *exact, **how, **mask)
    np.testing.assert_array_equal(found.changed, (found.factors != 1).any(-1))
    for each in ("out", "masses", "factors"):
        np.testing.assert_allclose(
            getattr(found, each), getattr(expected, each), atol=TOLERANCE, rtol=TOLERANCE * 10
        )


def test_a_row_whose_weights_are_known_reads_no_masked_value(rng):
    query, key, value = inputs(rng, query_len=1)
    shown = rng.random((2, 300)) < 0.7
    shown[0, -1] = False  # a row that stands at padding: no key received anything
    value[~shown[:, None].repeat(2, 1)] = np.nan
    labels = rng.integers(0, 3, (2, 1, 300)).astype(np.uint8)
    policy = ra.Reweight((1, 0.4, 0.7), to=(0,))
    mask = MaskSpec(causal=True, key_mask=shown)
    plain = attend(query, key, value, mask, Request(returns=("logsumexp", "column_sums")), None)
    request = Request(
        labels, policy, out=plain.out, plain=plain.logsumexp, weights=plain.column_sums
    )
    found = attend(query, key, value, mask, request, None)
    how = {"segments": labels, "policy": policy, "causal": True, "key_mask": shown}
    expected = reference.attention(query, key, np.nan_to_num(value), **how)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("size", [9, 25])
def test_sinks_take_nearly_all_of_a_row_whose_weights_are_known(rng, size):
    """What is left is summed: 1 - mass of the sinks keeps no digit, or is less than nothing."""
    query, key, value = inputs(rng, query_len=1)
    query[..., 0], key[:, :, 7, 0] = 6, size
    labels = np.zeros((2, 1, 300), np.uint8)
    labels[..., 7] = 1
    policy = ra.Reweight((1, 0.4), to=(0,))
    plain = attend(
        query, key, value, MaskSpec(), Request(returns=("logsumexp", "column_sums")), None
    )
    request = Request(
        labels, policy, out=plain.out, plain=plain.logsumexp, weights=plain.column_sums
    )
    found = attend(query, key, value, MaskSpec(), request, None)
    expected = reference.attention(query, key, value, segments=labels, policy=policy)
    np.testing.assert_allclose(found, expected, atol=2e-5)
