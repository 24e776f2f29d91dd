"""`reattend evaluate --data` and `compare`, as a new user runs them on a COCO folder."""

import json

import pytest

pytest.importorskip("PIL")
pytest.importorskip("transformers")

from reattend.cli import main
from reattend.testing.coco_folder import write_coco_folder
from reattend.testing.tiny_llava import tiny_llava


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return write_coco_folder(tmp_path_factory.mktemp("coco") / "folder", pictures=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    for part in tiny_llava():
        part.save_pretrained(folder)
    return folder


def test_tables_of_pope_and_chair_from_the_command_line(tmp_path, coco, model, capsys):
    base = ["evaluate", "--images", f"{coco / 'val2014'}", "--model", f"{model}"]
    data = ["--data", f"{coco / 'instances_val2014.json'}"]
    captions = ["--captions", f"{coco / 'captions_val2014.json'}"]
    pope = [*base, *data, "--kind", "pope-from-instances", "--out", f"{tmp_path / 'pope'}"]
    chosen = ["--methods", "var,vhr,act", "--set", "var.tau=0.3125"]  # of 8, the most phi can be
    assert main([*pope, *chosen]) == 0
    shown = capsys.readouterr().out
    assert "| vhr - plain |" in shown
    assert "rule: official" in shown
    assert (tmp_path / "pope.md").read_text() == shown
    written = json.loads((tmp_path / "pope.json").read_text())
    assert written["settings"].keys() == {"plain", "var", "vhr", "act"}
    assert written["pictures"] <= 6
    chair = [*base, *data, "--kind", "chair", *captions, "--out", f"{tmp_path / 'chair'}"]
    assert main([*chair, *chosen, "--json", "--form", "latex"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["settings"].keys() == {"plain", "var", "vhr", "act", "unsure"}
    assert scores["settings"]["vhr"]["measures"].keys() >= {"chair_i", "chair_s", "recall"}
    assert scores["settings"]["vhr"]["methods"][0].startswith("VHR(")
    assert r"\begin{tabular}" in (tmp_path / "chair.tex").read_text()


@pytest.mark.parametrize("kind", ["pope-from-instances", "chair"])
def test_tables_of_a_model_of_the_packages_own_kind(kind, tmp_path, coco, tiny_files, capsys):
    words = ["evaluate", "--kind", kind, "--data", f"{coco / 'instances_val2014.json'}",
             "--images", f"{coco / 'val2014'}", "--methods", "var,vhr,act", "--scenes", "2",
             "--weights", f"{tiny_files[0]}", "--model", f"{tiny_files[1]}",
             "--out", f"{tmp_path / 'run'}"]  # fmt: skip
    more = {
        "chair": ["--captions", f"{coco / 'captions_val2014.json'}"],
        "pope-from-instances": ["--rule", "logits"],
    }
    assert main([*words, *more[kind]]) == 0
    shown = capsys.readouterr().out
    for name in ("plain", "var", "vhr", "act"):
        assert f"| {name} |" in shown
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["pictures"] == 2


def test_answers_of_a_file_are_scored_and_runs_compared(tmp_path, coco, capsys):
    rows = [
        {"question_id": n, "image": f"COCO_val2014_{n % 6 + 1:012d}.jpg", "text": f"{n}?",
         "label": "yes" if n % 2 else "no"}
        for n in range(1, 41)
    ]  # fmt: skip
    pope = tmp_path / "pope.jsonl"
    pope.write_text("\n".join(map(json.dumps, rows)))
    for name, right in (("good", True), ("bad", False)):
        said = [
            {"question_id": row["question_id"],
             "text": "Yes" if (row["label"] == "yes") == right else "No"}
            for row in rows
        ]  # fmt: skip
        (tmp_path / f"{name}.jl").write_text("\n".join(map(json.dumps, said)))
        command = ["evaluate", "--data", f"{pope}", "--answers", f"{tmp_path / name}.jl"]
        assert main([*command, "--out", f"{tmp_path / name}"]) == 0
    capsys.readouterr()
    good, bad = f"{tmp_path / 'good.json'}", f"{tmp_path / 'bad.json'}"
    assert main(["compare", good, bad]) == 0
    shown = capsys.readouterr().out
    assert "| accuracy | -100.0 [-100.0, -100.0] | 0.0" in shown
    assert "no run holds the baselines brighten, unsure" in shown
    assert main(["compare", good, good, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    same = {"difference": [0.0, 0.0, 0.0], "p": 1.0, "verdict": "no difference shown"}
    assert found["measures"]["f1"] == same


def test_data_that_needs_no_file_and_verdicts_that_were_made(tmp_path, model, capsys):
    out = ["--out", f"{tmp_path / 'run'}"]
    scenes = ["evaluate", "--kind", "emoji-world", "--scenes", "2", "--drop-unfinished", *out]
    assert main([*scenes, "--model", f"{model}", "--methods", "vhr,brighten", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["settings"].keys() == {"plain", "vhr", "brighten", "unsure"}
    assert scores["rules"]["unfinished last sentence"] == "dropped"
    (tmp_path / "existence.txt").write_text("a\tA?\tYes\tYes\na\tB?\tNo\tYes\n")
    mme = ["evaluate", "--kind", "mme", "--data", f"{tmp_path}", "--out", f"{tmp_path / 'mme'}"]
    assert main(mme) == 0
    assert "| existence |" in capsys.readouterr().out.replace("existence_accuracy", "")
    assert main(["evaluate", "--kind", "mme", *out]) == 1
    assert "--kind mme needs --data" in capsys.readouterr().err
    assert main([*mme, "--sampling", "popular"]) == 1
    assert "--sampling is nothing that --kind mme takes" in capsys.readouterr().err


def test_a_method_that_does_not_fit_the_model_is_said_in_a_line(tmp_path, model, capsys):
    scenes = ["evaluate", "--kind", "emoji-world", "--scenes", "1", "--out", f"{tmp_path / 'run'}"]
    assert main([*scenes, "--model", f"{model}", "--methods", "var"]) == 1
    assert "reattend: tau must be below sqrt(C) = 8" in capsys.readouterr().err
    chosen = [*scenes, "--model", f"{model}", "--methods", "var"]
    assert main([*chosen, "--set", "var.tau=0.3125", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert "tau=0.3125" in scores["settings"]["var"]["methods"][0]
    for given, says in {
        "var": "--set must be METHOD.NAME=VALUE, of one of var, got var",
        "vhr.alpha=2": "--set must be METHOD.NAME=VALUE, of one of var",
        "var.depth=2": "--set var.depth=2: VAR.__init__() got an unexpected keyword",
        "var.p=high": "--set var.p=high: Expecting value",
    }.items():
        assert main([*chosen, "--set", given]) == 1
        assert says in capsys.readouterr().err


def test_what_is_wrong_is_said_in_a_line(tmp_path, coco, capsys):
    pope = tmp_path / "pope.jsonl"
    pope.write_text('{"question_id": 1, "text": "?", "image": "a.jpg", "label": "perhaps"}\n')
    out = ["--out", f"{tmp_path / 'run'}"]
    assert main(["evaluate", "--data", f"{pope}", *out]) == 1
    assert f"reattend: {pope}:1: label must be yes or no, got 'perhaps'" in capsys.readouterr().err
    pope.write_text('{"question_id": 1, "text": "?", "image": "a.jpg", "label": "no"}\n')
    assert main(["evaluate", "--data", f"{pope}", *out]) == 1
    assert "--data needs --images" in capsys.readouterr().err
    images = ["--images", f"{coco / 'val2014'}"]
    assert main(["evaluate", "--data", f"{pope}", *images, *out]) == 1
    assert "picture a.jpg is not in" in capsys.readouterr().err
    model = ["--model", f"{tmp_path}", "--methods", "nothing"]
    pope.write_text(
        '{"question_id": 1, "text": "?", "image": "COCO_val2014_000000000001.jpg", "label": "no"}\n'
    )
    assert main(["evaluate", "--data", f"{pope}", *images, *model, *out]) == 1
    assert "--method must be one of" in capsys.readouterr().err
    assert not (tmp_path / "run.json").exists()
