"""`reattend describe`: a transformers model or the package's own, a picture, methods, a page."""

import json

import numpy as np
import pytest
from reattend.cli import main
from reattend.evaluation.loading import Loaded
from reattend.recording import Recording

pytest.importorskip("PIL")


@pytest.fixture
def picture(tmp_path, rng):
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    pytest.importorskip("transformers")
    from reattend.testing.tiny_llava import tiny_llava

    folder = tmp_path_factory.mktemp("llava")
    for part in tiny_llava():
        part.save_pretrained(folder)
    return f"{folder}"


def test_a_folder_of_transformers_describes_and_is_watched(picture, model, tmp_path, capsys):
    pytest.importorskip("plotly")
    base = ["describe", f"{picture}", "--model", model, "--max-new-tokens", "5"]
    assert main([*base, "--method", "vhr", "--method", "act"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if line[0] != " "] == ["plain", "vhr", "act"]
    kept, page = tmp_path / "run.npz", tmp_path / "run.html"
    written = ["--record", f"{kept}", "--report", f"{page}"]
    for methods in ([], ["--method", "act"]):
        assert main([*base, *methods, *written, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [each["method"] for each in found["answers"]] == ["plain", *methods[1:]]
        recording = Recording.load(kept)
        assert recording.image.sum() == recording.attention.shape[3] == 16
        assert len(recording.words) == len(recording.attention) <= 5
        assert recording.picture.shape == (40, 60, 3)
        assert page.read_text("utf-8").startswith("<!doctype html>")
        assert found["written"] == [str(kept), str(page)]


def test_the_packages_own_model_describes(picture, tiny_model, monkeypatch, tmp_path, capsys):
    from reattend.cli import describe

    monkeypatch.setattr(describe, "load", lambda: Loaded(tiny_model, None, (3,)))
    kept = tmp_path / "run.npz"
    words = ["describe", f"{picture}", "--max-new-tokens", "4", "--record", f"{kept}"]
    assert main([*words, "--method", "vhr"]) == 0
    shown = capsys.readouterr()
    assert "nouns" in shown.err
    assert shown.out.startswith("plain: ")
    assert Recording.load(kept).picture.shape == (120, 120, 3)


def test_the_packages_own_model_is_asked_what_it_learnt_and_stops_when_it_repeats(
    picture, tiny_model, monkeypatch, capsys
):
    from reattend.cli import describe
    from reattend.evaluation.datasets.emoji_world import DESCRIBE

    asked = []

    class Repeating:
        """The tiny model, but for what it says: a door, a door, ... to the limit."""

        def __getattr__(self, name):
            return getattr(tiny_model, name)

        def prompt(self, text):
            asked.append(text)
            return tiny_model.prompt(text)

        def generate(self, session, prompts, pixels, **settings):
            says = tiny_model.tokenizer.encode(" a door," * 20)
            for _, token in zip(
                tiny_model.generate(session, prompts, pixels, **settings), says, strict=False
            ):
                yield np.array([token])

    monkeypatch.setattr(describe, "load", lambda: Loaded(Repeating(), None, (3,)))
    assert main(["describe", f"{picture}"]) == 0
    shown = capsys.readouterr().out
    assert asked == [DESCRIBE]
    assert shown.count("door") == 4  # and once more in the reason
    assert "stopped, for it keeps saying door" in shown


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--method", "nothing"], 1, "must be one of act"),
        (["--model", "no/such/folder"], 1, "cannot be read"),
        (["--model", "./nothing"], 1, "it is no folder"),
        (["--record", "run.txt"], 2, "must end in .npz"),
        (["--report", "run.txt"], 2, "must end in .html"),
        (["--prompt", "What?"], 2, "--prompt needs --model"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(picture, words, code, says, capsys):
    try:
        found = main(["describe", f"{picture}", *words])
    except SystemExit as ended:
        found = ended.code
    assert found == code
    errors = capsys.readouterr().err
    assert says in errors
    assert len(errors.splitlines()) == 1
