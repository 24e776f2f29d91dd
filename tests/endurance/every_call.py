"""What the endurance tests call: every public function, well and badly, and random sizes."""

import copy

import numpy as np
from draws import call
from test_hostile_values import HOSTILE, TABLE

DRAWS = 200  # random calls of draws.py, the same ones in each round, so that sizes recur


def fitting(name):
    """Make the call of a row of the table, with arrays that nobody else has."""
    function, arguments = TABLE[name]
    return function(**{key: copy.deepcopy(value) for key, value in arguments.items()})


def refused(name, seed):
    """Make a call one of whose arguments is hostile."""
    rng = np.random.default_rng((seed, len(name)))
    function, arguments = TABLE[name]
    own = {key: copy.deepcopy(value) for key, value in arguments.items()}
    which = [*own][rng.integers(len(own))]
    hostile = [*HOSTILE.values()][rng.integers(len(HOSTILE))]
    try:
        function(**{**own, which: hostile})
    except (TypeError, ValueError):
        return


def one_round(seed):
    """Give calls to make: each public function, as many refused ones, and random ones."""
    return [
        *(lambda name=name: fitting(name) for name in TABLE),
        *(lambda name=name: refused(name, seed) for name in TABLE if TABLE[name][1]),
        *(lambda number=number: call(number) for number in range(DRAWS)),
    ]


def told(result):
    """Give what a result holds, to be compared: bytes of arrays, numbers, types of the rest."""
    if isinstance(result, np.ndarray):
        return str(result.dtype), result.shape, result.tobytes()
    if isinstance(result, tuple | list):
        return [told(each) for each in result]
    return result if isinstance(result, bool | int | float | str | None) else type(result).__name__
