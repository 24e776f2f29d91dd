"""Policies that are Python callables: called once, whatever the size; memory stays bounded."""

import tracemalloc

import numpy as np
import pytest
from reattend import Reweight, attention
from reattend.border import core_call
from tensors import EVERYTHING, Sizes, agree, labels_of, mask_of, tensors

SIZES = {
    "decode": Sizes(1, 700, heads=4, dim=24, value_dim=20),
    "few-rows": Sizes(5, 300, heads=6, dim=16, value_dim=40),
    "prefill": Sizes(300, 300, dim=40, value_dim=24),
}

each_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


@pytest.fixture(params=["kept-partials", "two-passes"])
def either_way(request, monkeypatch):
    monkeypatch.setattr(core_call, "_FEW_PARTIALS", 0 if request.param == "two-passes" else 1 << 40)


def of_all_rows(masses):
    """A policy that looks across rows and heads: it must see them all at once."""
    return 1 + masses - masses.mean((1, 2), keepdims=True)


@each_size
@pytest.mark.parametrize("masks", ["full", "causal", "left-padding+causal", "holes+window", "bias"])
@pytest.mark.parametrize("labels", ["image-and-sinks", "per-head"])
@pytest.mark.usefixtures("either_way")
def test_it_equals_the_reference(rng, sizes, masks, labels):
    how = mask_of(rng, sizes, masks)
    where = rng.random((sizes.batch, sizes.heads, sizes.query_len)) < 0.6
    agree(
        tensors(rng, sizes), EVERYTHING, segments=labels_of(rng, sizes, labels),
        policy=[of_all_rows, Reweight((1, 0.5, 0.7, 0.2), to=(0,))], where=[where, None], **how,
    )  # fmt: skip


@pytest.mark.usefixtures("either_way")
def test_the_policy_is_called_once(rng):
    calls = []

    def policy(masses):
        calls.append(masses.shape)
        return masses

    segments = np.zeros((2, 1, 300), np.uint8)
    segments[..., 9:70] = 1
    attention(*tensors(rng, SIZES["prefill"]), segments=segments, policy=policy)
    assert calls == [(2, 4, 300, 2)]


@pytest.mark.usefixtures("either_way")
def test_values_that_are_not_finite_reach_who_sees_them(rng):
    query, key, value = tensors(rng, SIZES["prefill"])
    value[:, :, 200] = np.nan
    segments = np.zeros((2, 1, 300), np.uint8)
    segments[..., 9:70] = 1
    found = agree((query, key, value), causal=True, segments=segments, policy=of_all_rows)
    assert not np.isnan(found.out[:, :, :200]).any()


def test_large_calls_keep_no_copy_for_each_segment(rng):
    sizes = Sizes(1024, 64, batch=1, heads=18, kv_heads=1, dim=8, value_dim=256)
    arrays = tensors(rng, sizes)
    segments = labels_of(rng, sizes, "random")
    output = 18 * 1024 * 256 * 4
    assert output * (int(segments.max()) + 1) > core_call._FEW_PARTIALS
    tracemalloc.start()
    attention(*arrays, segments=segments, policy=lambda masses: masses)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * output
