"""What every test may ask for: a seeded generator of numbers, and the slow tests' switch."""

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("reattend", deadline=None)  # a busy machine is no bug
settings.load_profile("reattend")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run tests marked slow as well")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs --slow"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)
