"""Threads that call all public functions side by side: `callers.py 60`.

Every result must be, byte by byte, what one thread alone was given.
"""

import argparse
import random
import sys
import threading
import time
import warnings

from draws import call
from every_call import DRAWS, fitting, refused, told
from test_hostile_values import TABLE

THREADS = 8


def run(seconds, threads=THREADS):
    """Call for so long; give how many calls were made, and raise what a thread raised."""
    alone = {name: told(fitting(name)) for name in TABLE}
    end, counts, failures = time.monotonic() + seconds, [0] * threads, []

    def work(thread):
        draw = random.Random(thread)
        try:
            while time.monotonic() < end and not failures:
                name = draw.choice([*TABLE])
                assert told(fitting(name)) == alone[name], f"{name} gives another result"
                if TABLE[name][1]:
                    refused(name, draw.randrange(1000))
                call(draw.randrange(DRAWS))
                counts[thread] += 3
        except BaseException as error:
            failures.append(error)

    started = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for each in started:
        each.start()
    for each in started:
        each.join()
    if failures:
        raise failures[0]
    return sum(counts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float)
    seconds = parser.parse_args().seconds
    warnings.simplefilter("ignore")
    calls = run(seconds)
    gil = "on" if getattr(sys, "_is_gil_enabled", lambda: True)() else "off"
    print(f"{calls} calls in {THREADS} threads, {seconds:.0f} s, the GIL {gil}")
