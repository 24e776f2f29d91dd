"""The core refuses a call if and only if preparing it changes something, or raises."""

import ml_dtypes
import numpy as np
import pytest
from reattend import Reweight, Share, _core, apply_policy, attention, column_sums, quantize
from reattend.border.blocks import QuantizedBlocks
from reattend.border.core_call import attend
from reattend.border.prepare import as_tuple, prepare
from reattend.border.quantized import Quantized
from reattend.border.request import MaskSpec, Request
from reattend.transform import Transform
from tensors import Sizes, same_bytes, tensors

BATCH, HEADS, KV_HEADS, ROWS, KEYS, DIM, VALUE_DIM = 2, 4, 2, 3, 9, 8, 6
SHAPES = {
    "query": (BATCH, HEADS, ROWS, DIM),
    "key": (BATCH, KV_HEADS, KEYS, DIM),
    "value": (BATCH, KV_HEADS, KEYS, VALUE_DIM),
}


def with_room(array):
    """Lay an array out as a view of a cache that can grow."""
    return np.pad(array, ((0, 0), (0, 0), (0, 9), (0, 0)))[:, :, :-9]


def shifted(array):
    """Lay an array out a byte beside where its numbers should begin."""
    bytes_ = np.frombuffer(bytearray(b"-" + array.tobytes()), np.uint8)
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


class Mine(np.ndarray):
    """An array of a class of its own."""


def stored(rng, name):
    """Give what a query, keys or values may be and may not be; what fits comes first."""
    shape = SHAPES[name]
    whole = rng.standard_normal(shape, np.float32)
    yield whole
    for laid, _ in LAYOUTS.values():
        yield laid(whole)
    for kind in (np.float16, ml_dtypes.bfloat16, np.uint16, np.float64, ">f4", ">f2", np.int8):
        yield whole.astype(kind)
    yield from (whole.tolist(), None, whole[0], whole[None], whole.view(Mine), whole[..., :5])
    yield from (whole[:1], whole[:, :1], whole[:, :, :2], whole[:, :, :0], whole[:, :0])
    yield np.ma.masked_array(whole, whole > 9)
    if name != "query":
        found = quantize(whole)
        yield from (found, Quantized(found.numbers, found.scale[:1]), tuple(found))
        yield Quantized(found.numbers.astype(np.int16), found.scale)
        yield Quantized(np.repeat(found.numbers, 2, axis=-1)[..., ::2], found.scale)
        yield Quantized(found.numbers, np.repeat(found.scale, 2, axis=-1)[..., ::2])
        long = np.repeat(whole, 40, axis=2)[:, :, : whole.shape[2]]
        four = quantize(long, bits=4, by_channel=name == "key")
        yield from (four, four._replace(layout="q8_0"), four._replace(layout="int3"), tuple(four))
        yield from (four._replace(rest=four.rest[:1]), four._replace(rest=four.rest.astype(float)))
        yield four._replace(rest=np.repeat(four.rest, 2, axis=-1)[..., ::2])
        yield four._replace(blocks=four.blocks.view(np.int8))
        ggml = np.zeros((*whole.shape[:3], 34), np.uint8)
        yield QuantizedBlocks(ggml, "q8_0", whole[:, :, :0])


