"""What is not allowed raises an error that names it, and leaves everything as it was."""

import re

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from reattend import Reweight, attention, column_sums, combine, merge, segment_pass
from tensors import Sizes, tensors

SIZES = Sizes(5, 9, batch=2, heads=4, kv_heads=2, dim=8, value_dim=6)
TWO = Reweight((1, 0.5), to=(0,))
ONES = np.ones_like
LABELS = np.array([[[0, 1]], [[1, 0]]], np.uint8)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def arguments(**changes):
    """Give arguments that work, but for the changes."""
    query, key, value = tensors(np.random.default_rng(0), SIZES)
    return {"query": query, "key": key, "value": value, "segments": LABELS} | changes


def gives(factors):
    """Give a policy that returns this."""
    return lambda masses: factors


OUT = (2, 4, 5, 6)
# Changes to the arguments, the exception, and what it says: the name, what was expected, what came.
BAD = [
    # query, key, value
    ({"query": None}, TypeError, "query must be float32, float16 or bfloat16, got object"),
    ({"query": "abc"}, TypeError, "query must be float32, float16 or bfloat16, got <U3"),
    ({"query": zeros(4, 5, 8)}, ValueError, r"query must have 4 axes \[B, H, N, D\].*\(4, 5, 8\)"),
    ({"key": zeros(1, 2, 2, 9, 8)}, ValueError, r"key must have 4 axes \[B, H_kv, M, D\].*1, 2"),
    ({"value": np.float32(1)}, ValueError, r"value must have 4 axes \[B, H_kv, M, Dv\].*\(\)"),
    *(
        ({name: zeros(*shape, dtype=dtype)}, TypeError,
         f"{name} must be float32, float16 or bfloat16, got {found}")
        for name, shape in {"query": (2, 4, 5, 8), "key": (2, 2, 9, 8), "value": OUT}.items()
        for dtype, found in {
            "float64": "float64", "int32": "int32", ">f4": ">f4",
            "complex64": "complex64", "bool": "bool",
        }.items()
    ),
    ({"key": zeros(3, 2, 9, 8)}, ValueError, "key must have the batch size of query, 2, got 3"),
    ({"key": zeros(2, 2, 9, 7)}, ValueError, "key must have the head size of query, 8, got 7"),
    ({"key": zeros(2, 3, 9, 8)}, ValueError, "query's number of heads.*of key's, 3, got 4"),
    ({"key": zeros(2, 0, 9, 8)}, ValueError, "query's number of heads.*of key's, 0, got 4"),
    ({"query": zeros(2, 4, 5, 0), "key": zeros(2, 2, 9, 0)}, ValueError,
     r"query must have a head size of at least 1, got shape \(2, 4, 5, 0\)"),
    ({"value": zeros(2, 2, 8, 6)}, ValueError,
     r"value must have batch, heads and length of key, \(2, 2, 9\), got \(2, 2, 8\)"),
    ({"value": zeros(2, 4, 9, 6)}, ValueError, r"value must have batch, heads.*got \(2, 4, 9\)"),
    ({"value": zeros(1, 2, 9, 6)}, ValueError, r"value must have batch, heads.*got \(1, 2, 9\)"),
    # scale and masks
    ({"scale": np.nan}, ValueError, "scale must be a finite float32 number, got nan"),
    ({"scale": -np.inf}, ValueError, "scale must be a finite float32 number, got -inf"),
    ({"scale": 1e39}, ValueError, r"scale must be a finite float32 number, got 1e\+39"),
    ({"scale": "x"}, TypeError, "scale must be a number, got 'x'"),
    ({"scale": 1j}, TypeError, "scale must be a number, got 1j"),
    ({"causal": 1}, TypeError, "causal must be a bool, got 1"),
    ({"causal": None}, TypeError, "causal must be a bool, got None"),
    ({"window": 0}, ValueError, "window must be at least 1 key, got 0"),
    ({"window": -3}, ValueError, "window must be at least 1 key, got -3"),
    ({"window": 2.5}, TypeError, "window must be an integer, got 2.5"),
    ({"softcap": 0}, ValueError, "softcap must be a positive finite number, got 0"),
    ({"softcap": -1.0}, ValueError, "softcap must be a positive finite number, got -1"),
    ({"softcap": np.nan}, ValueError, "softcap must be a positive finite number, got nan"),
    ({"softcap": np.inf}, ValueError, "softcap must be a positive finite number, got inf"),
    ({"softcap": 1e-42}, ValueError, "softcap must be a positive finite number, got 1e-42"),
    ({"softcap": "x"}, TypeError, "softcap must be a number, got 'x'"),
    ({"key_mask": np.ones((2, 9), int)}, TypeError, "key_mask must be bool.*got int64"),
    ({"key_mask": np.ones((2, 9), "f4")}, TypeError, "key_mask must be bool.*got float32"),
    ({"key_mask": np.ones(9, bool)}, ValueError, r"key_mask .*\[B, M\] = \(2, 9\), got \(9,\)"),
    ({"key_mask": np.ones((1, 9), bool)}, ValueError, r"key_mask .*= \(2, 9\), got \(1, 9\)"),
    ({"key_mask": np.ones((2, 8), bool)}, ValueError, r"key_mask .*= \(2, 9\), got \(2, 8\)"),
    ({"bias": np.ones((5, 9), bool)}, TypeError, r"bias must be float32.*got bool.*np\.where"),
    ({"bias": np.ones((5, 9), int)}, TypeError, "bias must be float32.*got int64"),
    ({"bias": zeros(5, 8)}, ValueError, r"bias must broadcast.*\(2, 4, 5, 9\), got shape \(5, 8\)"),
    ({"bias": zeros(3, 1, 1, 1)}, ValueError, r"bias must broadcast to \[B, H, N, M\].*\(3, 1"),
    ({"bias": zeros(1, 2, 4, 5, 9)}, ValueError, r"bias must broadcast.*\(1, 2, 4, 5, 9\)"),
    # segments and policies
    ({"segments": zeros(2, 1, 9)}, TypeError, "segments must be uint8 labels, got float32"),
    ({"segments": LABELS[0]}, ValueError, r"segments must have 3 axes.*got shape \(1, 2\)"),
    ({"segments": LABELS[:1]}, ValueError, r"segments must have shape \[2, 1 or 4, at most 9\]"),
    ({"segments": LABELS.repeat(2, 1)}, ValueError, r"segments must have shape.*got \(2, 2, 2\)"),
    ({"segments": LABELS.repeat(5, 2)}, ValueError, r"segments must have shape.*got \(2, 1, 10\)"),
    ({"segments": LABELS - np.int8(1)}, ValueError, "segments must hold labels from 0, got -1"),
    ({"segments": LABELS * np.int64(256)}, ValueError, "segments must be uint8 labels, got 256"),
    ({"segments": LABELS * np.uint8(16)}, ValueError, "segments must hold labels below 16.*got 16"),
    ({"segments": LABELS * np.uint8(2), "policy": TWO}, ValueError,
     "segments must hold labels below 2, the number of segments, got 2"),
    ({"segments": LABELS * np.uint8(255), "policy": TWO}, ValueError, "segments .* 2.*got 255"),
    ({"segments": LABELS * np.uint8(2), "policy": [ONES, TWO]}, ValueError, "segments .*below 2"),
    ({"policy": 3}, TypeError, "policy must be a callable or a sequence of them, got 3"),
    ({"policy": [TWO, 0.5]}, TypeError, "policy must be a callable or a sequence of them, got 0.5"),
    ({"policy": [TWO, Reweight((1, 1, 1))]}, ValueError, r"policy: all weights.*\[2, 3\]"),
    ({"policy": Reweight(np.ones((3, 1, 2)))}, ValueError, r"policy: weight .*\(3, 1, 2\)"),
    ({"policy": Reweight(np.ones((1, 2, 2)))}, ValueError, r"policy: weight .*\(1, 2, 2\)"),
    ({"policy": lambda masses: masses[..., :1]}, ValueError,
     r"policy must return factors of the masses' shape \(2, 4, 5, 2\), got \(2, 4, 5, 1\)"),
    ({"policy": gives(2.0)}, ValueError, r"policy must return.*got \(\)"),
    ({"policy": gives(None)}, ValueError, r"policy must return.*got \(\)"),
    ({"where": np.ones(5, bool)}, ValueError, "where must come with a policy, got policy=None"),
    ({"where": np.ones(5, bool), "policy": []}, ValueError, "where must come with a policy"),
    ({"where": np.ones(5), "policy": TWO}, TypeError, "where must be bool, got float64"),
    ({"where": np.ones(4, bool), "policy": TWO}, ValueError, r"where .*= \(2, 4, 5\), got.*\(4,"),
    ({"where": np.ones((3, 1, 1), bool), "policy": ONES}, ValueError, r"where .*got.*\(3, 1, 1\)"),
    ({"where": np.ones((1, 2, 4, 5), bool), "policy": TWO}, ValueError, r"where .*\(1, 2, 4, 5\)"),
    ({"where": [None], "policy": [TWO, TWO]}, ValueError, "where must be one array or one for"),
    # results
    ({"returns": "mass"}, ValueError, "returns must hold names of.*'masses'.*got 'mass'"),
    ({"returns": ("masses", "out")}, ValueError, "returns must hold names of.*got 'out'"),
    ({"returns": 3}, TypeError, "returns must .*got 3"),
    ({"returns": None}, TypeError, "returns must .*got None"),
    ({"out": [[1.0]]}, TypeError, "out must be a NumPy array, got list"),
    ({"out": zeros(*OUT, dtype="f8")}, TypeError, "out must be float32, got float64"),
    ({"out": zeros(*OUT, dtype=">f4")}, TypeError, "out must be float32, got >f4"),
    ({"out": zeros(2, 4, 5, 8)}, ValueError, r"out must have.*5, 6\), got.*5, 8\)"),
    ({"out": zeros(1, 4, 5, 6)}, ValueError, r"out must have shape .*got \(1, 4, 5, 6\)"),
    ({"out": np.broadcast_to(np.float32(0), OUT)}, ValueError, "out must be writeable"),
    ({"out": as_strided(zeros(999), OUT, (960, 0, 24, 4))}, ValueError, "out must not overlap"),
    ({"out": as_strided(zeros(999), OUT, (960, 240, 4, 4))}, ValueError, "out must not overlap"),
    # threads
    ({"num_threads": 0}, ValueError, "num_threads must be at least 1, got 0"),
    ({"num_threads": -2}, ValueError, "num_threads must be at least 1, got -2"),
    ({"num_threads": 1.5}, TypeError, "num_threads must be an integer, got 1.5"),
    ({"num_threads": "2"}, TypeError, "num_threads must be an integer, got '2'"),
]  # fmt: skip


