"""The same bytes, always: alone or in a batch, with any threads, padded, again and at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import POLICIES
from reattend import AttentionResult, attention, column_sums, segment_pass
from tensors import EVERYTHING, STRIDES, Sizes, close, labels_of, mask_of, same_bytes, tensors

# Sizes large enough that a call uses all its threads, with several tiles of rows and keys and
# several chunks to decode.
KINDS = pytest.mark.parametrize(
    "sizes",
    [
        Sizes(1, 1500, batch=3, dim=64, value_dim=64),
        Sizes(5, 700, batch=3, kv_heads=4, dim=24),
        Sizes(60, 60, batch=3, dim=128, value_dim=40),
        Sizes(300, 300, batch=3, dim=64, value_dim=64),
        Sizes(270, 600, batch=3, heads=4, kv_heads=1),
    ],
    ids=["decode-one-row", "decode-five-rows", "one-tile", "many-tiles", "more-keys"],
)
INTERVENTIONS = {
    "plain": None,
    "policy": POLICIES["gated_twice"],
    "policies": [POLICIES["hand_on"], POLICIES["per_head"]],
    "callable": lambda masses: POLICIES["hand_on"](masses),
    "mixed": [POLICIES["drop_one"], lambda masses: POLICIES["hand_on"](masses)],
}
interventions = pytest.mark.parametrize("policy", INTERVENTIONS.values(), ids=INTERVENTIONS)
THREADS = pytest.mark.parametrize("num_threads", [1, 2, 3, 7])


def case(rng, sizes, policy, masks="causal+holes"):
    """Give the arguments of a call, with every array that has a batch axis."""
    how = dict(zip(("query", "key", "value"), tensors(rng, sizes), strict=True))
    how |= mask_of(rng, sizes, masks) | {"returns": EVERYTHING}
    if policy is not None:
        labels = labels_of(rng, sizes, "image-and-sinks")
        labels[..., 0] = 3  # callables tell no number of segments: all labels must occur
        where = rng.random((sizes.batch, sizes.heads, sizes.query_len)) < 0.7
        count = len(policy) if isinstance(policy, list) else 1
        how |= {"segments": labels, "policy": policy, "where": [where, None][:count]}
    return how


def item_of(how, item):
    """Give the arguments that concern one item of a batch."""
    part = slice(item, item + 1)
    cut = {name: x[part] for name, x in how.items() if isinstance(x, np.ndarray)}
    if "where" in how:
        cut["where"] = [None if where is None else where[part] for where in how["where"]]
    return how | cut


def only(result, item):
    """Give what a batch's result says of one item."""
    return AttentionResult(*(None if x is None else x[item : item + 1] for x in result))


@KINDS
@interventions
@pytest.mark.parametrize("masks", ["causal+holes", "window+left-padding+bias", "softcap"])
def test_a_batch_gives_what_each_item_gives_alone(rng, sizes, policy, masks):
    how = case(rng, sizes, policy, masks)
    whole = attention(**how, num_threads=2)
    for item in range(sizes.batch):
        alone = attention(**item_of(how, item), num_threads=1)
        same_bytes(only(whole, item), alone)


@KINDS
@interventions
@THREADS
def test_threads_change_nothing(rng, sizes, policy, num_threads):
    how = case(rng, sizes, policy)
    same_bytes(attention(**how, num_threads=num_threads), attention(**how))


@KINDS
@THREADS
def test_threads_change_nothing_in_open_steps(rng, sizes, num_threads):
    query, key, value = tensors(rng, sizes)
    labels = labels_of(rng, sizes, "per-head")
    one, several = (
        segment_pass(query, key, value, segments=labels, causal=True, num_threads=n)
        for n in (1, num_threads)
    )
    for ours, theirs in zip(several, one, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    sums = [column_sums(query, key, one.logsumexp, num_threads=n) for n in (1, num_threads)]
    np.testing.assert_array_equal(*sums)


@KINDS
def test_a_second_call_gives_the_same(rng, sizes):
    how, other = case(rng, sizes, POLICIES["hand_on"]), case(rng, sizes, None)
    first = attention(**how)
    attention(**other)  # scratch memory keeps what it leaves
    same_bytes(attention(**how), first)


# Beyond 128 products are summed in parts; of rows of 72 and 128 without gaps oneDNN may sum in
# another order than with gaps, as heads have in [B, N, H, D].
@pytest.mark.parametrize("dim", [64, 72, 128, 200, 576])
@pytest.mark.parametrize("layout", STRIDES.values(), ids=STRIDES)
def test_how_arrays_lie_changes_nothing(rng, layout, dim):
    sizes = Sizes(300, 300, batch=1, heads=4, kv_heads=2, dim=dim, value_dim=dim)
    arrays = tensors(rng, sizes)
    whole = attention(*arrays, returns=("logsumexp", "column_sums"))
    laid = [layout(array) for array in arrays]
    same_bytes(attention(*laid, returns=("logsumexp", "column_sums")), whole)
    sums = [column_sums(*each[:2], whole.logsumexp) for each in (laid, arrays)]
    np.testing.assert_array_equal(*sums)


def test_calls_at_once_give_the_same(rng):
    shapes = [Sizes(300, 300), Sizes(1, 1500), Sizes(40, 40, dim=64), Sizes(5, 700, kv_heads=4)]
    calls = [case(rng, sizes, policy) for sizes in shapes for policy in INTERVENTIONS.values()]
    expected = [attention(**how) for how in calls]
    order = rng.permutation(np.repeat(np.arange(len(calls)), 4))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: attention(**calls[i], num_threads=2), order))
    for i, result in zip(order, found, strict=True):
        same_bytes(result, expected[i])


