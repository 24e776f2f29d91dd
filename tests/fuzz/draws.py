"""Random calls of the public functions: shapes, strides, types, masks, segments, policies, threads.

Also scores that are changed, statistics, keys that items share, caches, and numbers that are not
finite.

`PYTHONPATH=tests python tests/fuzz/draws.py 1000000` makes so many calls, each held
against the reference; `--seed` and `--first` begin elsewhere. A call that fails is
printed by its number: `1 --first NUMBER` repeats it.
"""

import argparse
import contextlib
import functools
import multiprocessing
import time

import ml_dtypes
import numpy as np
import reattend as ra
from reattend import reference
from reattend.border.blocks import BLOCK, LAYOUTS, row_bytes, together
from reattend.border.dtypes import to_float32
from reattend.transform import Transform
from tensors import (
    LABELS,
    MASKS,
    STRIDES,
    Sizes,
    agree,
    agree_on_statistics,
    close,
    labels_of,
    mask_of,
    tensors,
)

LENGTHS = (1, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 70, 129, 300)  # 300: whole tiles too
DIMS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64)
ROADS = (
    "attention",
    "segment_pass",
    "column_sums",
    "apply_policy",
    "merge",
    "half",
    "int8",
    "blocks",
    "refused",
    "changed_scores",
    "statistics",
    "narrow",
    "prefixed",
    "cache",
    "not_finite",
)
# Rounding of inputs to 16 bits is the same in both; results are stored with 11 or 8.
ROUNDED = {"float16": 2e-3, "bfloat16": 2e-2}
PART = 5_000  # calls between two lines of progress
# A receiver of little mass has a factor with the relative error of that mass. Where segments gain,
# receivers may keep next to nothing of what they lose: factors are large then, and so are errors.
EDITED = 1e-4


def pick(rng, choices):
    return choices[rng.integers(len(choices))]


def sizes_of(rng):
    kv_heads = int(rng.integers(1, 3))
    return Sizes(
        pick(rng, LENGTHS), pick(rng, LENGTHS), int(rng.integers(1, 3)),
        kv_heads * int(rng.integers(1, 4)), kv_heads, pick(rng, DIMS), pick(rng, DIMS),
    )  # fmt: skip


def policy_of(rng, *, last=True):
    # Where segments gain, receivers may keep exactly nothing: which the next policy cannot undo.
    weight = rng.choice([0, 0.3, 1, 1, 2 if last else 1], 4)
    if rng.random() < 0.3:
        weight = rng.random((1, 1, 4))
    to = tuple(int(g) for g in np.flatnonzero(rng.random(4) < 0.4))
    power = None
    if rng.random() < 0.2:  # less than the row in all: what is left for receivers is not rounding
        weight, power = rng.random(4) / 4, rng.choice([0, 0.5, 1, 1, 1.5], 4)
    return ra.Reweight(weight, to, power=power)


def call(number, seed=0):
    """Make one call and hold it against the reference."""
    rng = np.random.default_rng((seed, number))
    sizes, road = sizes_of(rng), pick(rng, ROADS)
    names = [pick(rng, sorted(MASKS)) for _ in range(rng.integers(3))]
    arrays, mask = tensors(rng, sizes), mask_of(rng, sizes, "+".join(names) or "full")
    laid = [STRIDES[pick(rng, sorted(STRIDES))](x) if rng.random() < 0.4 else x for x in arrays]
    before = [x.copy() for x in laid]
    how = {**mask, "num_threads": int(rng.integers(1, 4))}
    labels = labels_of(rng, sizes, pick(rng, sorted(LABELS)))
    RUNS[road](rng, sizes, laid, mask, how, labels)
    for array, kept in zip(laid, before, strict=True):
        np.testing.assert_array_equal(array, kept)


