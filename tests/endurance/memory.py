"""Memory stays flat: `memory.py 100000`."""

import argparse
import gc
import sys
import tracemalloc
import warnings
from pathlib import Path
from resource import getpagesize
from typing import NamedTuple

from every_call import one_round

WARM = 3  # rounds until every buffer and product has its size


class Grown(NamedTuple):
    """What so many calls left behind, in bytes."""

    calls: int
    resident: int  # of the whole process
    traced: int  # by Python and NumPy


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


def collect():
    """Free what Python keeps for itself: garbage, and the names that its caches of types hold."""
    gc.collect()
    clear = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache  # until 3.13
    clear()
    gc.collect()


def grown(calls):
    """Make so many calls and give what they left behind."""
    done = 0
    for seed in range(WARM):
        for make in one_round(seed):
            make()
    collect()
    tracemalloc.start()
    before = resident()
    while done < calls:
        for make in one_round(WARM + done):
            make()
            done += 1
    collect()
    traced = tracemalloc.get_traced_memory()[0]
    after = resident()
    tracemalloc.stop()
    return Grown(done, after - before, traced)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", type=int)
    warnings.simplefilter("ignore")
    print(grown(parser.parse_args().calls))