def name_of(case):
    """Give a test its name: what is bad, and what came, as the error says it."""
    changes, _, message = case
    words = re.findall(r"\w+", message.split("got")[-1] if "got" in message else message)
    return "-".join(["+".join(changes), *words[:4]])


@pytest.mark.parametrize(("changes", "error", "message"), BAD, ids=map(name_of, BAD))
def test_bad_arguments(changes, error, message):
    given = arguments(**changes)
    out = given.setdefault("out", np.full(OUT, 7, np.float32))
    arrays = [x for x in given.values() if isinstance(x, np.ndarray)]
    before = [x.copy() for x in arrays]
    with pytest.raises(error, match=message):
        attention(**given)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)  # nothing was written, `out` included
    assert out is given["out"]


@pytest.mark.parametrize("shared", ["query", "backwards", "bias", "part-of-key"])
@pytest.mark.parametrize("policy", [None, ONES], ids=["plain", "callable"])
def test_out_may_not_share_memory_with_an_input(rng, shared, policy):
    memory = rng.standard_normal((2, 4, 12, 8), np.float32)
    query = rng.standard_normal((2, 4, 5, 8), np.float32)
    given = {"query": query, "key": memory[:, :, :9].copy(), "value": memory[:, :, :9].copy()}
    if shared == "query":
        out = query
    elif shared == "backwards":
        out = query[::-1, ::-1, ::-1, ::-1]
    elif shared == "bias":
        given["bias"] = rng.standard_normal((2, 4, 5, 9), np.float32)
        out = given["bias"][..., 1:]
    else:
        given["key"] = memory[:, :, :9]
        out = memory[:, :, 7:]
    before = {name: array.copy() for name, array in given.items()}
    with pytest.raises(ValueError, match="out must not overlap with an input"):
        attention(**given, out=out, policy=policy)
    for name, array in given.items():
        np.testing.assert_array_equal(array, before[name])


