"""Properties of the kernel over random shapes, strides, masks, segments and policies."""

from itertools import pairwise

import numpy as np
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from reattend import Reweight, attention, merge, segment_pass
from tensors import LABELS, MASKS, STRIDES, Sizes, agree, close, labels_of, mask_of, tensors

# Around vectors (16), decode (8), blocks of rows (6), column sums (128) and tiles (256).
EDGES = st.sampled_from([0, 1, 2, 7, 8, 9, 15, 17, 31, 64, 100, 129, 255, 256, 257, 300])
DIMS = st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64])
MASKED = st.sets(st.sampled_from(sorted(MASKS)), max_size=3).map(sorted)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def all_sizes(draw, *, least=0):
    lengths = EDGES.filter(lambda n: n >= least) | st.integers(least, 40)
    kv_heads = draw(st.integers(1, 3))
    return Sizes(
        query_len=draw(lengths),
        key_len=draw(lengths),
        batch=draw(st.integers(0 if least == 0 else 1, 2)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        dim=draw(DIMS),
        value_dim=draw(DIMS),
    )


@st.composite
def weighings(draw, sizes, *, conserve=False):
    """Draw policies over 4 segments and the rows they are for.

    Weights are at most 1: above, freed mass is negative, and factors may be differences of equals.
    """
    batch = draw(st.sampled_from([1, sizes.batch]))
    heads = draw(st.sampled_from([1, sizes.heads]))
    rng = np.random.default_rng(draw(SEEDS))
    policies, wheres = [], []
    for _ in range(draw(st.integers(1, 3))):
        weight = rng.random((batch, heads, 4)) * (rng.random(4) < 0.8)
        receivers = st.sets(st.integers(0, 3), min_size=int(conserve))
        policies.append(Reweight(weight, to=tuple(draw(receivers))))
        shape = (sizes.batch, sizes.heads, sizes.query_len)
        kept = draw(st.tuples(*[st.booleans()] * 3))
        where = rng.random([n if keep else 1 for n, keep in zip(shape, kept, strict=True)]) < 0.6
        wheres.append(draw(st.sampled_from([None, where])))
    return policies, wheres


@settings(max_examples=examples(150))
@given(st.data(), all_sizes(), MASKED, SEEDS)
def test_the_kernel_gives_the_reference(data, sizes, masks, seed):
    rng = np.random.default_rng(seed)
    how = mask_of(rng, sizes, "+".join(masks)) if masks else {}
    how["segments"] = labels_of(rng, sizes, data.draw(st.sampled_from(sorted(LABELS))))
    how["policy"], how["where"] = data.draw(weighings(sizes))
    layout = STRIDES[data.draw(st.sampled_from(sorted(STRIDES)))]
    arrays = [layout(array) for array in tensors(rng, sizes)]
    agree(arrays, num_threads=data.draw(st.integers(1, 3)), **how)


@settings(max_examples=examples(50))
@given(st.data(), all_sizes(least=1), MASKED, SEEDS)
def test_rows_sum_to_1_where_policies_conserve(data, sizes, masks, seed):
    rng = np.random.default_rng(seed)
    query, key, value = tensors(rng, sizes)
    how = mask_of(rng, sizes, "+".join(masks)) if masks else {}
    how["segments"] = labels_of(rng, sizes, data.draw(st.sampled_from(sorted(LABELS))))
    how["policy"], how["where"] = data.draw(weighings(sizes, conserve=True))
    value[...] = 1
    found = attention(
        query, key, value, returns=("masses", "factors", "logsumexp", "column_sums"), **how
    )
    sees = (~np.isneginf(found.logsumexp)).astype(np.float32)
    close(found.masses.sum(-1), sees, "masses")
    close((found.masses * found.factors).sum(-1), sees, "masses after the policies")
    close(found.out, np.broadcast_to(sees[..., None], found.out.shape), "row sums")
    if not how.get("causal"):  # else rows at masked keys are padding
        close(found.column_sums.sum(-1), sees.sum(-1), "column sums")


@settings(max_examples=examples(50))
@given(st.data(), all_sizes(least=1), MASKED, SEEDS, st.floats(-4, 4, width=32))
def test_the_output_is_linear_in_the_values(data, sizes, masks, seed, factor):
    rng = np.random.default_rng(seed)
    query, key, value = tensors(rng, sizes)
    other = rng.standard_normal(value.shape, np.float32)
    how = mask_of(rng, sizes, "+".join(masks)) if masks else {}
    how["segments"] = labels_of(rng, sizes, "random")
    how["policy"], how["where"] = data.draw(weighings(sizes))
    one, two, both = (
        attention(query, key, v, **how, num_threads=2).astype(np.float64)
        for v in (value, other, value + np.float32(factor) * other)
    )
    close(both, one + factor * two, tolerance=3e-5)  # factors and weights are up to some units


@settings(max_examples=examples(50))
@given(st.data(), all_sizes(least=1), SEEDS)
def test_the_order_of_the_keys_does_not_matter(data, sizes, seed):
    rng = np.random.default_rng(seed)
    query, key, value = tensors(rng, sizes)
    labels, key_mask = labels_of(rng, sizes, "random"), mask_of(rng, sizes, "holes")["key_mask"]
    bias = mask_of(rng, sizes, "bias-hides")["bias"]
    policy, where = data.draw(weighings(sizes))
    asked = ("masses", "logsumexp", "factors", "column_sums")
    order = rng.permutation(sizes.key_len)
    how = {"policy": policy, "where": where, "returns": asked, "num_threads": 2}
    first = attention(query, key, value, segments=labels, key_mask=key_mask, bias=bias, **how)
    again = attention(
        query, key[:, :, order], value[:, :, order], segments=labels[..., order],
        key_mask=key_mask[:, order], bias=bias[..., order], **how,
    )  # fmt: skip
    for name in ("out", *asked):
        ours, theirs = getattr(again, name), getattr(first, name)
        close(ours, theirs[..., order] if name == "column_sums" else theirs, name)


@settings(max_examples=examples(40))
@given(all_sizes(least=1), st.lists(st.floats(0, 1), max_size=4), SEEDS)
def test_shards_merge_in_any_cut_and_order(sizes, cuts, seed):
    rng = np.random.default_rng(seed)
    query, key, value = tensors(rng, sizes)
    labels = labels_of(rng, sizes, "per-head")
    edges = [0, *sorted(int(cut * sizes.key_len) for cut in cuts), sizes.key_len]
    states = [
        segment_pass(query, key[:, :, a:b], value[:, :, a:b], segments=labels[..., a:b],
                     num_segments=4)
        for a, b in pairwise(edges)
    ]  # fmt: skip
    whole = segment_pass(query, key, value, segments=labels, num_segments=4)
    shuffled = [states[i] for i in rng.permutation(len(states))]
    for name, merged in merge(shuffled)._asdict().items():
        close(merged, getattr(whole, name), name)


@settings(max_examples=examples(40))
@given(all_sizes(least=1), st.floats(-50, 50, width=32), SEEDS)
def test_a_bias_equal_for_all_keys_changes_logsumexp_only(sizes, bias, seed):
    arrays = tensors(np.random.default_rng(seed), sizes)
    plain = attention(*arrays, returns="logsumexp")
    moved = attention(*arrays, bias=np.float32(bias), returns="logsumexp")
    tolerance = 2e-5  # scores near 50 have a last digit of 4e-6
    close(moved.out, plain.out, tolerance=tolerance)
    close(moved.logsumexp, plain.logsumexp + np.float32(bias), tolerance=tolerance)
