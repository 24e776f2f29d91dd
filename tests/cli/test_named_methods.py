"""Methods by name: the package's, those of other packages, module:Class; others' in the laws."""

import json
import sys
from dataclasses import dataclass
from unittest import SkipTest

import numpy as np
import pytest
import reattend as ra
from reattend.cli import main
from reattend.named_methods import find_method, make_method, method_names
from reattend.testing import checks, parametrize_with_checks

THEIRS = '''
from dataclasses import dataclass
import reattend as ra

@dataclass(frozen=True)
class Quiet(ra.Method):
    """Nothing is changed."""

    strength: float = 1.0  # of nothing

    def plan(self, call, state):
        return None, state

@dataclass(frozen=True)
class Needy(Quiet):
    heads: tuple = ()

    def __init__(self, heads):
        object.__setattr__(self, "heads", heads)

class Loose(ra.Method):
    """No dataclass."""
'''


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A package of somebody else's, installed with its entry points."""
    (tmp_path / "their_package.py").write_text(THEIRS)
    about = tmp_path / "their_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[reattend.methods]\nquiet = their_package:Quiet\nbroken = their_package:Absent\n"
        "loose = their_package:Loose\nvar = their_package:Quiet\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("their_package", None)


def test_the_packages_own_come_first_and_keep_their_names(theirs):
    names = method_names()
    assert names[:2] == ["act", "adhh"]
    assert names.count("var") == 1
    assert "quiet" in names
    assert find_method("VAR") is ra.VAR
    assert make_method("their_package:Quiet") == make_method("quiet")
    assert type(make_method("quiet")).__module__ == "their_package"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", "must be one of act, adhh"),
        ("broken", "their_package:Absent, which does not load"),
        ("loose", "must be a dataclass"),
        ("their_package:Absent", "cannot be imported"),
        ("no_such_module:X", "cannot be imported"),
        ("numpy:array", "must be a class derived from reattend.Method"),
        ("numpy:ndarray", "must be a class derived from reattend.Method"),
        ("their_package:Needy", "cannot be made without parameters"),
    ],
)
def test_what_is_no_method_is_one_sentence(theirs, name, says):
    with pytest.raises(ValueError, match=says):
        make_method(name)


def test_generate_takes_a_method_of_another_package(theirs, tmp_path, rng, capsys):
    pytest.importorskip("gguf")
    pytest.importorskip("tokenizers")
    import tiny_llama

    path = tiny_llama.write(tmp_path / "tiny.gguf", tiny_llama.weights(rng))
    words = ["generate", "the in", "--model", f"{path}", "--max-new-tokens", "4", "--json"]
    assert main([*words, "--method", "their_package:Quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"] == ["Quiet(strength=1.0)"]
    assert main([*words, "--method", "quiet"]) == 0
    capsys.readouterr()
    assert main([*words, "--method", "nothing"]) == 1
    assert "must be one of act" in capsys.readouterr().err


class NoDataclass(ra.Method):
    """Every head's output is doubled.

    Paper: none.
    """

    def plan(self, call, state):
        return ra.Plan(None, ra.Reweight(weight=(2,))), state


@dataclass(frozen=True)
class Failing(ra.Method):
    """It fails.

    Paper: none.
    """

    def plan(self, call, state):
        raise KeyError("layer")


@pytest.mark.parametrize(
    "method",
    [NoDataclass(), Failing(), ra.VAR, "VAR"],
    ids=["no dataclass", "fails", "class", "name"],
)
def test_checks_fail_with_a_sentence_whatever_they_are_given(method):
    failed = []
    for check in checks():
        try:
            check(method)
        except AssertionError as error:
            failed.append(str(error))
        except SkipTest:  # a law that does not apply
            pass
    assert failed
    assert all(len(text.split()) > 3 for text in failed)
    if isinstance(method, NoDataclass):
        assert any("must be a dataclass" in text for text in failed)
    if isinstance(method, Failing):
        assert any("KeyError: 'layer'" in text for text in failed)


def test_without_pytest_the_checks_can_still_be_called(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(ImportError, match="pip install pytest"):
        parametrize_with_checks([ra.VAR()])


def test_bench_checks_then_times(monkeypatch, capsys):
    from reattend.cli import bench

    cases = {"tiny prefill": bench.Shape(4, 2, 9, 9, 8), "tiny decode": bench.Shape(4, 2, 1, 9, 8)}
    monkeypatch.setattr(bench, "_CASES", cases)
    assert main(["bench", "--repeat", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["cases"]
    assert found.keys() == cases.keys()
    for each in found.values():
        assert {"plain", "policy"} <= each.keys()
        assert all(0 < m["least"] <= m["median"] and m["error"] < 1e-5 for m in each.values())
    assert main(["bench", "--case", "decode"]) == 0
    assert "tiny decode: plain" in capsys.readouterr().out
    assert main(["bench", "--case", "nothing"]) == 1
    monkeypatch.setattr(bench, "attention", lambda query, key, value, **_: np.zeros_like(query))
    assert main(["bench", "--case", "decode"]) == 1
    assert "is off by" in capsys.readouterr().err


def test_a_class_without_source_as_in_a_notebook_is_not_held_to_its_comments():
    names = {}
    text = (
        "import reattend as ra\nfrom dataclasses import dataclass\n@dataclass(frozen=True)\n"
        "class Typed(ra.Method):\n    '''It is typed at a prompt.'''\n    size: int = 1\n"
        "    def plan(self, call, state):\n        return None, None\n"
    )
    exec(text, {"__name__": "typed_at_a_prompt"}, names)
    (documents,) = [each for each in checks() if each.__name__ == "documents_its_fields"]
    with pytest.raises(SkipTest, match="source cannot be read"):
        documents(names["Typed"]())