def options(rng):
    """Give values of all other arguments: what fits, what has to be prepared, what is wrong."""
    shown = rng.random((BATCH, KEYS)) < 0.7
    bias = rng.standard_normal((BATCH, HEADS, ROWS, KEYS), np.float32)
    labels = rng.integers(0, 3, (BATCH, HEADS, KEYS)).astype(np.uint8)
    where = rng.random((BATCH, HEADS, ROWS)) < 0.5
    one, other = Reweight((1, 0.5, 2), to=(0,), when=Share(1, 0.1)), Reweight(np.ones((4, 3)))
    null = rng.standard_normal((BATCH, HEADS, ROWS), np.float32)
    out = np.full((BATCH, HEADS, ROWS, VALUE_DIM), 7, np.float32)
    apart = np.repeat(out, 2, axis=-1)[..., ::2]
    fixed = out.copy()
    fixed.flags.writeable = False
    return {
        "scale": [0.5, 1, np.float32(1), "2", np.nan, 1e39, -1e39, np.inf, True, -1.0, "x"],
        "causal": [True, False, np.True_, 1, None],
        "key_mask": [
            shown, shown[:1], shown.tolist(), shown.astype(np.uint8), shown.view(Mine),
            shown.T.copy().T, shown[:, ::-1], np.ones((BATCH, 2 * KEYS), bool)[:, ::2],
        ],
        "bias": [
            bias, bias[0], bias[0, 0], bias[0, 0, 0], bias[0, 0, 0, 0], bias[:, :1], bias[..., :1],
            bias[..., ::-1], bias.astype(np.float64), bias.astype(np.float16), bias > 0,
            shifted(bias), bias[None], bias[:, :2], bias.astype(">f4"), bias[0, 0, 0, 0].item(),
            np.swapaxes(np.swapaxes(bias, 2, 3).copy(), 2, 3), bias.view(Mine), bias[..., :5],
        ],
        "window": [1, 4, 10**30, 0, -3, np.int64(4), True, 2.5, "4", -(10**30)],
        "softcap": [2.0, 2, np.float32(2), 0.0, -1.0, np.nan, np.inf, 1e-42, "2"],
        "dtype": ["float32", "float16", "bfloat16", np.dtype("float16"), "f2", 3],
        "segments": [
            labels, labels[:, :1], labels[..., :4], labels[..., :0], labels[..., ::-1], labels[:1],
            labels.astype(np.int64), labels.tolist(), labels == 1, labels[:, :2], labels[0],
            labels.repeat(2, axis=2), labels.repeat(2, axis=2)[..., ::2], labels * np.uint8(8),
            labels[:, ::-1], labels.view(Mine),
        ],
        "policy": [
            one, other, (one, other), [one], (), [], (one, Reweight((1, 2))), np.ones_like,
            (one, np.ones_like), 3, (one, 3), Reweight(np.ones((3, 1, 3))),
            Reweight(np.ones((2, 3, 3))), Reweight(np.ones((2, 4, 3))),
        ],
        "where": [
            where, where[0], where[0, 0], where[0, 0, 0], where[:, :1], where.tolist(), (where,),
            (where, None), [where], where.astype(np.uint8), where[:, :3], where[None], where[::-1],
            (where.tolist(), None), (), where.view(Mine), True,
        ],
        "transform": [
            Transform(shift=np.ones((1, 1, 4))), (bias, bias, bias), 3,
            Transform(shift=np.ones((2, 4, 4)), first_row=np.arange(2)),
            Transform(shift=np.ones((1, 1, 4)), first_row=np.arange(3)),
            Transform(shift=np.ones((3, 1, 4))), Transform(shift=np.ones((1, 3, 4))),
            Transform(shift=np.ones((1, 1, KEYS + 1))), Transform(shift=np.zeros((1, 1, 4))),
            Transform(shift=np.ones((2, 1, 0))), Transform(scale=np.ones((1, 4, 1)), beyond=True),
            Transform(shift=np.ones((1, 1, KEYS + 1)), beyond=True),
        ],
        "null_logit": [
            null, null[0], null[:, :1], null[..., ::-1], null.astype(np.float64), null.tolist(),
            null.astype(np.int64), np.full_like(null, -np.inf), np.full_like(null, np.inf),
            np.where(null > 1, np.nan, null), null[None], null[:, :3], 0.5, shifted(null),
        ],
        "returns": [
            "masses", ("masses",), ("masses", "logsumexp", "column_sums", "factors", "changed"),
            ("score_sums", "abs_score_sums", "entropies", "largest", "largest_keys"), "scores",
            ["masses"], {"masses"}, "mass", ("masses", 3), 3, None, [], "column_sums", "out",
        ],
        "out": [
            out, apart, fixed, out.astype(np.float16), out.astype(ml_dtypes.bfloat16), out[:1],
            out.astype(np.float64), out.tolist(), out.view(Mine), out[::-1], shifted(out),
            np.broadcast_to(np.float32(0), out.shape), "query", "bias", "beside",
            with_room(out), np.lib.stride_tricks.as_strided(out, out.shape, (96, 24, 4, 4)),
        ],
    }  # fmt: skip


