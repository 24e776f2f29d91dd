"""What every test may ask for: a seeded generator of numbers."""

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("reattend", deadline=None)  # a busy machine is no bug
settings.load_profile("reattend")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
