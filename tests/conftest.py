"""What every test may ask for, and which examples property tests draw."""

import numpy as np
import pytest
from examples import NIGHTLY
from hypothesis import settings


def pytest_configure(config):
    settings.load_profile(NIGHTLY if config.option.markexpr == NIGHTLY else "ci")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(config, items):
    """By night every property test runs, with new examples, beside the long tests."""
    if config.option.markexpr == NIGHTLY:
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker(NIGHTLY)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
