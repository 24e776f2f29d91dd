"""Twenty thousand random calls, held against the reference: see draws.py for more of them."""

import pytest
from draws import call


@pytest.mark.parametrize("part", range(20))
def test_random_calls(part):
    for number in range(part * 1000, (part + 1) * 1000):
        try:
            call(number)
        except Exception as error:
            raise AssertionError(f"call {number} fails") from error