def drawn(rng):
    """Draw a call: most arguments fit, so that each rule is met alone."""
    call = {}
    for name in SHAPES:
        fits, *others = stored(rng, name)
        call[name] = one_of(rng, others) if rng.random() < 0.15 else fits
    known = options(rng)
    for name in rng.permutation(list(known))[: rng.integers(0, 4)]:
        call[name] = known[name][0] if rng.random() < 0.3 else one_of(rng, known[name])
    if isinstance(call.get("out"), str):
        call |= overlapping(call, call["out"])
    return call


def one_of(rng, values):
    return values[rng.integers(len(values))]


def overlapping(call, what):
    """Give an output that lies where an input does, or between its numbers."""
    shape = (BATCH, HEADS, ROWS, VALUE_DIM)
    if what == "beside":
        memory = np.ones((BATCH, HEADS, ROWS, DIM + VALUE_DIM), np.float32)
        return {"query": memory[..., :DIM], "out": memory[..., DIM:]}
    if what == "bias":
        bias = np.ones((*shape[:3], KEYS), np.float32)
        return {"bias": bias, "out": bias[..., 1 : 1 + VALUE_DIM]}
    query = np.ones((*shape[:3], DIM), np.float32)
    return {"query": query, "out": query[..., :VALUE_DIM]}


def split(call):
    """Give a call as the core and `prepare` take it."""
    mask = MaskSpec(**{name: call[name] for name in MaskSpec._fields if name in call})
    request = Request(**{name: call[name] for name in Request._fields if name in call})
    return call["query"], call["key"], call["value"], mask, request


