"""Keys and values stored narrower than the query: read as they lie, computed in float32."""

from functools import partial

import ml_dtypes
import numpy as np
import pytest
from reattend import (
    ACT,
    Reweight,
    Session,
    apply_policy,
    attention,
    column_sums,
    reference,
    segment_pass,
)
from reattend.border.dtypes import to_float32
from reattend.border.prefixed import keys_between
from reattend.border.quantized import Quantized, quantize
from tensors import EVERYTHING, Sizes, close, labels_of, mask_of, tensors

SIZES = {
    "decode": Sizes(1, 700, heads=4, dim=24, value_dim=20),
    "group-of-three": Sizes(1, 600, batch=1, heads=9, kv_heads=3, dim=64, value_dim=64),
    "group-of-four": Sizes(1, 1100, batch=1, heads=8, kv_heads=2, dim=128, value_dim=128),
    "few-rows": Sizes(5, 300, heads=6, dim=17, value_dim=70),
    "prefill": Sizes(300, 300, dim=40, value_dim=24),
}
STORED = {
    "float16": lambda array: array.astype(np.float16),
    "bfloat16": lambda array: array.astype(ml_dtypes.bfloat16),
    "int8": quantize,
    "int4": partial(quantize, bits=4),
    "int4-by-channel": partial(quantize, bits=4, by_channel=True),
}
POLICY = Reweight((1, 0.5, 0.7, 0.2), to=(0,))

each_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
each_store = pytest.mark.parametrize("store", STORED.values(), ids=STORED)


def part(stored, begin, end):
    return keys_between(stored, slice(begin, end))


def numbers_of(stored):
    return to_float32(stored)


@each_size
@each_store
@pytest.mark.parametrize("masks", ["causal", "left-padding+causal", "holes+window", "softcap"])
@pytest.mark.parametrize("labels", ["image-and-sinks", "per-head"])
def test_it_equals_the_reference_on_the_stored_numbers(rng, sizes, store, masks, labels):
    query, key, value = tensors(rng, sizes)
    key, value = store(key), store(value)
    how = mask_of(rng, sizes, masks)
    how |= {"segments": labels_of(rng, sizes, labels), "policy": POLICY}
    found = attention(query, key, value, returns=EVERYTHING, **how)
    expected = reference.attention(
        query, numbers_of(key), numbers_of(value), returns=EVERYTHING, **how
    )
    assert found.out.dtype == np.float32
    for name in ("out", "masses", "logsumexp", "column_sums", "factors"):
        close(getattr(found, name), getattr(expected, name), name)


@each_size
@pytest.mark.parametrize(
    "kinds",
    [
        ("bfloat16", "int8"),
        ("int8", "float16"),
        (None, "int8"),
        ("int4-by-channel", "int4"),
        ("int4-by-channel", None),
        ("int8", "int4"),
    ],
)
def test_keys_and_values_may_differ(rng, sizes, kinds):
    query, *both = tensors(rng, sizes)
    both = [x if kind is None else STORED[kind](x) for x, kind in zip(both, kinds, strict=True)]
    numbers = [x if kind is None else numbers_of(x) for x, kind in zip(both, kinds, strict=True)]
    found = attention(query, *both, causal=True)
    close(found, reference.attention(query, *numbers, causal=True), "out")


@each_store
def test_the_reference_takes_them_too(rng, store):
    query, key, value = tensors(rng, Sizes(3, 40))
    stored = store(key), store(value)
    np.testing.assert_array_equal(
        reference.attention(query, *stored), reference.attention(query, *map(numbers_of, stored))
    )


@each_store
def test_views_of_a_longer_storage(rng, store):
    """As a cache gives them: the keys there are so far of all that there is room for."""
    query, key, value = tensors(rng, Sizes(1, 300, heads=4, kv_heads=2))
    key, value = store(key), store(value)
    some = part(key, 30, 200), part(value, 30, 200)
    close(attention(query, *some), attention(query, *map(numbers_of, some)), "out")


@each_store
def test_the_other_passes(rng, store):
    query, key, value = tensors(rng, Sizes(50, 90))
    key, value = store(key), store(value)
    numbers = numbers_of(key), numbers_of(value)
    state = segment_pass(query, key, value, segments=None)
    close(state.partials[..., 0, :], reference.attention(query, *numbers), "partials")
    plain = attention(query, key, value, causal=True, returns="logsumexp")
    sums = column_sums(query, key, plain.logsumexp, causal=True)
    close(sums, reference.column_sums(query, numbers[0], causal=True), "column sums")
    labels = np.zeros((2, 1, 90), np.uint8)
    labels[..., [3, 20]] = 1
    how = {"causal": True, "segments": labels, "policy": Reweight((1, 0.4), to=(0,))}
    revised = apply_policy(plain, query, key, value, **how)
    close(revised.out, reference.attention(query, *numbers, **how), "revised")


@each_store
def test_a_session_gives_what_the_stored_numbers_give(rng, store):
    arrays = tensors(rng, Sizes(41, 41, batch=1, heads=4, kv_heads=2))
    query, key, value = arrays[0], store(arrays[1]), store(arrays[2])

    def run(key, value):
        session = Session(ACT(theta=0.03), num_layers=4)
        with session.generation():
            for layer in range(4):
                session.attend(layer, query[:, :, :40], part(key, 0, 40), part(value, 0, 40))
            steps = [session.attend(layer, query[:, :, 40:], key, value) for layer in range(4)]
        return steps, str(session.report())

    found, report = run(key, value)
    expected, expected_report = run(numbers_of(key), numbers_of(value))
    assert report == expected_report
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs, "step")


def test_what_does_not_fit_is_named(rng):
    query, key, value = tensors(rng, Sizes(3, 5))
    small = quantize(key)
    with pytest.raises(TypeError, match=r"key must hold int8 numbers of 4 axes .*got float32"):
        attention(query, Quantized(key, small.scale), value)
    with pytest.raises(TypeError, match=r"value must have float32 scales \(2, 2, 5\), got float64"):
        attention(query, key, Quantized(small.numbers, small.scale.astype(float)))
    with pytest.raises(TypeError, match="value must have one 16-bit type with the others, float16"):
        attention(query, key.astype(np.float16), value.astype(ml_dtypes.bfloat16))
    with pytest.raises(TypeError, match="key must be float32, float16 or bfloat16, got int8"):
        attention(query, small.numbers, value)
