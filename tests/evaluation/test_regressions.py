"""The pytest plugin, used by this suite as a user would, and in suites of its own (pytester)."""

import subprocess
import sys

import pytest

pytest.importorskip("PIL")
pytest.importorskip("scipy")

from reattend import VHR, Session
from reattend.evaluation.datasets import Case, Dataset, load_dataset
from reattend.evaluation.datasets.emoji_world.cases import Cell
from reattend.evaluation.regression.hallucination import HallucinationRegression
from reattend.evaluation.runner.answerers import FunctionAnswerer, VisionLanguageAnswerer

pytest_plugins = ["pytester"]
CELLS = [Cell("clear")]

# What a user's test module has; the tiny model's own answers with VHR are what is right.
MODULE = """
import dataclasses
import pytest
from reattend import VHR, Session
from reattend.evaluation.baselines import Brighten
from reattend.evaluation.datasets import load_dataset
from reattend.evaluation.datasets.emoji_world.cases import Cell
from reattend.evaluation.runner.answerers import VisionLanguageAnswerer
from reattend.models import read_vision_language
from {method} import METHOD

@pytest.fixture(scope="session")
def answerer():
    return VisionLanguageAnswerer(read_vision_language({weights!r}, {language!r}), "tiny")

@pytest.fixture(scope="session")
def data(answerer):
    drawn = load_dataset("emoji-world-questions", scenes=16, cells=[Cell("clear")], rule="logits")
    right = [each.margin > 0 for each in answerer(drawn.cases, [Brighten()])]
    cases = [dataclasses.replace(c, truth=t) for c, t in zip(drawn.cases, right)]
    return dataclasses.replace(drawn, cases=cases)

def test_words(hallucination_regression, answerer, data):
    hallucination_regression(answerer, data, {{"method": [METHOD]}})

def test_attention(attention_regression, answerer, data):
    model, config = answerer.model, answerer.model.llama.config
    session = Session([METHOD], num_layers=config.num_layers, num_heads=config.num_heads)
    session.record()
    case = data.cases[0]
    for _ in model.generate(session, [model.prompt(case.prompt)], case.image[None],
                            max_new_tokens=3, stop=()):
        pass
    attention_regression(session.recording())
"""
GOOD = "from reattend.evaluation.baselines import Brighten\nMETHOD = Brighten()\n"
BROKEN = """
from dataclasses import dataclass, replace
from reattend.evaluation.baselines import Brighten

@dataclass(frozen=True)
class Broken(Brighten):
    def plan(self, call, state):
        return Brighten.plan(replace(self, keep=0.0), call, state)

METHOD = Broken()
"""


@pytest.fixture
def suite(pytester, tiny_files, monkeypatch):
    """Two modules of a user, one of which has a broken method."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    weights, language = map(str, tiny_files)
    for name, method in (("good", GOOD), ("broken", BROKEN)):
        module = MODULE.format(weights=weights, language=language, method=f"{name}_method")
        pytester.makepyfile(**{f"test_{name}": module, f"{name}_method": method})

    def run(*options):
        return pytester.runpytest_subprocess(
            "-p", "no:cacheprovider", "-p", "pytest_reattend", *options
        )

    return run


def test_a_broken_method_fails_and_a_good_one_does_not(suite, pytester):
    suite("test_good.py", "--reattend-update").assert_outcomes(passed=2)
    folder = pytester.path / "reattend_baselines"
    stored = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert stored.keys() == {"test_good-test_words.json", "test_good-test_attention.npz"}
    for name, content in stored.items():
        (folder / name.replace("good", "broken")).write_bytes(content)
    result = suite()
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines_random(
        ["*method: accuracy became worse: -*", "*image mass drifted by *",
         "*run pytest with --reattend-update*", "FAILED test_broken.py::test_words*"],
    )  # fmt: skip
    assert {name: (folder / name).read_bytes() for name in stored} == stored


def test_a_baseline_that_is_missing_or_broken_is_named(suite, pytester):
    folder = pytester.path / "reattend_baselines"
    folder.mkdir()
    (folder / "test_good-test_words.json").write_text("{broken")
    (folder / "test_good-test_attention.npz").write_bytes(b"PK broken")
    result = suite()
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines_random(
        ["*test_good-test_words.json cannot be read as a baseline*",
         "*test_good-test_attention.npz cannot be read as a baseline*",
         "*there is no baseline *test_broken-test_words.json to hold this against*",
         "*there is no baseline *test_broken-test_attention.npz to hold this against*"],
    )  # fmt: skip


def test_it_costs_no_import(pytester):
    """Whoever does not use it loads neither reattend nor NumPy with it."""
    code = "import sys, pytest_reattend; print({'reattend', 'numpy'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
    pytester.makepyfile(
        "import sys\ndef test_it():\n    assert not {'reattend', 'numpy'} & {*sys.modules}\n"
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "pytest_reattend")
    result.assert_outcomes(passed=1)
    shown = pytester.runpytest_subprocess("-p", "pytest_reattend", "--fixtures")
    shown.stdout.fnmatch_lines(["hallucination_regression*", "attention_regression*"])


def test_the_tiny_model_says_what_it_said(hallucination_regression, tiny_model):
    data = load_dataset("emoji-world", scenes=12, cells=CELLS)
    settings = {"plain": [], "vhr": [VHR()]}
    hallucination_regression(VisionLanguageAnswerer(tiny_model, "tiny"), data, settings)


def test_the_tiny_model_attends_where_it_did(attention_regression, tiny_model):
    data = load_dataset("emoji-world", scenes=1, cells=CELLS)
    config = tiny_model.llama.config
    session = Session(VHR(), num_layers=config.num_layers, num_heads=config.num_heads)
    session.record()
    prompt = [tiny_model.prompt(data.cases[0].prompt)]
    picture = data.cases[0].image[None]
    for _ in tiny_model.generate(session, prompt, picture, max_new_tokens=4, stop=()):
        pass
    attention_regression(session.recording())


def test_a_single_picture_is_refused_for_it_could_not_fail(tmp_path):
    case = Case("1", "Is there a cat?", None, "one.jpg", truth=True)
    data = Dataset("cats", [case], lambda case, answer: {}, {})
    hold = HallucinationRegression(tmp_path / "cats.json", update=True)
    with pytest.raises(ValueError, match="data must have at least two pictures"):
        hold(FunctionAnswerer(lambda cases, methods: ["Yes"], "yes"), data)
