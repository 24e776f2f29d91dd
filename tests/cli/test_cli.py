"""The command line, run as a user runs it: a process, its two streams, its exit code."""

import json
import os
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import reattend
import tiny_llama as tiny
from patience import HANGS
from reattend.cli import entry as cli
from reattend.cli import generate, group
from reattend.cli.command import _repeated
from reattend.evaluation.runner.journal import JournalError
from reattend.recording import Recording

JOURNALS = {"evaluate": "evaluate_data", "calibrate": "_calibrate"}  # what they call
needs_models = pytest.mark.skipif(
    any(not tiny.installed(name) for name in ("gguf", "tokenizers", "jinja2")),
    reason="needs the extra demo",
)


def run(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "reattend", *map(str, words)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=HANGS,
        **options,
    )


def refused(done, code, *says):
    """Check the exit code, that nothing went to the answer, and that nobody sees a traceback."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return tiny.write(path, tiny.weights(np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted: the same command goes on from here"),
        (JournalError("of another run"), 1, "reattend: of another run"),
    ],
)
@pytest.mark.parametrize("name", ["evaluate", "calibrate"])
def test_commands_with_a_journal_say_how_they_go_on(name, error, code, says, monkeypatch, capsys):
    def fails(*_):
        raise error

    monkeypatch.setattr(f"reattend.cli.{name}.{JOURNALS[name]}", fails)
    assert cli.main([name]) == code
    assert says in capsys.readouterr().err


def test_version_and_config():
    assert run("--version").stdout.strip() == f"reattend {reattend.__version__}"
    assert "instruction set" in run("config").stdout
    assert json.loads(run("config", "--json").stdout)["threads"] >= 1


def test_config_needs_numpy_alone_and_the_rest_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "click", None)
    assert cli.main(["config"]) == 0
    assert "oneDNN" in capsys.readouterr().out
    assert cli.main(["generate", "in"]) == 1
    assert 'pip install "reattend[cli]"' in capsys.readouterr().err


@pytest.mark.parametrize("name", group._COMMANDS)
def test_every_command_has_examples_that_it_understands(name, capsys):
    assert cli.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples:" in shown
    command = group.commands.get_command(None, name)
    for example in command.read_examples():
        words = shlex.split(example)
        words = words[words.index("reattend") :]
        assert words[1] == name
        assert command.make_context(name, words[2:], obj=False).params


def test_words_are_completed():
    asked = {"_REATTEND_COMPLETE": "bash_complete", "COMP_WORDS": "reattend ge", "COMP_CWORD": "1"}
    done = run(env={**os.environ, **asked})
    assert done.stdout == "plain,generate\n"


def test_an_option_with_several_values_ends_at_the_next_option():
    words = ["--pool", "a", "b", "--out", "c", "d", "--", "--pool", "e", "f"]
    found = [*_repeated(words, {"--pool"})]
    assert found == ["--pool", "a", "--pool", "b", *words[3:]]


def test_no_command_shows_what_there_is():
    refused(run(), 2, "Usage: reattend", "generate", "config")


@needs_models
def test_answer_goes_to_one_stream_and_speed_to_the_other(model):
    done = run("generate", "the in 12", "--model", model, "--max-new-tokens", 8)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert "tokens/s" in done.stderr
    again = run("generate", "-", "--model", model, "--max-new-tokens", 8, input="the in 12\n")
    assert again.stdout == done.stdout
    quiet = run("generate", "the in 12", "--model", model, "--max-new-tokens", 8, "--quiet")
    assert (quiet.stdout, quiet.stderr) == (done.stdout, "")
    data = run("generate", "the in 12", "--model", model, "--max-new-tokens", 8, "--json")
    found = json.loads(data.stdout)
    assert found["answer"] + "\n" == done.stdout
    assert len(found["seconds"]) <= 8
    assert data.stderr == ""


@needs_models
def test_sampling_is_repeatable_and_the_system_prompt_counts(model):
    def answer(*words):
        done = run("generate", "the in", "--model", model, "--max-new-tokens", 8, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    warm = ("--temperature", 1.5, "--top-p", 0.95)
    assert answer(*warm, "--seed", 1) == answer(*warm, "--seed", 1)
    assert answer(*warm, "--seed", 1) != answer(*warm, "--seed", 2)
    assert answer("--system", "er") != answer()


@needs_models
@pytest.mark.parametrize("method", ["none", "act"])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_report_is_drawn(model, tmp_path, method, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"sinks{suffix}"
    done = run(
        "generate", "the in", "--model", model, "--method", method, "--report", path, "--stats"
    )
    assert done.returncode == 0, done.stderr
    assert path.read_bytes()[:4] == {".png": b"\x89PNG", ".svg": b"<?xm"}[suffix]
    assert [*tmp_path.iterdir()] == [path]
    assert ("ACT" if method == "act" else "No layer was changed.") in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "var"], "needs an image"),
        (["--method", "pai"], "needs an image"),
        (["--temperature", "-1"], "must be at least 0"),
        (["--temperature", "nan"], "must be at least 0"),
        (["--temperature", "warm"], "must be a number, got warm"),
        (["--top-p", "0"], "above 0"),
        (["--max-new-tokens", "0"], "must be at least 1"),
        (["--report", "sinks.txt"], "must end in .png"),
        (["--report", "no/such/folder/sinks.png"], "is not a folder"),
        (["--heads", "2"], "--heads needs --method act"),
        (["--method", "act", "--heads", "2-"], "must be like 12-28,9.0,9.4"),
        (["--plain", "--system", "Be brief."], "--system needs the chat template"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_read(words, says):
    done = run("generate", "Hello", "--model", "no such file", *words)
    refused(done, 2, says)
    assert len(done.stderr.splitlines()) == 1


@needs_models
def test_what_cannot_be_done_is_one_sentence(model, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"nothing")
    for path, says in ((tmp_path / "absent.gguf", "is not a file"), (broken, "cannot be read")):
        done = run("generate", "Hello", "--model", path)
        refused(done, 1, says)
        assert len(done.stderr.splitlines()) == 1
    refused(run("generate", "in " * 200, "--model", model), 1, "the model reads 127")
    for heads in ("4", "2.4"):
        words = ("--model", model, "--method", "act", "--heads", heads)
        refused(run("generate", "in", *words), 1, f"got {heads}")
    for words in (["", "--plain"], [""], [" \n"]):
        refused(run("generate", *words, "--model", model), 1, "prompt is empty")


def test_what_the_system_refuses_is_said_in_words(tmp_path):
    done = run("report", tmp_path / "nofile", "-o", tmp_path / "out.html")
    refused(done, 1, "nofile")
    assert "Errno" not in done.stderr
    assert cli._what_failed(PermissionError(13, "Permission denied", "a")) == "a: Permission denied"
    assert cli._what_failed(OSError("no space")) == "no space"


def test_a_recording_becomes_a_page(tmp_path):
    pytest.importorskip("plotly")
    path = tmp_path / "run.npz"
    weights = np.full((2, 3, 2, 4), 0.1)
    Recording(weights, weights[..., 0], np.zeros((3, 4)), np.ones(4)).save(path)
    done = run("report", path, "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").read_text("utf-8").startswith("<!doctype html>")
    refused(run("report", tmp_path / "absent.npz"), 1, "is not a file or folder")
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    refused(run("report", tmp_path / "broken.npz"), 1, "is not a recording")
    refused(run("report", path, "-o", tmp_path / "page.txt"), 1, "must end in .html")


def test_heads_are_read_as_layers_and_heads():
    heads = generate._heads("3-4, 9.0,9.4")
    assert heads == [(3, None), (4, None), (9, 0), (9, 4)]
    config = SimpleNamespace(num_layers=10, num_heads=5)
    method = generate._with_heads(reattend.ACT(), heads, config)
    assert method == reattend.ACT(heads={3: range(5), 4: range(5), 9: (0, 4)})
    assert generate._with_heads(reattend.ACT(theta=0.2), None, config) == reattend.ACT(theta=0.2)


def test_missing_packages_are_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert cli.main(["generate", "Hello", "--model", __file__]) == 1
    assert 'pip install "reattend[demo]"' in capsys.readouterr().err


@needs_models
@pytest.mark.skipif(os.name != "posix", reason="signals are sent as on POSIX systems")
def test_ctrl_c_ends_cleanly(rng, tmp_path):
    long = {"llama.context_length": 20000, "tokenizer.ggml.eos_token_id": None}
    model = tiny.write(tmp_path / "long.gguf", tiny.weights(rng), metadata=long)
    words = ["generate", "the in", "--model", str(model), "--temperature", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "reattend", *words, "--max-new-tokens", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.read(1)  # it has begun to answer
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "tokens/s" in errors


@needs_models
@pytest.mark.skipif(os.name != "posix", reason="pipes are closed as on POSIX systems")
def test_a_reader_that_leaves_is_no_error(model):
    command = f'"{sys.executable}" -m reattend generate "the in" --model "{model}" --quiet | true'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=HANGS)
    assert done.stderr == ""