def run_attention(rng, sizes, arrays, mask, how, labels):
    edit = {}
    if rng.random() < 0.7:
        count = int(rng.integers(1, 3))
        policies = [policy_of(rng, last=place == count - 1) for place in range(count)]
        edit = {"segments": labels, "policy": policies}
        if rng.random() < 0.5:
            where = rng.random((sizes.batch, 1, sizes.query_len)) < 0.7
            edit["where"] = [where] * len(edit["policy"])
    returns = ("masses", "logsumexp", "factors") if edit else ("logsumexp",)
    found = ra.attention(*arrays, returns=returns, **edit, **how)
    exact = reference.attention(*arrays, returns=returns, **edit, **mask)
    close(found.logsumexp, exact.logsumexp, "logsumexp")
    if not edit:
        return close(found.out, exact.out, "out")
    close(found.masses, exact.masses, "masses")
    allowed = allowed_of(exact.factors)
    close(found.out, exact.out, "out", allowed)
    return close(found.factors, exact.factors, "factors", allowed)


def allowed_of(factors):
    """Give what each row may differ by [B, H, N, 1]."""
    return EDITED * np.maximum(1, np.abs(factors).max(axis=-1, keepdims=True))


def run_segment_pass(rng, sizes, arrays, mask, how, labels):
    found = ra.segment_pass(*arrays, segments=labels, **how)
    exact = reference.segment_pass(*arrays, segments=labels, **mask)
    for name in found._fields:
        close(getattr(found, name), getattr(exact, name), name)


def run_column_sums(rng, sizes, arrays, mask, how, labels):
    logsumexp = ra.attention(*arrays, returns="logsumexp", **how).logsumexp
    found = ra.column_sums(*arrays[:2], logsumexp, **how)
    close(found, reference.column_sums(*arrays[:2], **mask), "column_sums", 2e-5)


def run_apply_policy(rng, sizes, arrays, mask, how, labels):
    policy = policy_of(rng)
    plain = ra.attention(*arrays, returns="logsumexp", **how)
    found = ra.apply_policy(plain, *arrays, segments=labels, policy=policy, **how)
    how = {"returns": "factors", "segments": labels, "policy": policy, **mask}
    exact = reference.attention(*arrays, **how)
    close(found.out, exact.out, "revised", allowed_of(exact.factors))


def run_merge(rng, sizes, arrays, mask, how, labels):
    query, key, value = arrays
    cut = int(rng.integers(0, key.shape[2] + 1))
    parts = [
        ra.segment_pass(query, key[:, :, part], value[:, :, part], segments=None)
        for part in (slice(cut), slice(cut, None))
    ]
    close(ra.merge(parts).partials, reference.segment_pass(*arrays, segments=None).partials)


def run_half(rng, sizes, arrays, mask, how, labels):
    halves = [x.astype(np.float16) for x in arrays]
    exact = reference.attention(*halves, **mask)
    found = ra.attention(*halves, **how)
    assert found.dtype == np.float16
    close(found.astype(np.float32), exact, "half", ROUNDED["float16"])


def run_narrow(rng, sizes, arrays, mask, how, labels):
    """16 bits, as numbers or as bits, under a policy that gives no row more than it had."""
    kind = pick(rng, sorted(ROUNDED))
    stored = [x.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind) for x in arrays]
    exact_of = [x.astype(np.float32) for x in stored]
    if rng.random() < 0.5:
        stored, how = [x.view(np.uint16) for x in stored], {**how, "dtype": kind}
    stored = [STRIDES[pick(rng, sorted(STRIDES))](x) if rng.random() < 0.4 else x for x in stored]
    edit = {"segments": labels, "policy": ra.Reweight(rng.random(4), to=())}
    found = ra.attention(*stored, returns=("masses", "logsumexp"), **edit, **how)
    exact = reference.attention(*exact_of, returns=("masses", "logsumexp"), **edit, **mask)
    allowed = ROUNDED[kind]  # products of bfloat16 round attention weights as well
    close(to_float32(found.out, kind), exact.out, kind, allowed)
    close(found.masses, exact.masses, "masses", allowed)
    close(found.logsumexp, exact.logsumexp, "logsumexp", 2e-5)


def run_int8(rng, sizes, arrays, mask, how, labels):
    stored = [ra.quantize(np.ascontiguousarray(x)) for x in arrays[1:]]
    close(ra.attention(arrays[0], *stored, **how), reference.attention(arrays[0], *stored, **mask))


