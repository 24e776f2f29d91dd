"""The kernel gives what the reference gives: shapes, masks, segments, policies, strides, shards."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from cases import POLICIES
from reattend import Reweight, attention, column_sums, combine, merge, reference, segment_pass
from tensors import (
    EVERYTHING,
    LABELS,
    MASKS,
    STRIDES,
    Sizes,
    agree,
    close,
    labels_of,
    mask_of,
    overlapping_rows,
    same_bytes,
    tensors,
)

FEW_ROWS, SQUARE, TILES = Sizes(3, 600), Sizes(40, 40), Sizes(260, 300)  # decode, one tile, many
KINDS = pytest.mark.parametrize(
    "sizes", [FEW_ROWS, SQUARE, TILES], ids=["decode", "one-tile", "many-tiles"]
)

# Edges: 8 rows are decoded and 9 prefilled; tiles have 256 rows and keys, 128 rows for column sums;
# a chunk of decoding has 512 keys.
LENGTHS = [
    *((n, 700) for n in (1, 7, 8, 9)),
    *((1, m) for m in (1, 2, 15, 17, 255, 256, 257, 511, 512, 513)),
    *((n, n) for n in (8, 9, 127, 128, 129, 255, 256, 257, 511, 512, 513)),
    *((0, 0), (0, 5), (5, 0), (300, 0), (1, 5000)),
    *((9, 3), (300, 40), (700, 256), (513, 300)),  # more rows than keys
    *((256, 513), (257, 600), (129, 257), (40, 300)),
]


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize(("query_len", "key_len"), LENGTHS, ids=lambda n: str(n))
def test_lengths(rng, query_len, key_len, causal):
    sizes = Sizes(query_len, key_len, batch=1, heads=2, kv_heads=1)
    agree(tensors(rng, sizes), causal=causal)


@pytest.mark.parametrize("dim", [40, 128])
def test_more_bytes_than_caches_hold(rng, dim):
    """Beyond 64 MiB a single row fetches keys and values past the caches."""
    num_keys = 64 * 2**20 // (2 * 4 * dim) + 300
    sizes = Sizes(1, num_keys, batch=1, heads=1, kv_heads=1, dim=dim, value_dim=dim)
    agree(tensors(rng, sizes), causal=True)


@pytest.mark.parametrize(
    "heads",
    [
        {"heads": 1, "kv_heads": 1},
        {"heads": 6, "kv_heads": 6},
        {"heads": 6, "kv_heads": 3},
        {"heads": 7, "kv_heads": 1},
        {"heads": 32, "kv_heads": 2},
        {"batch": 0},
        {"heads": 0, "kv_heads": 0},
        {"dim": 1, "value_dim": 1},
        {"dim": 5, "value_dim": 33},
        {"dim": 80, "value_dim": 3},
        {"dim": 31, "value_dim": 64},
        {"dim": 128, "value_dim": 128},
        {"dim": 300, "value_dim": 257},
        {"value_dim": 0},
    ],
    ids=lambda sizes: "-".join(f"{name}{n}" for name, n in sizes.items()),
)
@pytest.mark.parametrize("lengths", [(2, 70), (9, 20), (260, 300)], ids=str)
def test_heads(rng, lengths, heads):
    agree(tensors(rng, Sizes(*lengths, **heads)), causal=True)


COMBINED = [
    "causal+window",
    "causal+window-1",
    "causal+left-padding",
    "causal+right-padding",
    "causal+holes",
    "causal+all-padding",
    "window+right-padding",
    "causal+window+holes+softcap+bias-hides",
    "causal+left-padding+softcap+bias-heads+scale",
]


@KINDS
@pytest.mark.parametrize("masks", [*MASKS, *COMBINED])
def test_masks(rng, sizes, masks):
    agree(tensors(rng, sizes), **mask_of(rng, sizes, masks))


@pytest.mark.parametrize("masks", ["window", "left-padding", "causal+window"])
@pytest.mark.parametrize("lengths", [(9, 4), (300, 40), (600, 300)], ids=str)
def test_more_rows_than_keys(rng, lengths, masks):
    sizes = Sizes(*lengths)
    agree(tensors(rng, sizes), **mask_of(rng, sizes, masks))


def test_padding_rows_do_not_count_with_more_rows_than_keys(rng):
    sizes = Sizes(20, 8)
    found = agree(tensors(rng, sizes), **mask_of(rng, sizes, "causal+left-padding"))
    starts = np.linspace(0, 4, 2).astype(int) + 1
    expected = np.broadcast_to((8 - starts)[:, None], (2, 4))  # one row stands at each key
    close(found.column_sums.sum(-1), expected)


def test_a_step_at_padding_does_not_count(rng):
    sizes = Sizes(1, 40)
    found = agree(tensors(rng, sizes), causal=True, key_mask=np.arange(40) < [[39], [40]])
    close(found.column_sums.sum(-1), np.array([[0.0] * 4, [1.0] * 4], np.float32))


@KINDS
@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("masks", ["causal", "holes"])
def test_segments(rng, sizes, name, masks):
    labels, mask = labels_of(rng, sizes, name), mask_of(rng, sizes, masks)
    arrays = tensors(rng, sizes)
    agree(arrays, segments=labels, policy=POLICIES["hand_on"], **mask)
    found = segment_pass(*arrays, segments=labels, num_segments=4, **mask)
    expected = reference.segment_pass(*arrays, segments=labels, num_segments=4, **mask)
    for field, actual in found._asdict().items():
        close(actual, getattr(expected, field), field)


@KINDS
def test_labels_of_rows_that_no_policy_is_for(rng, sizes):
    """Such rows have one sum for all segments, also where padding has keys taken run by run."""
    arrays, labels = tensors(rng, sizes), labels_of(rng, sizes, "random")
    how = {"segments": labels, "policy": POLICIES["hand_on"], "where": np.zeros((2, 4, 1), bool)}
    agree(arrays, ("logsumexp",), **how, **mask_of(rng, sizes, "holes"))


def test_a_policy_for_rows_from_the_middle_of_a_tile_on(rng):
    """Its sinks are gathered across tiles of keys, whose maxima rise row by row."""
    labels = labels_of(rng, TILES, "image-and-sinks")
    how = {"segments": labels, "policy": POLICIES["hand_on"], "where": np.arange(260) >= 70}
    agree(tensors(rng, TILES), ("logsumexp",), **how)


def test_a_segment_that_comes_late_begins_with_nothing(rng):
    """Whatever an earlier step left there: the second chunk of keys is the first to have it."""
    sizes = Sizes(1, 1200, batch=1, heads=2, kv_heads=1)
    query, key, value = tensors(rng, sizes)
    how = {
        "policy": Reweight((1, 0.5)),
        "segments": np.arange(1200, dtype=np.uint8)[None, None] % 2,
    }
    attention(query, key, np.full_like(value, 1e30), **how)
    how["segments"] = (np.arange(1200) > 700).astype(np.uint8)[None, None]
    agree((query, key, value), **how)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint16, ">i4"])
def test_labels_of_other_integer_types(rng, dtype):
    arrays = tensors(rng, SQUARE)
    labels = rng.integers(0, 2, (2, 1, 40)).astype(dtype)
    how = {"policy": Reweight((1, 0.5)), "segments": labels.astype(np.uint8)}
    expected = attention(*arrays, **how)
    same_bytes(attention(*arrays, **how | {"segments": labels}), expected)


@KINDS
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_policies(rng, sizes, policy):
    labels = labels_of(rng, sizes, "image-and-sinks")
    where = rng.random((2, 4, sizes.query_len)) < 0.6
    agree(tensors(rng, sizes), causal=True, segments=labels, policy=policy, where=where)


def open_road(policy):
    return lambda masses: policy(masses)


SEQUENCES = {
    "two": [POLICIES["hand_on"], POLICIES["gated"]],
    "three": [POLICIES["gated_twice"], POLICIES["drop_one"], POLICIES["per_head"]],
    "callable": [open_road(POLICIES["receivers_give_too"])],
    "callables": [open_road(POLICIES["hand_on"]), open_road(POLICIES["per_item"])],
    "mixed": [POLICIES["hand_on"], open_road(POLICIES["scale"]), POLICIES["per_head"]],
    "none": [],
}


@KINDS
@pytest.mark.parametrize("policies", SEQUENCES.values(), ids=SEQUENCES)
def test_policies_in_order(rng, sizes, policies):
    labels = labels_of(rng, sizes, "image-and-sinks")
    labels[..., 0] = 3  # callables tell no number of segments: all labels must occur
    where = [rng.random((2, 4, sizes.query_len)) < 0.6, None, rng.random((4, 1)) < 0.5]
    agree(
        tensors(rng, sizes), segments=labels, policy=policies, where=where[: len(policies)] or None
    )


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (40,), (4, 1), (1, 40), (4, 40), (2, 1, 1), (2, 4, 1), (2, 1, 40), (2, 4, 40)],
    ids=str,
)
@pytest.mark.parametrize("wrap", [lambda p: p, open_road], ids=["reweight", "callable"])
def test_where_broadcasts(rng, shape, wrap):
    arrays, labels = tensors(rng, SQUARE), labels_of(rng, SQUARE, "random")
    where = np.asarray(rng.random(shape) < 0.5)
    policy = POLICIES["hand_on"]
    found = attention(
        *arrays, segments=labels, policy=wrap(policy), where=where, returns=EVERYTHING
    )
    expected = policy(found.masses.astype(np.float64))
    full = np.broadcast_to(where, (2, 4, 40))[..., None]
    close(found.factors, np.where(full, expected, 1))
    agree(arrays, segments=labels, policy=wrap(policy), where=where)


@KINDS
@pytest.mark.parametrize("name", EVERYTHING)
def test_returns_only_what_was_asked_for(rng, sizes, name):
    arrays, labels = tensors(rng, sizes), labels_of(rng, sizes, "image-and-sinks")
    how = {"causal": True, "segments": labels, "policy": POLICIES["hand_on"]}
    agree(arrays, returns=(name,), **how)
    plain = attention(*arrays, **how)
    assert isinstance(plain, np.ndarray)
    one = attention(*arrays, returns=name, **how)
    close(plain, one.out)
    close(getattr(one, name), getattr(attention(*arrays, returns=EVERYTHING, **how), name))
    assert getattr(reference.attention(*arrays, returns=name, **how), name) is not None
    with pytest.raises(ValueError, match="returns must hold names of"):
        reference.attention(*arrays, returns=f"{name}s", **how)


@KINDS
def test_more_segments_than_labels(rng, sizes):
    arrays, labels = tensors(rng, sizes), labels_of(rng, sizes, "image")
    state = segment_pass(*arrays, segments=labels, num_segments=16)
    assert state.masses.shape[-1] == state.partials.shape[-2] == 16
    assert not state.masses[..., 3:].any()
    assert not state.partials[..., 3:, :].any()
    close(combine(state.partials, np.ones_like(state.masses)), attention(*arrays))


@KINDS
@pytest.mark.parametrize("cuts", [(), (1,), (10, 10, 30), (0,)], ids=str)
def test_merged_shards_are_the_whole(rng, sizes, cuts):
    query, key, value = tensors(rng, sizes)
    labels, key_mask = labels_of(rng, sizes, "random"), mask_of(rng, sizes, "holes")["key_mask"]
    key_mask[:, :1] = False  # with a cut at 1, a shard without any key
    edges = [0, *cuts, sizes.key_len]
    states = [
        segment_pass(
            query,
            key[:, :, begin:end],
            value[:, :, begin:end],
            segments=labels[..., begin:end],
            num_segments=4,
            key_mask=key_mask[:, begin:end],
        )
        for begin, end in pairwise(edges)
    ]
    expected = reference.segment_pass(
        query, key, value, segments=labels, num_segments=4, key_mask=key_mask
    )
    for merged in (merge(states), reference.merge(states)):
        for name, actual in merged._asdict().items():
            close(actual, getattr(expected, name), name)
    masses = merge(states).masses
    policy = POLICIES["hand_on"]
    out = combine(merge(states).partials, policy(masses))
    how = {"segments": labels, "key_mask": key_mask, "policy": policy}
    close(out, reference.attention(query, key, value, **how))


def test_shards_without_keys_merge_to_no_key(rng):
    query, key, value = tensors(rng, SQUARE)
    empty = segment_pass(query, key[:, :, :0], value[:, :, :0], segments=None)
    merged = merge([empty, empty])
    assert np.isneginf(merged.logsumexp).all()
    assert not merged.masses.any()
    assert not merged.partials.any()


@KINDS
@pytest.mark.parametrize("layout", STRIDES.values(), ids=STRIDES)
def test_strides_do_not_matter(rng, sizes, layout):
    arrays = tensors(rng, sizes)
    how = {
        "segments": labels_of(rng, sizes, "per-head"),
        "key_mask": mask_of(rng, sizes, "holes")["key_mask"],
        "bias": mask_of(rng, sizes, "bias")["bias"],
        "where": rng.random((2, 4, sizes.query_len)) < 0.6,
    }
    others = {name: layout(array) for name, array in how.items()}
    policy = POLICIES["hand_on"]
    expected = attention(*arrays, returns=EVERYTHING, policy=policy, **how)
    found = attention(*map(layout, arrays), returns=EVERYTHING, policy=policy, **others)
    same_bytes(found, expected)
    # Plain attention has whole tiles, which go another way.
    plain = attention(*map(layout, arrays), returns=EVERYTHING)
    same_bytes(plain, attention(*arrays, returns=EVERYTHING))


@KINDS
@pytest.mark.parametrize("axis", [0, 1, 2, 3], ids=["batch", "heads", "rows", "columns"])
def test_axes_of_stride_0(rng, sizes, axis):
    def repeated(array):
        return np.broadcast_to(np.take(array, [0], axis), array.shape)

    agree([repeated(array) for array in tensors(rng, sizes)], causal=True)


@KINDS
def test_rows_that_overlap(rng, sizes):
    key = overlapping_rows(rng, 2, 2, sizes.key_len, 16)
    value = overlapping_rows(rng, 2, 2, sizes.key_len, 16)
    agree((overlapping_rows(rng, 2, 4, sizes.query_len, 16), key, value))


OUTS = {  # name -> a view of an array, to write to
    "rows-outside-heads": lambda b, h, n, d: np.full((b, n, h, d), 7, "f4").swapaxes(1, 2),
    "every-other-row": lambda b, h, n, d: np.full((b, h, 2 * n, d), 7, "f4")[:, :, ::2],
    "backwards": lambda b, h, n, d: np.full((b, h, n, d), 7, "f4")[::-1, ::-1, ::-1],
    "part-of-a-row": lambda b, h, n, d: np.full((b, h, n, d + 5), 7, "f4")[..., 2:-3],
    "every-other-column": lambda b, h, n, d: np.full((b, h, n, 2 * d), 7, "f4")[..., ::2],
    "columns-backwards": lambda b, h, n, d: np.full((b, h, n, d), 7, "f4")[..., ::-1],
}


@KINDS
@pytest.mark.parametrize("make", OUTS.values(), ids=OUTS)
@pytest.mark.parametrize("policy", [None, np.ones_like], ids=["plain", "callable"])
def test_out(rng, sizes, make, policy):
    arrays = tensors(rng, sizes)
    out = make(2, 4, sizes.query_len, 16)
    whole = out if out.base is None else out.base
    whole[...] = 7
    assert attention(*arrays, out=out, policy=policy) is out
    close(out, reference.attention(*arrays))
    assert attention(*arrays, out=out, returns="logsumexp").out is out
    out[...] = 7
    assert (whole == 7).all(), "wrote beside out"


# Prints what a call adds to the largest memory that the process had, in MiB; a smaller one before
# it makes the threads and most of their scratch memory.
MEMORY = """
import numpy as np, reattend
def high():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) // 1024
query, key, value = np.random.default_rng(0).standard_normal((3, 1, 2, {length}, 64), np.float32)
small = [array[:, :, :600] for array in (query, key, value)]
reattend.attention(*small, causal=True, returns=("column_sums", "masses"))
before = high()
reattend.attention(query, key, value, causal=True, returns=("column_sums", "masses"))
print(high() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_grows_with_the_length_only():
    length = 4096  # the matrix of one head would take 64 MiB, the results take 2
    code = MEMORY.format(length=length)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 16, "MiB beyond the inputs"


@pytest.mark.parametrize("query_len", [3, 300])
@pytest.mark.parametrize("heads", [None, [True, False, False, True]], ids=["all", "some"])
def test_column_sums_of_their_own(rng, query_len, heads):
    sizes = Sizes(query_len, 300)
    query, key, value = tensors(rng, sizes)
    mask = mask_of(rng, sizes, "causal+left-padding+window+bias-heads+softcap")
    found = attention(query, key, value, returns=("logsumexp", "column_sums"), **mask)
    heads = None if heads is None else np.array([heads, [True] * 4])
    sums = column_sums(query, key, found.logsumexp, heads=heads, **mask)
    close(sums, reference.column_sums(query, key, heads=heads, **mask))
    if heads is None:  # from weights that the pass kept, or from a second one
        close(sums, found.column_sums)


@pytest.mark.parametrize("value_dim", [4, 21, 32, 75])
def test_nothing_beyond_the_rows_of_an_output_is_written(rng, value_dim):
    query, key = rng.standard_normal((2, 1, 2, 300, 16), dtype=np.float32)
    value = rng.standard_normal((1, 2, 300, value_dim), dtype=np.float32)
    labels = np.zeros((1, 1, 300), np.uint8)
    labels[..., 20:200], labels[..., [0, 30, 77]] = 1, 2  # long runs, and keys that are scattered
    how = {"segments": labels, "policy": Reweight(weight=(1, 1, 0.5), to=(1,)), "causal": True}
    room = np.full((1, 2, 300, value_dim + 24), -0.0, np.float32)  # adding 0 would change its sign
    out = room[..., :value_dim]
    attention(query, key, value, out=out, **how)
    assert np.signbit(room[..., value_dim:]).all()
    np.testing.assert_array_equal(out, attention(query, key, value, **how))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [2**31, 2**63 - 1, 2**63, 2**80])
