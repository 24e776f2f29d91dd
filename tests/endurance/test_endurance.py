"""Short forms of what runs for minutes by hand or by night: see the files beside."""

import sys

import pytest

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
    pytest.mark.filterwarnings("ignore"),  # of hostile numbers
]


@pytest.mark.parametrize("calls", [500, pytest.param(100_000, marks=[pytest.mark.nightly])])
def test_memory_stays_flat(calls):
    from memory import grown

    found = grown(calls)
    assert found.resident < 16 << 20
    assert found.traced < 1 << 18


@pytest.mark.parametrize("seconds", [1, pytest.param(60, marks=[pytest.mark.nightly])])
def test_eight_threads_call_everything(seconds):
    from callers import run

    assert run(seconds) > 20


@pytest.mark.nightly
def test_the_same_bytes_a_hundred_times():
    from repeats import compared

    assert compared(100) > 4000


@pytest.mark.nightly
def test_measures_of_a_long_prompt_take_little_beside_it():
    from measures_memory import taken

    found = taken(4096, 32)
    assert found.resident < 64 << 20
    assert found.traced < 64 << 20