def run_blocks(rng, sizes, arrays, mask, how, labels):
    """4 bits, and llama.cpp's blocks of any bytes; keys and values need not be of one kind."""
    query, *given = arrays
    stored = [stored_of(rng, x) for x in given]
    if stored[0].shape[3] != query.shape[3]:  # blocks of llama.cpp are 32 numbers
        shape = *query.shape[:3], stored[0].shape[3]
        query = rng.standard_normal(shape, np.float32) / 8
    edit = {"segments": labels, "policy": ra.Reweight(rng.random(4), to=())}
    numbers = [query, *(x.to_float32() for x in stored)]
    returns = ("masses", "logsumexp", "column_sums")
    agree((query, *stored), returns, numbers=numbers, tolerance=2e-5, **edit, **how)


def stored_of(rng, array):
    """Give keys or values in blocks."""
    kind = pick(rng, LAYOUTS)
    if together(kind) == 1:  # llama.cpp's
        rows, blocks = array.shape[:3], int(rng.integers(1, 4))
        shape = *rows, blocks, row_bytes(kind, BLOCK)
        found = rng.integers(0, 256, shape, np.uint8)
        found[..., :2] = rng.normal(0, 1 / 60, (*rows, blocks, 1)).astype(np.float16).view(np.uint8)
        return ra.QuantizedBlocks.from_ggml(found.reshape(*rows, -1), kind)
    keep = int(rng.integers(array.shape[2] + 1))  # what may lie in full behind whole groups
    by_channel = kind == "int4_by_channel"
    packed = ra.quantize(np.ascontiguousarray(array[:, :, :keep]), bits=4, by_channel=by_channel)
    rest = np.concatenate([packed.rest, array[:, :, keep:]], axis=2)
    return packed._replace(rest=rest)


def transform_of(rng, sizes):
    """Give numbers for some keys, perhaps for those behind them too, in some rows and heads."""
    length = int(rng.integers(1, sizes.key_len + 1))
    shape = pick(rng, (1, sizes.batch)), pick(rng, (1, sizes.heads)), length
    some = rng.random(shape) < 0.6
    numbers = [
        np.where(some, rng.uniform(low, high, shape), same) if rng.random() < 0.6 else float(same)
        for low, high, same in ((-1, 2, 1), (-2, 2, 0), (-1, 1, 0))
    ]
    numbers[int(rng.integers(3))] = rng.uniform(-1, 1, shape)
    first = rng.integers(-2, sizes.key_len + 2, sizes.batch)
    heads = rng.random((pick(rng, (1, sizes.batch)), sizes.heads)) < 0.7
    return Transform(
        *numbers, pick(rng, (None, int(first[0]), first)), bool(rng.random() < 0.5),
        heads if rng.random() < 0.4 else None,
    )  # fmt: skip


def run_changed_scores(rng, sizes, arrays, mask, how, labels):
    edit = {"transform": transform_of(rng, sizes)} if rng.random() < 0.8 else {}
    if not edit or rng.random() < 0.4:
        shape = sizes.batch, pick(rng, (1, sizes.heads)), pick(rng, (1, sizes.query_len))
        edit["null_logit"] = rng.normal(0, 3, shape)
    returns = ("masses", "logsumexp", *(() if "null_logit" in edit else ("column_sums",)))
    agree(arrays, returns, tolerance=5e-5, segments=labels, **edit, **how)


def run_statistics(rng, sizes, arrays, mask, how, labels):
    agree_on_statistics(arrays, tolerance=2e-5, segments=labels, **how)


def run_prefixed(rng, sizes, arrays, mask, how, labels):
    query, *stored = arrays
    cut = int(rng.integers(sizes.key_len + 1))
    parts = [(x[:1, :, :cut], x[:, :, cut:]) for x in stored]
    bits = pick(rng, (None, None, 8, 4))
    if bits:
        parts = [
            tuple(ra.quantize(np.ascontiguousarray(x), bits=bits) for x in part) for part in parts
        ]
    both = [ra.Prefixed(*part) for part in parts]
    edit = {"segments": labels, "policy": ra.Reweight(rng.random(4), to=())}
    whole = [query, *map(np.asarray, both)]
    returns = ("masses", "logsumexp", "column_sums")
    agree((query, *both), returns, numbers=whole, tolerance=2e-5, **edit, **how)


