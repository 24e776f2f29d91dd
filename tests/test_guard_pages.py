"""No road reads or writes beyond its arrays: all of them lie beside pages that nobody may touch."""

import subprocess
import sys

import numpy as np
import pytest
from patience import HANGS

if sys.platform.startswith("linux"):
    from guarded import guarded

ROADS = ("plain", "policy", "masses", "apply_policy", "column_sums", "half", "int8", "int4")
# (batch, heads, kv_heads, N, M, D, Dv): decode, prefill, odd sizes, more rows than a tile.
SIZES = [
    (1, 1, 1, 9, 9, 8, 8),
    (2, 4, 2, 1, 33, 64, 64),
    (1, 3, 1, 5, 70, 17, 9),
    (1, 2, 2, 300, 300, 16, 31),
    (1, 1, 1, 130, 517, 33, 1),
]


def check(road, side):
    import reattend as ra

    rng = np.random.default_rng(0)
    keep = (lambda array: array) if side is None else (lambda array: guarded(array, side))
    results = []
    for batch, heads, kv_heads, rows, keys, dim, value_dim in SIZES:
        half = np.float16 if road == "half" else np.float32
        query = keep(rng.standard_normal((batch, heads, rows, dim)).astype(half))
        key = keep(rng.standard_normal((batch, kv_heads, keys, dim)).astype(half))
        value = keep(rng.standard_normal((batch, kv_heads, keys, value_dim)).astype(half))
        few = np.ones((batch, heads, min(keys, 9)), np.uint8)
        many = rng.integers(0, 3, (batch, 1, keys), dtype=np.uint8)
        key_mask = keep(rng.random((batch, keys)) < 0.8)
        where = keep(rng.random((batch, heads, rows)) < 0.7)
        bias = keep(rng.standard_normal((batch, heads, rows, keys), dtype=np.float32))
        policy = ra.Reweight((1, 0.5, 0.8), to=(0,))
        out = keep(np.empty((batch, heads, rows, value_dim), half))
        how = {"causal": True, "key_mask": key_mask, "num_threads": 2}
        if road in ("plain", "half"):
            results.append(ra.attention(query, key, value, bias=bias, out=out, **how))
            results.append(ra.attention(query, key, value, causal=True))
        elif road == "policy":
            for labels in (keep(few), keep(many)):
                how.update(segments=labels, policy=policy, where=where)
                results.append(ra.attention(query, key, value, out=out, **how).copy())
        elif road == "masses":
            how.update(segments=keep(many), policy=policy, returns=("masses", "logsumexp"))
            results += ra.attention(query, key, value, out=out, **how)[:3]
        elif road == "apply_policy":
            plain = ra.attention(query, key, value, out=out, returns="logsumexp", **how)
            plain = plain._replace(logsumexp=keep(plain.logsumexp))
            ra.apply_policy(plain, query, key, value, segments=keep(few), policy=policy, **how)
            results.append(out.copy())
        elif road == "column_sums":
            logsumexp = ra.attention(query, key, value, returns="logsumexp", **how).logsumexp
            results.append(ra.column_sums(query, key, keep(logsumexp), **how))
        elif road == "int8":
            keys8, values8 = (
                ra.Quantized(*map(keep, ra.quantize(array))) for array in (key, value)
            )
            results.append(ra.attention(query, keys8, values8, out=out, **how))
        elif road == "int4":
            for by_channel in (False, True):
                keys4, values4 = (
                    ra.QuantizedBlocks(keep(each.blocks), each.layout, keep(each.rest))
                    for each in (
                        ra.quantize(array, bits=4, by_channel=by_channel) for array in (key, value)
                    )
                )
                results.append(ra.attention(query, keys4, values4, **how))
    return results


def main(road, side):
    for plain, beside in zip(check(road, None), check(road, side), strict=True):
        np.testing.assert_array_equal(plain, beside)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")
@pytest.mark.parametrize("side", ["begin", "end"])
@pytest.mark.parametrize("road", ROADS)
def test_nothing_beyond_is_touched(road, side):
    run = subprocess.run(
        [sys.executable, __file__, road, side], capture_output=True, text=True, timeout=HANGS
    )
    assert run.returncode == 0, run.stderr or f"ended by signal {-run.returncode}"


if __name__ == "__main__":
    main(*sys.argv[1:])
