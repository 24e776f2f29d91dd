"""What the adaptors' tests share: the table of models, and one thread."""

from pathlib import Path

import pytest
from table import TABLE


@pytest.fixture(scope="session")
def table():
    return TABLE


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny models need one thread; more would wait for each other on a busy machine."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items):
    """Methods for images run in text models here too, to see that they leave these alone."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:.*will change nothing"))
            item.add_marker(pytest.mark.filterwarnings("ignore:.*changed no row of a whole"))
