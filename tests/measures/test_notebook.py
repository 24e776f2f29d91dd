"""The notebook of measures shows each of them."""

import inspect
import json
import re
from pathlib import Path

import pytest
from reattend import measures

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "09_measures.ipynb"
FUNCTIONS = sorted(name for name in measures.__all__ if inspect.isfunction(getattr(measures, name)))

pytestmark = pytest.mark.skipif(not NOTEBOOK.exists(), reason="needs the source folder")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_notebook_calls_the_measure(name):
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert re.search(rf"\bmeasures\.{name}\(", code)
