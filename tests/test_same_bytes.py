"""The same bytes, always: alone or in a batch, with any threads, padded, again and at once."""

from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from cases import POLICIES
from reattend import AttentionResult, Reweight, _core, attention, column_sums, segment_pass
from tensors import EVERYTHING, Sizes, close, labels_of, mask_of, same_bytes, tensors

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


@KINDS
@interventions
@pytest.mark.parametrize("masks", ["causal+holes", "window+left-padding+bias", "softcap"])
def test_a_batch_gives_what_each_item_gives_alone(rng, sizes, policy, masks):
    how = case(rng, sizes, policy, masks)
    whole = attention(**how, num_threads=2)
    for item in range(sizes.batch):
        alone = attention(**item_of(how, item), num_threads=1)
        same_bytes(AttentionResult(*(x[item : item + 1] for x in whole)), alone)


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
    return AttentionResult(
        result.out[:, :, cut],
        result.masses[:, :, cut],
        result.logsumexp[:, :, cut],
        result.column_sums[..., part],
        result.factors[:, :, cut],
        result.changed[:, :, cut],
    )


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
    for name, ours in valid(found, amount, "right", True, length)._asdict().items():
        close(ours, getattr(attention(**how), name), name)


@AMOUNTS
def test_left_padding_of_eight_rows_changes_no_more_than_rounding(rng, amount):
    # Up to eight rows are decoded, more are prefilled.
    how = padding_case(rng, Sizes(8, 8), None, "causal")
    found = attention(**padded(how, amount, "left", rows=True))
    for name, ours in valid(found, amount, "left", True, 8)._asdict().items():
        close(ours, getattr(attention(**how), name), name)


def with_room(array):
    """Lay an array out as a view of a cache that can grow."""
    return np.pad(array, ((0, 0), (0, 0), (0, 9), (0, 0)))[:, :, :-9]


def shifted(array):
    """Lay an array out a byte beside where its numbers should begin."""
    bytes_ = np.frombuffer(b"-" + array.tobytes(), np.uint8)
    return bytes_[1:].view(array.dtype).reshape(array.shape)


LAYOUTS = {  # and whether the core takes it
    "as they come": (lambda x: x, True),
    "heads behind rows": (lambda x: x.swapaxes(1, 2).copy().swapaxes(1, 2), True),
    "room left": (with_room, True),
    "backwards": (lambda x: x[:, ::-1, ::-1].copy()[:, ::-1, ::-1], True),
    "numbers apart": (lambda x: np.repeat(x, 2, axis=-1)[..., ::2], False),
    "not aligned": (shifted, False),
}


NUMBERS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.fixture
def in_python(monkeypatch):
    """Call attention with every check made in Python."""

    def call(*arrays, **how):
        with monkeypatch.context() as patch:
            for name in ("plain", "attention_if_fit", "type_if_fit"):
                patch.setattr(_core, name, lambda *_: None)
            return attention(*arrays, **how)

    return call


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("query_len", [1, 60])
@pytest.mark.parametrize("kinds", [*NUMBERS, "float32 float16", "bfloat16 float32"])
@pytest.mark.parametrize("scale", [None, 0.25])
def test_what_the_core_checks_is_what_python_checks(
    rng, in_python, query_len, layout, kinds, scale
):
    laid, taken = LAYOUTS[layout]
    query_kind, *rest = kinds.split()
    key_kind = rest[0] if rest else query_kind
    query, *cache = tensors(rng, Sizes(query_len, 70, dim=24, value_dim=40))
    arrays = [
        laid(query.astype(NUMBERS[query_kind])),
        *(laid(x.astype(NUMBERS[key_kind])) for x in cache),
    ]
    half = next((kind for kind in (query_kind, key_kind) if kind != "float32"), "float32")
    assert _core.type_if_fit(*arrays) == (half if taken else None)
    assert (_core.plain(*arrays, scale, True, 1) is not None) == taken
    found = attention(*arrays, causal=True, scale=scale)
    assert found.dtype == NUMBERS[query_kind]
    same_bytes(found, in_python(*arrays, causal=True, scale=scale))
    out = np.empty_like(found)  # with it, Python checks all but the arrays
    same_bytes(found, attention(*arrays, causal=True, scale=scale, out=out))


