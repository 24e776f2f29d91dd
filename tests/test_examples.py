"""Which examples property tests draw does not hang on what else was run."""

import importlib

from hypothesis import given, settings
from hypothesis import strategies as st


def drawn():
    found = []

    @settings(derandomize=True, max_examples=300, database=None)
    @given(st.lists(st.floats(0, 2), max_size=5), st.integers())
    def draw(reals, number):
        found.append((reals, number))

    draw()
    return found


def test_modules_that_are_loaded_change_no_example(tmp_path, monkeypatch):
    before = drawn()
    numbers = ", ".join(f"{n / 1001}, {n * 1001}" for n in range(1, 90))
    (tmp_path / "full_of_constants.py").write_text(f"NUMBERS = [{numbers}]\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("full_of_constants")
    assert drawn() == before