def padded(how, amount, side, rows):
    """Put padding before or behind the keys, and the rows too where they are the same tokens."""
    filled = {"query": 2 if rows else None, "key": 2, "value": 2, "segments": 2}

    def pad(array, axis):
        shape = (*array.shape[:axis], amount, *array.shape[axis + 1 :])
        parts = [np.full(shape, 3, array.dtype), array]
        return np.concatenate(parts if side == "left" else parts[::-1], axis)

    new = {name: pad(how[name], axis) for name, axis in filled.items() if axis and name in how}
    batch, length = how["key"].shape[0], how["key"].shape[2]
    new["key_mask"] = np.zeros((batch, length + amount), bool)
    start = amount if side == "left" else 0
    new["key_mask"][:, start : start + length] = how.get("key_mask", True)
    return how | new


def valid(result, amount, side, rows, length):
    """Give the part of a padded result that is no padding."""
    part = slice(amount, None) if side == "left" else slice(0, length)
    cut = part if rows else slice(None)
    of_rows = {
        name: x[:, :, cut]
        for name, x in result._asdict().items()
        if x is not None and name != "column_sums"
    }
    return AttentionResult(**of_rows, column_sums=result.column_sums[..., part])


def padding_case(rng, sizes, policy, masks):
    how = case(rng, sizes, policy, masks)
    return {name: x for name, x in how.items() if name != "where"}


ALONE = pytest.mark.parametrize("policy", [None, POLICIES["hand_on"]], ids=["plain", "policy"])
AMOUNTS = pytest.mark.parametrize("amount", [1, 100, 256])


@ALONE
@AMOUNTS
@pytest.mark.parametrize("length", [9, 60, 257, 520])
def test_left_padding_of_a_prompt_changes_nothing(rng, length, amount, policy):
    how = padding_case(rng, Sizes(length, length), policy, "causal")
    found = attention(**padded(how, amount, "left", rows=True))
    same_bytes(valid(found, amount, "left", True, length), attention(**how))


@ALONE
@AMOUNTS
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("query_len", "length"), [(1, 1500), (5, 700), (60, 60), (300, 520)])
def test_padding_of_keys_changes_nothing(rng, query_len, length, amount, policy, side):
    how = padding_case(rng, Sizes(query_len, length), policy, "full")
    found = attention(**padded(how, amount, side, rows=False))
    same_bytes(valid(found, amount, side, False, length), attention(**how))


@ALONE
@AMOUNTS
@pytest.mark.parametrize("length", [6, 60, 257, 520])
def test_right_padding_of_a_prompt_changes_no_more_than_rounding(rng, length, amount, policy):
    # Rows of padding join the tile of the last rows, whose products then add up in another order.
    how = padding_case(rng, Sizes(length, length), policy, "causal")
    found = attention(**padded(how, amount, "right", rows=True))
    ours, wanted = valid(found, amount, "right", True, length), attention(**how)
    for name in ("out", *EVERYTHING):
        close(getattr(ours, name), getattr(wanted, name), name)


@AMOUNTS
def test_left_padding_of_eight_rows_changes_no_more_than_rounding(rng, amount):
    # Up to eight rows are decoded, more are prefilled.
    how = padding_case(rng, Sizes(8, 8), None, "causal")
    found = attention(**padded(how, amount, "left", rows=True))
    ours, wanted = valid(found, amount, "left", True, 8), attention(**how)
    for name in ("out", *EVERYTHING):
        close(getattr(ours, name), getattr(wanted, name), name)
