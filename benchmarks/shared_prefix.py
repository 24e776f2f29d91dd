"""Many questions about one prompt: a step that shares its keys beside one of separate caches.

    python benchmarks/shared_prefix.py [--questions 16] [--keys 2048] [--rounds 30]

Rounds go in turns and the shortest counts, of a plain step and of one with a policy on an image.
The error is the largest against NumPy's full matrix in float64.
"""

from __future__ import annotations

import argparse
import functools
import time

import numpy as np
import reattend as ra

SHAPES = {"llava-1.5-7b": (32, 32, 128), "llama3-8b": (32, 8, 128), "smollm2-135m": (9, 3, 64)}
OWN = 32  # keys of each question


def caches(rng, kv_heads, dim, questions, keys, dtype):
    """Give keys and values of items that share their first ones, and of some that do not."""
    shared = ra.KVCache(1, dtype=dtype, capacity=keys)
    prompt = rng.standard_normal((2, 1, kv_heads, keys, dim), np.float32)
    shared.append(0, *prompt)
    shared = shared.fork(batch=questions)
    separate = ra.KVCache(1, dtype=dtype, capacity=keys + OWN)
    separate.append(0, *prompt.repeat(questions, 1))
    own = rng.standard_normal((2, questions, kv_heads, OWN, dim), np.float32)
    return [(cache, cache.append(0, *own)) for cache in (shared, separate)]


def main() -> None:
    """Measure each shape, and print a row of a table for it."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--questions", type=int, default=16)
    options.add_argument("--keys", type=int, default=2048)
    options.add_argument("--rounds", type=int, default=30)
    options.add_argument("--dtype", default="float32")
    options.add_argument("--threads", type=int)
    given = options.parse_args()
    labels = np.zeros((given.questions, 1, given.keys), np.uint8)
    labels[..., 35:611] = 1
    policy = {"segments": labels, "policy": ra.Reweight((0.8, 1), to=(1,))}
    print("| shape | step | shared, ms | separate, ms | times | error | MB, shared | separate |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, (heads, kv_heads, dim) in SHAPES.items():
        rng = np.random.default_rng(0)
        query = rng.standard_normal((given.questions, heads, 1, dim), np.float32)
        both = caches(rng, kv_heads, dim, given.questions, given.keys, given.dtype)
        for step, how in (("plain", {}), ("policy", policy)):
            calls = [
                functools.partial(ra.attention, query, *arrays, num_threads=given.threads, **how)
                for _, arrays in both
            ]
            expected = ra.reference.attention(query, *both[1][1], **how)
            error = np.abs(calls[0]() - expected).max()
            least = [np.inf, np.inf]
            for _ in range(given.rounds):
                for i, call in enumerate(calls):
                    start = time.perf_counter()
                    call()
                    least[i] = min(least[i], time.perf_counter() - start)
            size = [cache.nbytes / 2**20 for cache, _ in both]
            print(
                f"| {name} | {step} | {least[0] * 1e3:.2f} | {least[1] * 1e3:.2f} "
                f"| {least[1] / least[0]:.1f}x | {error:.0e} | {size[0]:.0f} | {size[1]:.0f} |"
            )


if __name__ == "__main__":
    main()