def run_cache(rng, sizes, arrays, mask, how, labels):
    """What comes in steps, wherever it lies, is read as if it had come at once."""
    query, *given = arrays
    cache = ra.KVCache(1, dtype=pick(rng, ("float32", "float16", "bfloat16", "int8", "int4")))
    cuts = sorted(int(at) for at in rng.integers(sizes.key_len + 1, size=2))
    for part in map(slice, (0, *cuts), (*cuts, sizes.key_len)):
        stored = cache.append(0, *(x[:, :, part] for x in given))
    for kept, array in zip(stored, given, strict=True):
        if isinstance(kept, ra.QuantizedBlocks):
            continue  # which keys are rounded: tests/cache/test_four_bits.py
        if isinstance(kept, ra.Quantized):
            right = ra.quantize(np.ascontiguousarray(array)).to_float32()
        else:
            right = array.astype(kept.dtype).astype(np.float32)
        np.testing.assert_array_equal(to_float32(kept), right)
    if stored[0].dtype not in (np.float16, ml_dtypes.bfloat16):
        close(ra.attention(query, *stored, **how), reference.attention(query, *stored, **mask))


def run_not_finite(rng, sizes, arrays, mask, how, labels):
    arrays = [x.copy() for x in arrays]
    for _ in range(rng.integers(1, 3)):
        array = pick(rng, arrays)
        array[tuple(rng.integers(array.shape))] = pick(rng, (np.nan, np.inf, -np.inf))
    returns = ("masses", "logsumexp", "column_sums")
    found = ra.attention(*arrays, returns=returns, segments=labels, **how)
    exact = reference.attention(*arrays, returns=returns, segments=labels, **mask)
    for name in ("out", *returns):
        ours, right = getattr(found, name), getattr(exact, name)
        if name == "out":  # an infinite value may be NaN by way of another segment's partial
            ours, right = (np.where(np.isinf(each), np.nan, each) for each in (ours, right))
        if name == "masses":  # of a row of NaN, segments without a key as well
            ours, right = (
                np.where(np.isnan(x).any(-1)[..., None], np.nan, x) for x in (ours, right)
            )
        close(ours, right, name, 2e-5)


def run_refused(rng, sizes, arrays, mask, how, labels):
    """What does not fit is refused by TypeError or ValueError, and by no other exception."""
    hostile = pick(
        rng, (None, "x", 3, [], [[1, 2], [3]], {}, np.float32(2), np.zeros(0), object(), 1 << 70)
    )
    which = pick(rng, ("query", "key", "value", "segments", "policy", "where", "bias", "key_mask",
                       "window", "softcap", "scale", "returns", "dtype", "out", "causal",
                       "num_threads"))  # fmt: skip
    given = dict(zip(("query", "key", "value"), arrays, strict=True), **how)
    given.update(segments=labels, policy=policy_of(rng))
    given[which] = hostile
    try:
        ra.attention(**given)
    except (TypeError, ValueError):
        return


RUNS = {name: globals()[f"run_{name}"] for name in ROADS}


def calls(seed, numbers):
    for number in numbers:
        try:
            call(number, seed)
        except BaseException:
            print(f"call {number} of seed {seed} fails", flush=True)
            raise
    return len(numbers)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    start, end = options.first, options.first + options.calls
    parts = [range(at, min(at + PART, end)) for at in range(start, end, PART)]
    began, done, make = time.perf_counter(), 0, functools.partial(calls, options.seed)
    with contextlib.ExitStack() as stack:
        made_in = map  # this process, the one whose CPU .ci/old_cpu plays
        if options.processes > 1:
            pool = multiprocessing.get_context("spawn").Pool(options.processes)
            made_in = stack.enter_context(pool).imap
        for made in made_in(make, parts):
            done += made
            took = time.perf_counter() - began
            print(f"{done} calls of seed {options.seed} from {start}, {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
