"""The same bytes: threads 1 to 64, places in a batch, padding, repeated; `repeats.py 100`."""

import argparse
import random

import numpy as np
from reattend import _core, attention
from tensors import same_bytes
from test_same_bytes import INTERVENTIONS, KINDS, case, item_of, only, padded, padding_case, valid

THREADS = range(1, 65)  # more than cores
SIZES = KINDS.args[1]


def compared(times, threads=THREADS, sizes=SIZES):
    """Compare the bytes of many calls with one thread's; give how many were compared."""
    rng, draw, count = np.random.default_rng(0), random.Random(0), 0
    for size in sizes:
        for policy in INTERVENTIONS.values():
            how = case(rng, size, policy)
            whole = attention(**how, num_threads=1)
            for number in threads:
                same_bytes(attention(**how, num_threads=number), whole)
            for item in range(size.batch):
                alone = attention(**item_of(how, item), num_threads=draw.choice(threads))
                same_bytes(only(whole, item), alone)
            for _ in range(times):
                same_bytes(attention(**how, num_threads=draw.choice(threads)), whole)
            count += len(threads) + size.batch + times
        how = padding_case(rng, size, None, "full")
        whole = attention(**how, num_threads=1)
        for amount in (1, 33, 256):
            for side in ("left", "right"):
                found = attention(**padded(how, amount, side, rows=False))
                same_bytes(valid(found, amount, side, False, size.key_len), whole)
                count += 1
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("times", type=int)
    times = parser.parse_args().times
    print(f"{compared(times)} calls gave the same bytes, {_core.isa()}")
