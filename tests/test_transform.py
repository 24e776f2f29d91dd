"""Scores changed before the softmax, and a key without a value: the pass equals the matrix."""

import copy
import pickle

import numpy as np
import pytest
from reattend import Plan, Reweight, attention, quantize, reference
from reattend.border import core_call
from reattend.plan import compose
from reattend.transform import Transform, in_heads, shifted
from tensors import close

TOLERANCE = 2e-5  # float32 scores of some tens against float64
SHAPES = [  # B, H, H_kv, N, M, D
    (2, 4, 2, 70, 300, 16),
    (1, 2, 1, 300, 300, 32),
    (2, 8, 2, 1, 700, 64),
    (1, 4, 4, 3, 40, 8),
    (1, 1, 1, 1, 1, 8),
]
MASKS = [{"causal": True}, {}, {"causal": True, "window": 33}, {"softcap": 4.0}, {"scale": 0.4}]


def arrays(shape, rng):
    batch, heads, kv_heads, rows, keys, size = shape
    query = rng.standard_normal((batch, heads, rows, size), np.float32) * 2
    key, value = rng.standard_normal((2, batch, kv_heads, keys, size), np.float32)
    return query, key, value


def drawn(shape, rng, per_head=False):
    """Numbers for the keys of the middle, other ones for each item."""
    batch, heads, _, rows, keys, _ = shape
    length = max(1, keys * 2 // 3)
    size = (batch, heads if per_head else 1, length)
    some = (np.arange(length) >= length // 4) & (rng.random(size) < 0.7)
    scale = np.where(some, rng.uniform(-1, 2, size), 1)
    shift = np.where(some, rng.uniform(-1, 1, size), 0)
    slope = np.where(some, rng.uniform(-1, 1, size), 0)
    first = rng.integers(keys - rows, keys, batch)
    return Transform(scale, shift, slope, first)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("per_head", [False, True])
def test_transform_equals_the_matrix(shape, mask, per_head, rng):
    query, key, value = arrays(shape, rng)
    transform = drawn(shape, rng, per_head)
    how = {**mask, "transform": transform}
    if shape[4] > 30:
        how["key_mask"] = np.arange(shape[4]) >= np.arange(shape[0])[:, None] * 5
    found = attention(query, key, value, returns=("logsumexp", "column_sums"), **how)
    right = reference.attention(query, key, value, returns=("logsumexp", "column_sums"), **how)
    assert np.abs(found.out - right.out).max() < TOLERANCE
    assert np.abs(found.column_sums - right.column_sums).max() < 5e-5
    seen = ~np.isneginf(right.logsumexp)
    assert np.abs(found.logsumexp - right.logsumexp)[seen].max() < TOLERANCE
    if shape[4] > 30 and "window" not in mask:
        plain = attention(query, key, value, **{**how, "transform": None})
        assert np.abs(found.out - plain).max() > 0.01


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_null_logit_equals_the_matrix(shape, mask, rng):
    query, key, value = arrays(shape, rng)
    plain = attention(query, key, value, returns="logsumexp", **mask)
    for size in (shape[:2] + shape[3:4], (shape[1], 1), (1, 1, shape[3])):
        logit = rng.normal(size=size) + plain.logsumexp.mean()  # so that it takes its share
        how = {**mask, "null_logit": logit, "returns": ("masses", "logsumexp")}
        found, right = (
            attention(query, key, value, **how),
            reference.attention(query, key, value, **how),
        )
        assert np.abs(found.out - right.out).max() < TOLERANCE
        assert np.abs(found.masses - right.masses).max() < TOLERANCE
        assert np.abs(found.logsumexp - right.logsumexp).max() < TOLERANCE
        assert found.masses.mean() < 0.95


def test_null_logit_equals_onnxruntime(rng):
    """An independent oracle: GroupQueryAttention with head_sink, causal, a prompt without past."""
    ort = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    batch, heads, kv_heads, rows, size = 1, 4, 2, 40, 32
    query, key, value = arrays((batch, heads, kv_heads, rows, rows, size), rng)
    sink = rng.normal(size=heads).astype(np.float32) * 2
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    names = ["query", "key", "value", "", "", "lengths", "total", "", "", "", "", "head_sink"]
    node = helper.make_node(
        "GroupQueryAttention", names, ["out", "present_key", "present_value"],
        domain="com.microsoft", num_heads=heads, kv_num_heads=kv_heads, scale=size**-0.5,
    )  # fmt: skip
    flat = {
        "query": query.swapaxes(1, 2).reshape(batch, rows, -1),
        "key": key.swapaxes(1, 2).reshape(batch, rows, -1),
        "value": value.swapaxes(1, 2).reshape(batch, rows, -1),
        "lengths": np.array([rows - 1] * batch, np.int32),
        "total": np.array(rows, np.int32),
        "head_sink": sink,
    }
    types = {np.dtype("float32"): kind, np.dtype("int32"): onnx.TensorProto.INT32}
    graph = helper.make_graph(
        [node], "attention",
        [helper.make_tensor_value_info(n, types[x.dtype], x.shape) for n, x in flat.items()],
        [helper.make_tensor_value_info("out", kind, None)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = session.run(["out"], flat)[0].reshape(batch, rows, heads, size).swapaxes(1, 2)
    ours = attention(query, key, value, causal=True, null_logit=sink[:, None])
    assert np.abs(ours - theirs).max() < 2e-6


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
@pytest.mark.parametrize("kind", ["Reweight", "callable", "partials"])
def test_policies_see_what_is_left(shape, kind, rng, monkeypatch):
    """Masses are those after the transform and beside the null key, in all three roads."""
    query, key, value = arrays(shape, rng)
    labels = rng.integers(0, 3, (shape[0], 1, shape[4])).astype(np.uint8)
    policy = Reweight((1, 0.4, 1), to=(0, 2))
    how = {
        "causal": True, "transform": drawn(shape, rng), "null_logit": rng.normal(size=(1, 1, 1)),
        "segments": labels, "returns": ("masses", "factors"),
    }  # fmt: skip
    right = reference.attention(query, key, value, policy=policy, **how)
    if kind == "callable":  # a second pass with factors that are decided
        monkeypatch.setattr(core_call, "_FEW_PARTIALS", 0)
    if kind != "Reweight":
        rule = policy
        policy = lambda masses: rule(masses)  # noqa: E731
    found = attention(query, key, value, policy=policy, **how)
    assert np.abs(found.masses - right.masses).max() < TOLERANCE
    assert np.allclose(found.factors, right.factors, rtol=1e-4)
    assert np.allclose(found.out, right.out, rtol=1e-4, atol=TOLERANCE)


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("rows", [1, 60])
def test_other_types(stored, rows, rng):
    shape = (1, 4, 2, rows, 300, 32)
    query, key, value = arrays(shape, rng)
    if stored == "int8":
        key, value = quantize(key), quantize(value)
    elif stored == "int4":
        key, value = quantize(key, bits=4, by_channel=True), quantize(value, bits=4)
    else:
        kind = pytest.importorskip("ml_dtypes").bfloat16 if stored == "bfloat16" else np.float16
        query, key, value = (x.astype(kind) for x in (query, key, value))
    how = {"causal": True, "transform": drawn(shape, rng), "null_logit": np.ones((1, 1, 1))}
    out = np.empty((1, 4, rows, 32), np.float32)
    attention(query, key, value, out=out, **how)
    tolerance = 2e-2 if stored == "bfloat16" else TOLERANCE
    assert np.abs(out - reference.attention(query, key, value, **how)).max() < tolerance


def test_a_null_key_that_has_all(rng):
    query, key, value = arrays(SHAPES[3], rng)
    found = attention(
        query, key, value, null_logit=np.full((1, 1, 1), 500.0), returns=("masses", "logsumexp")
    )
    assert (found.out == 0).all()
    assert (found.masses == 0).all()
    assert (found.logsumexp == 500).all()


def test_no_null_key_gives_the_bytes_of_plain(rng):
    for shape in SHAPES:
        query, key, value = arrays(shape, rng)
        plain = attention(query, key, value, causal=True)
        none = np.full((1, 1, 1), -np.inf)
        assert np.array_equal(plain, attention(query, key, value, causal=True, null_logit=none))
        same = Transform(slope=np.zeros((1, 1, 1)))
        assert np.array_equal(plain, attention(query, key, value, causal=True, transform=same))


def test_rows_that_see_no_key_stay_empty(rng):
    query, key, value = arrays(SHAPES[0], rng)
    hidden = np.zeros((2, 300), bool)
    found = attention(
        query, key, value, key_mask=hidden, null_logit=np.zeros((1, 1, 1)), returns="logsumexp"
    )
    assert (found.out == 0).all()
    assert np.isneginf(found.logsumexp).all()


def test_rows_before_the_first_keep_their_bytes(rng):
    query, key, value = arrays(SHAPES[1], rng)
    transform = Transform(slope=np.full((1, 1, 200), 0.5), first_row=299)
    found = attention(query, key, value, causal=True, transform=transform)
    plain = attention(query, key, value, causal=True)
    assert np.abs(found - plain)[:, :, :-1].max() < 1e-6
    assert np.abs(found - plain)[:, :, -1].max() > 1e-3


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"transform": 2.0}, TypeError, "transform must be a Transform, got 2.0"),
        (
            {"transform": Transform(slope=np.ones((3, 1, 4)))},
            ValueError, r"transform must broadcast to .* = \(2, 4, 300\), got \(3, 1, 4\)",
        ),
        ({"transform": Transform(slope=np.ones((1, 1, 301)))}, ValueError, "must broadcast to"),
        (
            {"transform": Transform(slope=np.ones((1, 1, 4)), first_row=np.zeros(3, int))},
            ValueError, r"first_row must be an integer or \[B\] = \(2,\)",
        ),
        ({"null_logit": np.zeros((3, 1, 1))}, ValueError, r"null_logit must broadcast to"),
        ({"null_logit": np.array([np.nan])}, ValueError, "null_logit must be finite"),
        (
            {"null_logit": np.zeros(1), "returns": "column_sums"},
            ValueError, "must not hold 'column_sums' with a null_logit",
        ),
    ],
)  # fmt: skip
def test_errors_name_the_argument(how, error, message, rng):
    with pytest.raises(error, match=message):
        attention(*arrays(SHAPES[0], rng), **how)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Transform(), "one of scale, shift and slope must be an array"),
        (lambda: Transform(scale=np.ones((2, 3))), r"scale must be a number or \[B, 1 or H, M'\]"),
        (lambda: Transform(shift=np.full((1, 1, 1), np.inf)), "shift must be finite"),
        (lambda: Transform(scale=np.full((1, 1, 1), 1e39)), "scale must be finite in float32"),
        (lambda: Transform(slope=np.ones((1, 1, 1)), first_row=0.5), "first_row must be"),
    ],
)
def test_a_transform_says_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "copied", [lambda x: x, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_nothing_that_happens_later_changes_a_transform(copied, rng):
    """The core reads what was laid out once: nobody may write behind it."""
    query, key, value = arrays(SHAPES[2], rng)
    given = drawn(SHAPES[2], rng)
    slope, first = np.array(given.slope), np.array(given.first_row)
    transform = copied(Transform(given.scale, np.float64(0.25), slope, first))
    before = attention(query, key, value, causal=True, transform=transform)
    slope[...], first[...] = 0, 10**6
    assert np.array_equal(attention(query, key, value, causal=True, transform=transform), before)
    kept = transform.scale, transform.slope, transform.first_row, *transform.packed[:3]
    assert not any(each.flags.writeable for each in kept)
    with pytest.raises(AttributeError):
        transform.slope = slope
    factors = copied(Reweight(np.ones((1, 1, 2))))
    assert not factors.weight.flags.writeable


def test_the_keys_that_change_are_found(rng):
    slope = np.zeros((3, 2, 6))
    slope[0, 1, 2:4] = slope[2, 0, 5] = 1
    numbers, bounds, first, _ = Transform(slope=slope, first_row=3).packed
    assert numbers.shape == (3, 2, 3, 6)
    assert bounds.tolist() == [[[0, 0], [2, 4]], [[0, 0]] * 2, [[5, 6], [0, 0]]]
    assert first.tolist() == [3]
    rows = np.array([2, 3])
    assert not Transform(slope=np.zeros((1, 1, 4))).reaches(rows).any()
    assert not Transform(slope=np.ones((1, 1, 0))).reaches(rows).any()
    assert Transform(slope=slope, first_row=3).reaches(rows).tolist() == [[[False, True]]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_go_on_beyond_the_arrays(shape, rng):
    """The last key's are those of all keys behind it, however many come; then steps go on."""
    query, key, value = arrays(shape, rng)
    scale = rng.uniform(-1, 2, (shape[0], shape[1], min(3, shape[4])))
    scale[:, 0] = 1  # a head that stays as it is
    transform = Transform(scale=scale, first_row=shape[4] - 1, beyond=True)
    for keys in sorted({max(shape[3], shape[4] // 3), shape[4]}):
        seen = query, key[:, :, :keys], value[:, :, :keys]
        how = {"causal": True, "transform": transform, "returns": ("column_sums",)}
        found, right = attention(*seen, **how), reference.attention(*seen, **how)
        assert np.abs(found.out - right.out).max() < TOLERANCE
        assert np.abs(found.column_sums - right.column_sums).max() < 5e-5
    written_out = np.concatenate(
        [scale, np.repeat(scale[..., -1:], shape[4] - scale.shape[2], axis=2)], axis=2
    )
    how["transform"] = Transform(scale=written_out, first_row=shape[4] - 1)
    assert np.array_equal(attention(*seen, **how).out, found.out)
    again = pickle.loads(pickle.dumps(transform)).take(np.arange(shape[0]))
    assert np.array_equal(attention(*seen, causal=True, transform=again), found.out)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_chosen_heads_change_alone(shape, rng):
    query, key, value = arrays(shape, rng)
    heads = rng.random(shape[:2]) < 0.5
    numbers = drawn(shape, rng)
    chosen = Transform(numbers.scale, numbers.shift, numbers.slope, numbers.first_row, heads=heads)
    how = {"causal": True}
    found = attention(query, key, value, transform=chosen, **how)
    right = reference.attention(query, key, value, transform=chosen, **how)
    assert np.abs(found - right).max() < TOLERANCE
    assert np.array_equal(
        attention(query, key, value, transform=in_heads(numbers, heads), **how), found
    )
    plain = attention(query, key, value, **how)
    changed = (found != plain).any((2, 3))
    assert not changed[~heads].any()
    again = pickle.loads(pickle.dumps(chosen)).take(np.arange(shape[0])[::-1])
    assert np.array_equal(again.heads, heads[::-1])
    assert np.array_equal(in_heads(chosen, ~heads).packed[1], np.zeros((*shape[:2], 2)))


@pytest.mark.parametrize("shape", [(1, 3), (3, 4)], ids=str)
def test_heads_that_the_numbers_do_not_have_are_refused(shape):
    with pytest.raises(ValueError, match=r"transform: heads must broadcast to .* = \(2, 4\)"):
        Transform(scale=np.ones((2, 4, 5)), heads=np.ones(shape, bool))


def test_shifts_of_some_keys_are_laid_out_alone(rng):
    query, key, value = arrays(SHAPES[2], rng)
    bare = Transform(shift=np.zeros((2, 1, 500)), slope=0.25)
    shift = rng.standard_normal((2, 1, 40)).astype(np.float32)
    whole = np.zeros((2, 1, 500))
    whole[..., 30:70] = shift
    found = shifted(bare, slice(30, 70), shift)
    assert np.array_equal(found.numbers, Transform(shift=whole, slope=0.25).numbers)
    outputs = [
        attention(query, key, value, transform=each)
        for each in (found, Transform(shift=whole, slope=0.25))
    ]
    assert np.array_equal(*outputs)
    with pytest.raises(ValueError, match="shift must be finite"):
        shifted(bare, slice(0, 1), np.array([[[np.inf]]]))


def test_beyond_needs_a_last_key():
    with pytest.raises(ValueError, match="beyond needs numbers of a last key"):
        Transform(shift=np.ones((1, 1, 0)), beyond=True)
    with pytest.raises(TypeError, match="beyond must be a bool, got 1"):
        Transform(shift=np.ones((1, 1, 2)), beyond=1)


def test_scores_beyond_float32_stay_what_they_are(rng):
    """Of a slope of 0 an infinite score is no NaN."""
    query = np.full((1, 1, 1, 4), 2e19, np.float32)
    key = np.ones((1, 1, 20, 4), np.float32)
    key[:, :, ::2] *= -1e20
    value = rng.standard_normal((1, 1, 20, 4), np.float32)
    transform = Transform(slope=np.where(np.arange(20) == 3, 0.5, 0)[None, None])
    found = attention(query, key, value, transform=transform)
    right = reference.attention(query, key, value, transform=transform)
    assert np.isfinite(found).all()
    assert np.abs(found - right).max() < TOLERANCE


def test_steps_of_a_plan_share_the_rows_that_it_edits():
    boost = Transform(slope=np.ones((2, 1, 4)), first_row=np.array([5, 7]))
    plan = compose([Plan(None, Reweight((1,)), transform=boost)])
    assert plan.edited_rows(6, 7)[0].tolist() == [[[True]], [[False]]]
    later = plan.edited_rows(8, 9)
    assert later[0].tolist() == [[[True]], [[True]]]
    assert plan.edited_rows(9, 10) is later
    assert plan.edited_rows(5, 8)[0].shape == (2, 1, 3)


def test_two_transforms_are_refused():
    plan = Plan(None, Reweight((1,)), transform=Transform(slope=np.ones((1, 1, 4))))
    with pytest.raises(ValueError, match="at most one transform when they are composed, got 2"):
        compose([plan, plan])
    other = Plan(None, Reweight((2,)), null_logit=np.zeros((1, 1, 1)))
    both = compose([plan, other])
    assert set(both.edits) == {"transform", "null_logit"}
    taken = plan.take(np.array([0, 0]))
    assert taken.transform.slope.shape == (1, 1, 4)


@pytest.mark.parametrize("first", [None, -3, 0, np.uint64(2**63 + 5), [-2, 2**62 + 1]])
def test_more_rows_than_keys(rng, first):
    """The first ones stand before the first key, and change as the others do."""
    query, key, value = arrays((2, 4, 2, 9, 4, 8), rng)
    transform = Transform(slope=np.full((1, 1, 4), 0.5), first_row=first)
    close(
        attention(query, key, value, transform=transform),
        reference.attention(query, key, value, transform=transform),
    )


def test_a_row_of_nan_beside_a_null_key_is_nan(rng):
    query, key, value = arrays((2, 4, 2, 3, 4, 8), rng)
    query[0, 1, 1] = np.nan
    how = {"null_logit": np.zeros((1, 1, 1)), "returns": ("masses", "logsumexp")}
    found = attention(query, key, value, **how)
    right = reference.attention(query, key, value, **how)
    for name in ("out", "masses", "logsumexp"):
        close(getattr(found, name), getattr(right, name), name)
