"""What gathering all measures takes beside a call's arrays: `measures_memory.py 4096 32`."""

import argparse
import re
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import numpy as np
from reattend import Session, measures
from reattend.measuring import MEASURES

DIM, STEPS = 128, 64


class Taken(NamedTuple):
    """The most there was beyond query, key, value and output, in bytes."""

    resident: int  # of the whole process, with what threads keep
    traced: int  # by Python and NumPy


def highest():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def taken(tokens, heads):
    """Read a prompt and some steps behind it with every measure, in one layer."""
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, 1, heads, tokens + STEPS, DIM), np.float32)
    out, row = np.ones((1, heads, tokens, DIM), "f4"), np.ones((1, heads, 1, DIM), "f4")
    image = np.arange(tokens)[None] % 4 == 1
    session = Session([], num_layers=1)
    session.measure([*MEASURES])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = highest()
    tracemalloc.start()
    with session.generation(image):
        for end in (tokens, *range(tokens + 1, tokens + STEPS + 1)):
            rows = slice(0 if end == tokens else end - 1, end)
            session.attend(
                0, query[:, :, rows], key[:, :, :end], value[:, :, :end],
                out=out if end == tokens else row,
            )  # fmt: skip
    found = session.measured()
    measures.entropy(query[:, :, :tokens], key[:, :, :tokens])  # of every row of the prompt
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["entropy"].values.shape == (STEPS + 1, 1, 1, heads)
    return Taken(highest() - before, peak)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokens", type=int)
    parser.add_argument("heads", type=int)
    options = parser.parse_args()
    print(taken(options.tokens, options.heads))