def test_out_may_lie_beside_the_inputs(rng):
    memory = rng.standard_normal((2, 4, 12, 8), np.float32)
    query = rng.standard_normal((2, 4, 3, 8), np.float32)
    key, out = memory[:, :, :9], memory[:, :, 9:]
    expected = attention(query, key, key)
    np.testing.assert_array_equal(attention(query, key, key, out=out), expected)


@pytest.mark.parametrize("policy", [TWO, ONES], ids=["fused", "callable"])
@pytest.mark.parametrize("query_len", [2, 300])
def test_inputs_stay_as_they_are(rng, policy, query_len):
    query, key, value = tensors(rng, Sizes(query_len, 300))
    given = {
        "query": query, "key": key, "value": value,
        "segments": rng.integers(0, 2, (2, 4, 300), "u1"),
        "bias": rng.standard_normal((query_len, 300), np.float32),
        "key_mask": rng.random((2, 300)) < 0.7, "where": rng.random((2, 4, query_len)) < 0.5,
    }  # fmt: skip
    before = {name: array.copy() for name, array in given.items()}
    attention(**given, policy=policy, returns=("masses", "factors", "column_sums"), softcap=3.0)
    for name, array in given.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_an_error_in_a_policy_comes_through():
    def broken(masses):
        raise KeyError("mine")

    out = np.full(OUT, 7, np.float32)
    with pytest.raises(KeyError, match="mine"):
        attention(**arguments(policy=broken), out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("num_threads", [2**31, 10**30])
def test_absurd_numbers_of_threads_are_named(num_threads):
    with pytest.raises(ValueError, match="num_threads must be"):
        attention(**arguments(num_threads=num_threads))


def test_lists_and_numbers_are_taken():
    given = arguments()
    expected = attention(**given, scale=0.5, policy=TWO, returns=["masses"])
    given["segments"] = given["segments"].tolist()
    found = attention(
        **given, scale=np.float64(0.5), causal=np.False_, window=np.int64(99), policy=(TWO,),
        key_mask=[[True] * 9] * 2, bias=np.float64(0), where=True, returns=("masses",),
        num_threads=np.int32(1),
    )  # fmt: skip
    np.testing.assert_allclose(found.out, expected.out, atol=1e-6)
    np.testing.assert_allclose(found.masses, expected.masses, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: segment_pass(**a, num_segments=0), ValueError, "num_segments must be 1 to 16"),
        (lambda a: segment_pass(**a, num_segments=17), ValueError, "num_segments must be 1 to 16"),
        (lambda a: segment_pass(**a, num_segments=1), ValueError, "segments .*below 1.*got 1"),
        (lambda a: segment_pass(**a, num_segments=2.5), TypeError, "num_segments must be"),
        (lambda a: segment_pass(**a, window=0), ValueError, "window must be at least 1"),
        (lambda a: combine(zeros(1, 1, 1, 2, 3), zeros(1, 1, 1, 3)), ValueError, "factors must"),
        (lambda a: merge([]), ValueError, "states must hold at least one state"),
        (lambda a: merge([segment_pass(**a), segment_pass(**a, num_segments=3)]), ValueError,
         "states must have equal shapes"),
        (lambda a: column_sums(a["query"], a["key"], zeros(2, 4, 6)), ValueError,
         r"logsumexp must be float32 \[B, H, N\] = \(2, 4, 5\), got float32 \(2, 4, 6\)"),
        (lambda a: column_sums(a["query"], a["key"], zeros(2, 4, 5, dtype="f8")), ValueError,
         "logsumexp must be float32.*got float64"),
        (lambda a: column_sums(a["query"], a["key"], zeros(2, 4, 5), heads=[1] * 4), ValueError,
         "heads must be bool"),
        (lambda a: column_sums(a["query"], a["key"], zeros(2, 4, 5), heads=[True] * 3), ValueError,
         r"heads must be bool \[H\] or \[B, H\] = \(2, 4\)"),
    ],
    ids=lambda x: x.replace(" ", "-")[:30] if isinstance(x, str) else "",
)  # fmt: skip
def test_other_functions(call, error, message):
    with pytest.raises(error, match=message):
        call(arguments())
