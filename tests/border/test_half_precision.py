"""16-bit floats: read exactly as they are stored, computed in float32, rounded at the end.

Products of bfloat16 (many rows, and those that share a key head, where the CPU has them) round
attention weights as well.
"""

import ml_dtypes
import numpy as np
import pytest
from reattend import (
    Reweight,
    Session,
    apply_policy,
    attention,
    column_sums,
    explain,
    reference,
    segment_pass,
)
from reattend.border.dtypes import to_float32, write
from reattend.methods import ACT, VAR, VHR
from tensors import EVERYTHING, STRIDES, TOLERANCE, Sizes, close, labels_of, mask_of, tensors

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)
SIZES = {
    "decode": Sizes(1, 700, heads=4, dim=24, value_dim=20),
    "grouped-step": Sizes(1, 701, heads=10, dim=64, value_dim=96),
    "wide-group": Sizes(2, 90, heads=8, dim=256, value_dim=160),
    "few-rows": Sizes(5, 300, heads=6, dim=16, value_dim=40),
    "prefill": Sizes(300, 300, dim=40, value_dim=24),
    "full-tiles": Sizes(512, 512, batch=1, heads=2, dim=32, value_dim=32),
}

each_type = pytest.mark.parametrize("kind", [FLOAT16, BFLOAT16], ids=str)
each_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
POLICY = Reweight((1, 0.5, 0.7, 0.2), to=(0,))


def halves(rng, sizes, kind):
    """Give query, key and value of a type, and the same numbers as float32."""
    stored = [array.astype(kind) for array in tensors(rng, sizes)]
    return stored, [array.astype(np.float32) for array in stored]


def rounded_weights(stored):
    """How far an output may be off where weights are rounded to bfloat16, as its products do."""
    if explain(*stored).products == "float32":
        return 0
    # Policies here keep the sum of a row's weights.
    return 2.0**-9 * np.abs(stored[2].astype(np.float32)).max()


def patterns(kind):
    return np.arange(2**16, dtype=np.uint16).view(kind)


@each_type
@pytest.mark.parametrize("rows", [1, 9])
def test_every_number_passes_unchanged(kind, rows):
    """A row that sees one key gives its value; the 65,536 patterns are a value of that size."""
    value = patterns(kind)[None, None, None]
    finite = np.isfinite(value.astype(np.float32))[0, 0, 0]
    value = value[..., finite]
    query, key = np.ones((1, 1, rows, 1), kind), np.ones((1, 1, 1, 1), kind)
    out = attention(query, key, value)
    assert out.dtype == kind
    for row in range(rows):
        assert np.array_equal(out[0, 0, row].astype(np.float32), value[0, 0, 0].astype(np.float32))


@each_type
@pytest.mark.parametrize("rows", [1, 40])
def test_the_output_is_rounded_to_the_nearest(rng, kind, rows):
    query, key = np.ones((2, 1, 1, rows, 4), kind)
    key = np.concatenate([key[:, :, :1]] * 3, axis=2)
    scale = (10.0 ** rng.uniform(-8, 4, 5000)).astype(np.float32)
    value = (rng.standard_normal((1, 1, 3, 5000), np.float32) * scale).astype(kind)
    whole = np.empty((1, 1, rows, 5000), np.float32)
    attention(query, key, value, out=whole)
    rounded = attention(query, key, value)
    np.testing.assert_array_equal(rounded.view(np.uint16), whole.astype(kind).view(np.uint16))


@each_type
@each_size
@pytest.mark.parametrize("masks", ["full", "causal", "left-padding+causal", "holes+window", "bias"])
@pytest.mark.parametrize("labels", ["image-and-sinks", "per-head", "random"])
def test_it_equals_the_reference_on_the_stored_numbers(rng, kind, sizes, masks, labels):
    stored, numbers = halves(rng, sizes, kind)
    how = mask_of(rng, sizes, masks)
    how |= {"segments": labels_of(rng, sizes, labels), "policy": POLICY}
    out = np.empty((sizes.batch, sizes.heads, sizes.query_len, sizes.value_dim), np.float32)
    found = attention(*stored, out=out, returns=EVERYTHING, **how)
    expected = reference.attention(*numbers, returns=EVERYTHING, **how)
    for name in ("masses", "logsumexp", "column_sums", "factors"):
        close(getattr(found, name), getattr(expected, name), name)
    close(found.out, expected.out, "out", TOLERANCE + rounded_weights(stored))


