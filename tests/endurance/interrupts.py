"""How late a signal is answered in long calls: `interrupts.py 20`."""

import argparse
import random
import signal
import time

import numpy as np
from reattend import attention, column_sums


class Rang(Exception):
    """What the handler raises, as Python's own raises KeyboardInterrupt."""


def ring(*_):
    raise Rang


def long_calls(rng):
    """Give calls of some seconds each."""
    query = rng.standard_normal((1, 8, 20_000, 64), np.float32)
    steps = rng.standard_normal((1, 64, 8, 64), np.float32)
    keys = rng.standard_normal((1, 1, 2_000_000, 64), np.float32)
    zeros = np.zeros((1, 8, 20_000), np.float32)
    return {
        "prefill": lambda: attention(query, query, query),
        "column sums": lambda: column_sums(query, query, zeros),
        "decode": lambda: attention(steps, keys, keys),
    }


def lateness(times):
    """Interrupt each call so often at random moments; give its seconds, and those of answers."""
    draw, found = random.Random(0), {}
    for name, work in long_calls(np.random.default_rng(0)).items():
        start = time.perf_counter()
        work()
        whole = time.perf_counter() - start
        late = []
        while len(late) < times:  # a call may be over before: machines are faster at times
            after = draw.uniform(0.05, 0.9 * whole)
            signal.setitimer(signal.ITIMER_REAL, after)
            start = time.perf_counter()
            try:
                work()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Rang:
                late.append(time.perf_counter() - start - after)
        found[name] = whole, sorted(late)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("times", type=int)
    signal.signal(signal.SIGALRM, ring)
    for name, (whole, late) in lateness(parser.parse_args().times).items():
        print(f"{name}: {whole:.1f} s whole; answered after {late[len(late) // 2] * 1e3:.0f} ms"
              f" (median), {late[-1] * 1e3:.0f} ms (worst of {len(late)})")  # fmt: skip