def test_a_window_beyond_all_keys_hides_none(rng, window, causal):
    arrays = tensors(rng, Sizes(5, 3))  # rows before the first key too
    agree(arrays, window=window, causal=causal)
    expected = reference.attention(*arrays, causal=causal)
    np.testing.assert_array_equal(
        reference.attention(*arrays, causal=causal, window=window), expected
    )


@pytest.mark.parametrize("rows", [1, 5])
def test_masses_of_a_step_are_those_of_heads_that_are_not_weighed(rows, rng):
    """Heads that no policy is for have one partial for all segments, in any number of chunks."""
    query = rng.standard_normal((2, 6, rows, 16), np.float32)
    key, value = rng.standard_normal((2, 2, 3, 1500, 16), np.float32)
    labels = rng.integers(0, 3, (2, 1, 1300), np.uint8)
    labels[:, :, 100:700] = 1
    where = np.arange(6)[:, None] < 2  # the first key head's
    plain = attention(query, key, value, causal=True)
    how = {"segments": labels, "causal": True, "returns": ("masses", "logsumexp")}
    told = attention(query, key, value, **how)
    right = reference.attention(query, key, value, **how)
    np.testing.assert_allclose(told.out, plain, rtol=4e-7, atol=1e-12)  # but for the sums' order
    assert np.abs(told.masses - right.masses).max() < 1e-6
    weighed = attention(query, key, value, policy=Reweight((1, 0.5, 2)), where=where, **how)
    assert np.array_equal(weighed.out[:, 2:], told.out[:, 2:])
    assert np.array_equal(weighed.masses[:, 2:], told.masses[:, 2:])
    assert not np.array_equal(weighed.out[:, :2], plain[:, :2])