@each_type
@each_size
@pytest.mark.parametrize("layout", STRIDES.values(), ids=STRIDES)
def test_strides_change_nothing(rng, kind, sizes, layout):
    stored, _ = halves(rng, sizes, kind)
    expected = attention(*stored, causal=True)
    found = attention(*map(layout, stored), causal=True)
    np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))


@each_type
@each_size
def test_bits_are_the_numbers_they_stand_for(rng, kind, sizes):
    stored, _ = halves(rng, sizes, kind)
    bits = [array.view(np.uint16) for array in stored]
    how = {"causal": True, "segments": labels_of(rng, sizes, "image"), "returns": ("logsumexp",)}
    for policy in (None, POLICY, lambda masses: 1 + masses):
        expected = attention(*stored, policy=policy, **how)
        found = attention(*bits, policy=policy, dtype=kind.name, **how)
        exact = reference.attention(*bits, policy=policy, dtype=kind.name, **how)
        np.testing.assert_allclose(
            to_float32(found.out, kind.name), exact.out, rtol=0.01, atol=5e-3
        )
        assert found.out.dtype == np.uint16
        np.testing.assert_array_equal(found.out, expected.out.view(np.uint16))
    state = segment_pass(*bits, segments=None, dtype=kind.name)
    np.testing.assert_array_equal(state.partials, segment_pass(*stored, segments=None).partials)
    sums = column_sums(*bits[:2], expected.logsumexp, causal=True, dtype=kind.name)
    np.testing.assert_array_equal(sums, column_sums(*stored[:2], expected.logsumexp, causal=True))


@each_type
@each_size
def test_revising_rounds_twice_and_no_more(rng, kind, sizes):
    stored, numbers = halves(rng, sizes, kind)
    labels = np.zeros((sizes.batch, 1, sizes.key_len), np.uint8)
    labels[..., [0, 7, 40]] = 1
    how = {"causal": True, "segments": labels, "policy": Reweight((1, 0.4), to=(0,))}
    plain = attention(*stored, causal=True, returns="logsumexp")
    before = np.abs(plain.out.astype(np.float32))
    revised = apply_policy(plain, *stored, returns="factors", **how)
    assert revised.out is plain.out
    expected = reference.attention(*numbers, **how)
    digit = 2.0**-11 if kind == FLOAT16 else 2.0**-8  # half of the last one
    off = np.abs(revised.out.astype(np.float32) - expected)
    most = revised.factors.max(-1)[..., None]
    weights = rounded_weights(stored)
    assert (off <= digit * (before * most + np.abs(expected)) + weights * most + 1e-5).all()


@each_type
def test_a_session_gives_what_float32_gives(rng, kind):
    """Sinks and heads are decided on the stored numbers; outputs are rounded."""
    image = np.zeros((1, 40), bool)
    image[:, 8:30] = True
    states = rng.standard_normal((1, 40, 32), np.float32)
    states[:, [0, 12], 3] = 500
    text = ~image[0]

    def run(arrays, dtype):
        session = Session([VAR(sink_dims=(3,), tau=0.5, image_mass=0), VHR(), ACT()], num_layers=4)
        found = []
        with session.text_only():
            for layer in range(4):
                session.attend(layer, *(x[:, :, :40][:, :, text] for x in arrays), dtype=dtype)
        with session.generation(image):
            for layer in range(4):
                rows = [x[:, :, :40] for x in arrays]
                session.attend(layer, *rows, hidden_states=states, dtype=dtype)
            for layer in range(4):
                step = session.attend(layer, arrays[0][:, :, 40:], *arrays[1:], dtype=dtype)
                found.append(to_float32(step, dtype))
        decided = [{**r.found, "divergence": 0} for r in session.report().readings]
        return found, str(decided)

    stored, numbers = halves(rng, Sizes(41, 41, batch=1), kind)
    expected, decided = run(numbers, None)
    for arrays, dtype in ((stored, None), ([x.view(np.uint16) for x in stored], kind.name)):
        found, own = run(arrays, dtype)
        assert own == decided
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2.0**-6, atol=2.0**-9)