def step(rng):
    """Give a decoding step's arrays, labels and rows, and policies on them."""
    batch, heads, length = 2, 4, 70
    arrays = tensors(rng, Sizes(1, length, batch, heads, 2))
    labels = rng.integers(0, 3, (batch, 1, length - 9)).astype(np.uint8)
    where = rng.random((batch, heads, 1)) < 0.6
    weight = rng.random((batch, heads, 3))
    return arrays, labels, where, (Reweight((1, 0.4, 0.7), to=(0,)), Reweight(weight))


@pytest.mark.parametrize("returns", [(), "masses"])
@pytest.mark.parametrize("kind", NUMBERS)
def test_a_step_checked_by_the_core_is_that_checked_by_python(rng, in_python, kind, returns):
    arrays, labels, where, (one, other) = step(rng)
    arrays = [x.astype(NUMBERS[kind]) for x in arrays]
    calls = [
        {"segments": labels, "policy": one},
        {"segments": labels.repeat(4, axis=1), "policy": one, "where": where},
        {"segments": labels, "policy": (one, other), "where": (None, where[:, :1])},
        {"policy": Reweight(rng.random((4, 1)))},
    ]
    for how in calls:
        found, expected = (
            call(*arrays, causal=True, returns=returns, **how) for call in (attention, in_python)
        )
        assert type(found) is type(expected)
        same_bytes(found, expected)


def test_the_core_leaves_policies_that_do_not_fit_to_python(rng):
    arrays, labels, where, (one, _) = step(rng)

    def taken(segments, weight, rows, arrays=arrays):
        rules = [(*Reweight(weight).packed, rows)]
        found = _core.attention_if_fit(*arrays, None, True, 1, segments, rules, False, False, None)
        return found is not None

    assert taken(labels, one.weight, where)
    for segments in (
        labels[:1], labels[:, 0], labels.astype(np.int64), labels.repeat(2, axis=2),
        labels.repeat(3, axis=1), labels.repeat(2, axis=2)[..., ::2], labels.tolist(),
    ):  # fmt: skip
        assert not taken(segments, one.weight, where)
    for weight in (np.ones((3, 4, 3)), np.ones((2, 3, 3))):
        assert not taken(labels, weight, None)
    for rows in (where[0], where[:, :3], where.astype(np.uint8), where[None]):
        assert not taken(labels, one.weight, rows)
    assert not taken(labels, one.weight, where, [x.tolist() for x in arrays])
    rules = [(*Reweight(weight).packed, None) for weight in ((1, 2, 3), (1, 2))]
    assert _core.attention_if_fit(*arrays, None, True, 1, labels, rules, False, False, None) is None
    with pytest.raises(ValueError, match="segments must hold labels below 2"):
        attention(*arrays, segments=labels, policy=Reweight((1, 2)))


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 4, 1, 8), (1, 2, 9, 8), (1, 2, 9, 8)),
        ((2, 4, 1, 8), (2, 3, 9, 8), (2, 3, 9, 8)),
        ((2, 4, 1, 8), (2, 2, 9, 7), (2, 2, 9, 7)),
        ((2, 4, 1, 8), (2, 2, 9, 8), (2, 2, 8, 8)),
        ((2, 4, 1, 8), (2, 2, 9, 8), (2, 1, 9, 8)),
        ((2, 4, 8), (2, 2, 9, 8), (2, 2, 9, 8)),
        ((2, 4, 1, 8), (2, 2, 0, 8), (2, 2, 0, 8)),
    ],
)
def test_the_core_leaves_what_does_not_fit_to_python(shapes):
    assert _core.plain(*(np.ones(shape, np.float32) for shape in shapes), None, True, 1) is None


def test_the_core_leaves_other_numbers_to_python():
    ones = np.ones((1, 2, 3, 4), np.float32)
    for other in (ones.astype(np.float16), ones.tolist(), None):
        assert _core.plain(ones, other, ones, None, True, 1) is None
    halves = ones.astype(np.float16), ones.astype(ml_dtypes.bfloat16)
    assert _core.plain(ones, *halves, None, True, 1) is None
    for kind in (">f4", ">f2", np.float64, np.int16, np.uint16, np.complex64):
        assert _core.plain(*[ones.astype(kind)] * 3, None, True, 1) is None
    assert _core.plain(ones, ones, ones, float("nan"), True, 1) is None
