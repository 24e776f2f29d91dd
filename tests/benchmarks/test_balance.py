"""How a call's work is split over threads, on paper: no thread ends late by much."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from reattend import explain, quantize
from tensors import Sizes, tensors

SOURCE = Path(__file__).parents[2] / "benchmarks" / "cases.py"
if not SOURCE.exists():
    pytest.skip("needs the source folder", allow_module_level=True)
CASES = runpy.run_path(str(SOURCE))["CASES"]

ENOUGH_MULTIPLICATIONS = 1 << 24  # of a prefill: what a tile of 256 rows has with 256 keys
ENOUGH_BYTES = 1 << 20  # of keys and values that a decoding step reads: 0.1 ms at 10 GB/s


def enough(case, threads):
    if case.decode:
        return case.cache_bytes >= threads * ENOUGH_BYTES
    return case.flops // 2 >= threads * ENOUGH_MULTIPLICATIONS


@pytest.mark.parametrize("threads", [4, 16, 64])
def test_shares_are_even_where_work_is_enough(threads):
    """Of the benchmark's cases, each with so much work that every thread has enough."""
    held = [case for case in CASES if enough(case, threads)]
    assert len(held) >= 9  # of 17, at 64 threads
    for case in held:
        kind = np.float32 if case.dtype == "float32" else np.float16  # split alike
        kept = (case.batch, case.num_kv_heads, case.key_len, case.head_dim)
        query = np.zeros((case.batch, case.num_heads, case.query_len, case.head_dim), kind)
        found = explain(
            query, np.zeros(kept, kind), np.zeros(kept, kind), causal=True, num_threads=threads
        )
        assert len(found.shares) == found.threads == threads, case.name
        assert sum(share.units for share in found.shares) == found.units
        pairs = case.batch * case.num_heads * case.visible  # the causal triangle
        assert sum(share.work for share in found.shares) == pairs, case.name
        assert found.imbalance <= 1.15, case.name


@pytest.mark.parametrize("rows", [1, 3, 40, 700])
def test_work_is_what_rows_see(rng, rows):
    """Windows and padding are no work; a step reads a key that any of its rows sees for all."""
    arrays = tensors(rng, Sizes(rows, 900))
    mask = np.ones((2, 900), bool)
    mask[0, :200] = False
    found = explain(*arrays, causal=True, window=120, key_mask=mask, num_threads=3)
    at = np.arange(900 - rows, 900)[:, None]
    seen = (np.arange(900) <= at) & (np.arange(900) > at - 120)
    pairs = [seen & each for each in mask]
    if rows <= 8:
        work = sum(rows * each.any(0).sum() for each in pairs)
    else:
        work = sum(each.sum() for each in pairs)
    assert sum(share.work for share in found.shares) == 4 * work


def test_a_call_wakes_no_more_threads_than_have_work(rng):
    """Each has at least 2**18 multiplications: some ten microseconds of its own."""
    arrays = tensors(rng, Sizes(1, 4096, heads=2, kv_heads=2, dim=128, value_dim=128, batch=1))
    found = explain(*arrays, num_threads=64)
    assert found.threads == 2 * 4096 * 2 * 128 >> 18 == len(found.shares)
    assert "waking another" in str(found)
    assert explain(arrays[0], *map(quantize, arrays[1:]), num_threads=64).threads == found.threads