def unchanged(given, prepared):
    """Say whether preparing left every argument the very same object."""
    *arrays, mask, request = given
    *arrays_after, mask_after, request_after = prepared
    pairs = [
        *zip(arrays, arrays_after, strict=True),
        *zip(mask, mask_after, strict=True),
        *zip(request, request_after, strict=True),
    ]
    plain = all(isinstance(each, Reweight) for each in as_tuple(prepared.request.policy))
    return plain and all(
        before is after or (type(before) is type(after) is float and before == after)
        for before, after in pairs
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_core_refuses_what_preparing_changes_or_names(seed):
    rng = np.random.default_rng(seed)
    counts = {True: 0, False: 0}
    for _ in range(60):
        call = drawn(rng)
        given = split(call)
        try:
            wanted = unchanged(given, prepare(*given))
        except (TypeError, ValueError):
            wanted = False
        out = call.get("out")
        before = out.copy() if isinstance(out, np.ndarray) else None
        try:
            taken = _core.attention(*given, 1) is not None
        except ValueError as error:  # labels are read by the pass itself
            if "segments must hold labels below" not in str(error):
                raise
            taken = wanted
        assert taken == wanted, call
        counts[taken] += 1
        if not taken and before is not None:
            np.testing.assert_array_equal(out, before)
    assert min(counts.values()) > 9  # else little was tried


@pytest.fixture
def in_python(monkeypatch):
    """Call attention with every argument prepared in Python, whether that changes it or not."""

    def call(*arrays, **how):
        real, asked = _core.attention, []

        def second_time_only(*given):
            asked.append(given)
            return None if len(asked) == 1 else real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(_core, "attention", second_time_only)
            found = attention(*arrays, **how)
        assert len(asked) > 1
        return found

    return call


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("query_len", [1, 60])
@pytest.mark.parametrize("kinds", [*NUMBERS, "float32 float16", "bfloat16 float32"])
@pytest.mark.parametrize("scale", [None, 0.25])
def test_layouts_and_types_give_the_same(rng, in_python, query_len, layout, kinds, scale):
    laid, taken = LAYOUTS[layout]
    query_kind, *rest = kinds.split()
    key_kind = rest[0] if rest else query_kind
    query, *cache = tensors(rng, Sizes(query_len, 70, dim=24, value_dim=40))
    arrays = [
        laid(query.astype(NUMBERS[query_kind])),
        *(laid(x.astype(NUMBERS[key_kind])) for x in cache),
    ]
    mask = MaskSpec(scale, causal=True)
    assert (_core.attention(*arrays, mask, Request(), 1) is not None) == taken
    found = attention(*arrays, causal=True, scale=scale)
    assert found.dtype == NUMBERS[query_kind]
    same_bytes(found, in_python(*arrays, causal=True, scale=scale))
    same_bytes(found, attention(*arrays, causal=True, scale=scale, out=np.empty_like(found)))


@pytest.mark.parametrize("returns", [(), "masses"])
@pytest.mark.parametrize("kind", NUMBERS)
def test_steps_with_policies_give_the_same(rng, in_python, kind, returns):
    batch, heads, length = 2, 4, 70
    arrays = [x.astype(NUMBERS[kind]) for x in tensors(rng, Sizes(1, length, batch, heads, 2))]
    labels = rng.integers(0, 3, (batch, 1, length - 9)).astype(np.uint8)
    where = rng.random((batch, heads, 1)) < 0.6
    one, other = Reweight((1, 0.4, 0.7), to=(0,)), Reweight(rng.random((batch, heads, 3)))
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


@pytest.mark.parametrize("returns", [(), "masses"])
@pytest.mark.parametrize("policy", [None, Reweight((1, 0.5, 1)), np.ones_like])
@pytest.mark.parametrize("layout", ["numbers apart", "beside the query", "own class"])
def test_an_output_that_the_core_cannot_write_to_is_written(rng, layout, policy, returns):
    query, key, value = tensors(rng, Sizes(5, 30, dim=16, value_dim=16))
    how = {"segments": np.array([[[0, 1, 2]]] * 2, np.uint8), "policy": policy, "returns": returns}
    expected = attention(query, key, value, **how)
    memory = np.zeros((*query.shape[:3], 32), np.float32)
    if layout == "numbers apart":
        out = memory[..., ::2]
    elif layout == "beside the query":
        memory[..., :16] = query
        query, out = memory[..., :16], memory[..., 16:]
    else:
        out = memory[..., :16].copy().view(Mine)
    found = attention(query, key, value, **how, out=out)
    assert (found.out if returns else found) is out
    same_bytes(np.asarray(out), expected.out if returns else expected)


def test_a_logsumexp_with_gaps_is_read_as_it_is(rng):
    query, key, value = tensors(rng, Sizes(20, 20))
    plain = attention(query, key, value, returns="logsumexp")
    roomy = np.zeros((2, 4, 30), np.float32)[..., :20]
    roomy[:] = plain.logsumexp
    same_bytes(column_sums(query, key, roomy), column_sums(query, key, plain.logsumexp))
    how = {"segments": np.array([[[1, 0, 1]]] * 2, np.uint8), "policy": Reweight((1, 0.5))}
    expected = apply_policy(plain._replace(out=plain.out.copy()), query, key, value, **how)
    found = apply_policy(plain._replace(logsumexp=roomy), query, key, value, **how)
    same_bytes(found.out, expected.out)


@pytest.mark.parametrize("name", ["logsumexp", "column_sums"])
def test_what_a_policy_does_not_change_is_not_given_again(rng, name):
    arrays = tensors(rng, Sizes(3, 9))
    plain = attention(*arrays, returns="logsumexp")
    before = plain.out.copy()
    with pytest.raises(ValueError, match=f"returns must hold names of.*'masses'.*got '{name}'"):
        apply_policy(plain, *arrays, segments=None, policy=Reweight((2,)), returns=("masses", name))
    np.testing.assert_array_equal(plain.out, before)
    with pytest.raises(ValueError, match="plain must hold an output and a logsumexp"):
        apply_policy(plain._replace(logsumexp=None), *arrays, segments=None, policy=Reweight((2,)))


def test_nobody_but_the_package_asks_for_the_open_form(rng):
    arrays = tensors(rng, Sizes(3, 9))
    for name in ("partials", "nothing"):
        with pytest.raises(ValueError, match="returns must hold names"):
            attention(*arrays, returns=name)
    open_form = Request(returns=("masses",), instead="nothing")
    assert attend(*arrays, MaskSpec(), open_form, None).out is None