def test_types_that_do_not_fit(rng):
    query, key, value = tensors(rng, Sizes(3, 5))
    half = [x.astype(np.float16) for x in (query, key, value)]
    bits = [x.view(np.uint16) for x in half]
    with pytest.raises(
        TypeError, match=r'query must be .*got uint16; say what bits are by dtype="'
    ):
        attention(*bits)
    with pytest.raises(TypeError, match="query must be float32 or bfloat16, got float16"):
        attention(*half, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"dtype must be one of .*'bfloat16'.*, got 'int8'"):
        attention(*bits, dtype="int8")
    with pytest.raises(TypeError, match="out must be float32 or float16, got float64"):
        attention(*half, out=np.empty((2, 4, 3, 16)))
    with pytest.raises(TypeError, match="out must be float32, got float16"):
        attention(query, key, value, out=np.empty((2, 4, 3, 16), np.float16))


@each_type
def test_numpy_side(kind):
    numbers = patterns(kind)
    same = to_float32(numbers.view(np.uint16), kind.name)
    np.testing.assert_array_equal(same, numbers.astype(np.float32))
    bits = np.empty(2**16, np.uint16)
    write(same, bits, kind.name)
    np.testing.assert_array_equal(to_float32(bits, kind.name), same)
    finite = np.sort(same[np.isfinite(same)])
    between = finite[:-1] / 2 + finite[1:] / 2  # ties
    between = np.concatenate([between, np.nextafter(between, np.float32(9e9))])
    bits = np.empty(between.shape, np.uint16)
    write(between, bits, kind.name)
    np.testing.assert_array_equal(bits, between.astype(kind).view(np.uint16))


@each_type
def test_numbers_are_written_wherever_they_lie(rng, kind):
    numbers = rng.standard_normal((2, 3, 21, 20), dtype=np.float32)
    parts = numbers, numbers[:, ::-1, ::2], numbers.swapaxes(2, 3), numbers[:1, :, :, 3:4]
    for given in (*parts, *(layout(numbers) for layout in STRIDES.values())):
        want = given.astype(kind)
        room = np.zeros((*given.shape[:2], 40, 40), kind)
        rows, columns = room[:, :, 7 : 7 + given.shape[2]], room.swapaxes(2, 3)[:, :, 7:]
        for out in (rows[..., : given.shape[3]], columns[:, :, : given.shape[2], : given.shape[3]]):
            room[...] = 1
            write(given, out)
            np.testing.assert_array_equal(out, want)
            out[...] = 1
            assert (room == 1).all()  # nothing else was written


@each_type
@pytest.mark.parametrize("layout", STRIDES.values(), ids=STRIDES)
def test_an_output_may_lie_anywhere(rng, kind, layout):
    numbers = rng.standard_normal((2, 3, 5, 20), dtype=np.float32)
    out = layout(np.zeros(numbers.shape, kind))
    out.flags.writeable = True
    write(numbers, out)
    np.testing.assert_array_equal(out, numbers.astype(kind))


def test_an_output_of_the_other_byte_order(rng):
    numbers = rng.standard_normal((2, 3, 5, 20), dtype=np.float32)
    out = np.zeros(numbers.shape, FLOAT16.newbyteorder())
    write(numbers, out)
    np.testing.assert_array_equal(out, numbers.astype(np.float16))
