"""The search for heads: exact against brute force, careful about chance, and kept when killed."""

import dataclasses
import functools
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from patience import HANGS, within

pytest.importorskip("scipy")

import search_model
from reattend import ACT, PASTA, VHR, HeadMask, Method, Plan, Reweight
from reattend.evaluation.calibration import (
    AnswerScores,
    Profile,
    PromptScores,
    choose,
    head_candidates,
    holm,
    mean_interval,
    right_log_probability,
    search_heads,
)
from reattend.evaluation.datasets import Answer, Case, Dataset
from reattend.evaluation.runner.answerers import FunctionAnswerer
from reattend.evaluation.runner.journal import Journal, JournalError

TOLERANCE = 2e-4  # of logits up to 10: other batches add float32 in another order
SWITCHES = {
    "act": lambda heads: ACT(heads=heads, theta=0.1),
    "mask": lambda heads: HeadMask(heads=heads),
    "pasta": lambda heads: PASTA(spans=((2, 6),), heads=heads, alpha=0.1),
}
CANDIDATES = head_candidates(search_model.LAYERS, search_model.HEADS)


@dataclass(frozen=True)
class _Late(Method):
    """In chosen heads, rows from the 19th on lose half of what they found."""

    heads: Any = None

    def plan(self, call, state):
        chosen = np.isin(np.arange(call.num_heads), dict(self.heads).get(call.layer, ()))
        where = chosen[None, :, None] & (call.rows >= 18)
        return (Plan(None, Reweight(weight=(0.5,)), where) if chosen.any() else None), None


class BruteForce:
    """Every candidate alone, through all layers."""

    def __init__(self, scores):
        self._scores = scores

    def __call__(self, heads):
        return self._scores(heads)


@pytest.mark.parametrize("strategy", ["single", "forward"])
@pytest.mark.parametrize("name", SWITCHES)
def test_savings_change_no_answer(name, strategy, capsys):
    options = {"strategy": strategy, "most": 2, "rule": "above"}
    ours, theirs = (search_model.scores(switch=SWITCHES[name]) for _ in range(2))
    start = time.perf_counter()
    found = search_heads(ours, CANDIDATES, **options)
    half = time.perf_counter()
    brute = search_heads(BruteForce(theirs), CANDIDATES, **options)
    end = time.perf_counter()
    np.testing.assert_allclose(found.gains, brute.gains, atol=TOLERANCE)
    assert np.abs(brute.gains).max() > 100 * TOLERANCE
    clear = np.abs(brute.gains) > 2 * TOLERANCE
    assert ((found.gains > 0) == (brute.gains > 0))[clear].all()
    if clear.all():
        assert found.heads == brute.heads
    if strategy == "single":
        with capsys.disabled():
            print(f" {name}: {ours.layer_tokens} of {theirs.layer_tokens} token passes, "
                  f"{half - start:.2f} s of {end - half:.2f} s")  # fmt: skip
    assert ours.layer_tokens < 0.75 * theirs.layer_tokens


def test_heads_that_change_nothing_cost_one_layer_each():
    scores = search_model.scores(switch=lambda heads: HeadMask(heads=heads, gate=1.0))
    found = search_heads(scores, CANDIDATES)
    assert (found.gains == 0).all()
    assert found.heads == {}
    layers, heads = search_model.LAYERS, search_model.HEADS
    tokens, searched = search_model.PROMPTS * search_model.LENGTH, layers - 3
    # Plain twice and the empty choice; up to the last layer; each candidate and plain, in its own.
    assert scores.layer_tokens <= tokens * (3 * layers + layers + searched * (heads + 1))


def test_only_tokens_from_the_first_changed_one_on_are_run():
    ours, theirs = (search_model.scores(switch=lambda heads: _Late(heads=heads)) for _ in range(2))
    found = search_heads(ours, CANDIDATES)
    brute = search_heads(BruteForce(theirs), CANDIDATES)
    np.testing.assert_allclose(found.gains, brute.gains, atol=TOLERANCE)
    assert np.abs(found.gains).min() > 10 * TOLERANCE
    assert ours.layer_tokens < 0.55 * theirs.layer_tokens


def test_groups_are_one_sample_each():
    groups = np.repeat(np.arange(5), 2)
    whole = search_model.scores()({3: (1,)})
    np.testing.assert_allclose(search_model.scores(groups=groups)({3: (1,)}),
                               whole.reshape(5, 2).mean(1))  # fmt: skip
    with pytest.raises(ValueError, match="groups must be one for each of 10 prompts"):
        search_model.scores(groups=groups[1:])
    with pytest.raises(ValueError, match="got VHR, which compares"):
        search_model.scores(switch=lambda heads: VHR())


def planted(effects, noise, samples=60, seed=0):
    """Score with effects by head, and noise of its own for each sample and head."""
    rng = np.random.default_rng(seed)
    drawn = {each: rng.standard_normal(samples) * noise for each in effects}
    base = rng.standard_normal(samples)

    def evaluate(heads):
        on = [(layer, head) for layer in heads for head in heads[layer]]
        return base + sum((effects[each] + drawn[each] for each in on), np.zeros(samples))

    return evaluate


def test_rules_keep_chance_out():
    effects = dict.fromkeys(head_candidates(20, 8), 0.0)
    real = [(4, 1), (9, 7), (15, 0)]
    effects.update(dict.fromkeys(real, 1.0))
    evaluate, held = planted(effects, 1.0), planted(effects, 1.0, seed=1)
    lucky = search_heads(evaluate, effects, confirm=held)
    assert sum(map(len, lucky.heads.values())) > 40  # half of those that do nothing
    for rule in ("holm", "bootstrap"):
        found = search_heads(evaluate, effects, rule=rule, level=0.01, confirm=held)
        assert found.heads == {4: (1,), 9: (7,), 15: (0,)}
        assert found.verdict == "confirmed"
        assert found.confirmed.low < 3.0 < found.confirmed.high
    assert lucky.gain.value > lucky.confirmed.value  # where it was searched it is too good
    forward = search_heads(evaluate, effects, strategy="forward", rule="holm", level=0.01)
    assert forward.heads == found.heads
    assert [step for step, _ in forward.steps] == sorted(
        real, key=lambda each: -found.gains[found.candidates.index(each)]
    )
    one = search_heads(evaluate, effects, strategy="forward", rule="holm", most=1)
    assert len(one.heads) == 1
    harm = search_heads(evaluate, effects, confirm=planted(dict.fromkeys(effects, -1.0), 0.1))
    assert harm.verdict == "refuted"
    assert search_heads(evaluate, effects).verdict == "not asked"


@pytest.mark.parametrize("rule", ["holm", "bootstrap"])
def test_where_nothing_gains_the_level_is_kept(rule, monkeypatch):
    monkeypatch.setattr("reattend.evaluation.calibration.significance.RESAMPLES", 999)
    rng, times, false = np.random.default_rng(5), 150, 0
    for _ in range(times):
        shared = rng.standard_normal(40)  # candidates go together, as heads do
        gains = 0.7 * shared + rng.standard_normal((25, 40))
        false += choose(gains, rule, level=0.1)[0].any()
    assert false / times < 0.1 + 3 * (0.1 * 0.9 / times) ** 0.5


def test_holm_by_its_definition(rng):
    p_values = rng.random(30) ** 3
    for level in (0.01, 0.05, 0.2):
        order, rejected = np.argsort(p_values), np.zeros(30, bool)
        for place, each in enumerate(order):
            if p_values[each] > level / (30 - place):
                break
            rejected[each] = True
        assert ((holm(p_values) <= level) == rejected).all()


def test_intervals_are_those_of_the_normal_law_where_it_holds(rng):
    values = rng.standard_normal(400)
    value, low, high = mean_interval(values)
    error = values.std(ddof=1) / 20
    assert value == values.mean()
    np.testing.assert_allclose([low, high], [value - 1.96 * error, value + 1.96 * error],
                               atol=0.1 * error)  # fmt: skip


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_few_samples_confirm_nothing(samples):
    """Of five that gain nothing, all are on one side of 0 more than 5% of the time."""

    def held(heads):
        return np.linspace(1, 1.5, samples) * bool(heads)

    def alike(heads):
        return np.ones(samples) * bool(heads)

    for confirm in (held, alike, lambda heads: -held(heads)):
        found = search_heads(lambda heads: np.ones(8) * bool(heads), [(2, 0)], confirm=confirm)
        assert found.verdict == "no difference shown"
        assert np.isnan(found.confirmed[1:]).all()


def test_gains_that_are_all_alike_are_no_proof():
    """Two samples that gain alike have no spread, and by chance a fourth of all do."""
    gains = np.ones((40, 2))
    for rule in ("holm", "bootstrap"):
        chosen, p_values = choose(gains, rule)
        assert not chosen.any()
        np.testing.assert_array_equal(p_values, 1)
    np.testing.assert_array_equal(choose(gains)[1], 0.25)
    assert choose(np.ones((40, 12)), "holm")[0].all()


def test_held_out_scores_of_another_are_not_read_from_a_journal(tmp_path):
    class Known:
        def identity(self):
            return {"model": "planted"}

        def __call__(self, heads):
            return np.arange(8.0) * bool(heads)

    options = {"candidates": [(2, 0)], "journal": tmp_path / "run.jsonl"}
    with pytest.raises(ValueError, match="where a journal is kept and a scorer has no identity"):
        search_heads(Known(), confirm=lambda heads: np.ones(8), **options)
    found = search_heads(Known(), confirm=Known(), **options)
    assert found.confirmed.value == 3.5
    with pytest.raises(JournalError, match="of another run, with held out"):
        search_heads(Known(), confirm=planted({(2, 0): 1.0}, 0.1), identity={"of": 2}, **options)


def yes_data(**options):
    cases = [Case(str(n), "Is it?", None, str(n), yes_or_no=True, truth=n > 2) for n in range(6)]
    options = {"cases": cases, "rules": {"rule": "first"}, **options}
    return Dataset("yes", count=lambda case, answer: {"right": 1.0, "asked": 1.0},
                   measures={"accuracy": ("right", "asked")}, **options)  # fmt: skip


def test_scores_depend_on_rules_and_on_what_is_right():
    model = FunctionAnswerer(lambda cases, methods: [Answer("Yes", 1.0)] * len(cases), "yes")

    def identity(data, score="accuracy", gate=0.5):
        switch = functools.partial(HeadMask, gate=gate)
        return AnswerScores(data, model, lambda h: switch(heads=h), score=score).identity()

    other = [dataclasses.replace(case, truth=not case.truth) for case in yes_data().cases]
    same, *changed = (
        identity(data)
        for data in (yes_data(), yes_data(rules={"rule": "exact"}), yes_data(cases=other))
    )
    assert same == identity(yes_data())
    assert same not in changed
    assert identity(yes_data(), right_log_probability)["score"].endswith(".right_log_probability")
    with pytest.raises(ValueError, match="score must be a function of a module"):
        identity(yes_data(), lambda case, answer: 1.0)


def test_answers_must_be_as_many_as_cases_in_each_batch():
    """Two batches of which one gives more and one less would join answers to other cases."""
    sizes = iter([3, 1])

    def model(cases, methods):
        return [Answer("Yes", 1.0)] * next(sizes)

    scores = AnswerScores(yes_data(cases=yes_data().cases[:4]), model,
                          lambda heads: HeadMask(heads=heads), batch=2)  # fmt: skip
    with pytest.raises(ValueError, match="an answer for each of 2 cases, got 3"):
        scores({})


def test_a_search_goes_on_and_another_one_is_refused(tmp_path):
    path, calls = tmp_path / "run.jsonl", []
    effects = {(2, 0): 1.0, (2, 1): -1.0, (3, 0): 0.5}
    score = planted(effects, 0.1)

    def evaluate(heads):
        calls.append(heads)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(heads)

    options = {"journal": path, "identity": {"model": "planted"}}
    with pytest.raises(KeyboardInterrupt):
        search_heads(evaluate, effects, **options)
    assert len(Journal(path)) == 2
    found = search_heads(evaluate, effects, **options)
    assert len(calls) == 3 + 3  # two that were left, and what they are together
    again = search_heads(lambda heads: 1 / 0, effects, **options)
    assert (again.heads, again.gain) == (found.heads, found.gain)
    assert found.heads == {2: (0,), 3: (0,)}
    # Other rules and strategies read the same scores.
    search_heads(lambda heads: 1 / 0, effects, rule="holm", **options)
    with pytest.raises(JournalError, match="of another run, with identity"):
        search_heads(score, effects, journal=path, identity={"model": "other"})
    with pytest.raises(JournalError, match="of another run, with search"):
        search_heads(score, [(2, 0)], **options)
    with pytest.raises(ValueError, match="identity must say what decides the scores"):
        search_heads(score, effects, journal=path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"candidates": []}, "candidates must hold at least one"),
        ({"strategy": "both"}, "strategy must be one of single, forward, got 'both'"),
        ({"rule": "luck"}, "rule must be one of above, holm, bootstrap, got 'luck'"),
        ({"level": 5}, "level must be above 0 and below 1, got 5"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        search_heads(lambda heads: np.ones(3), **{"candidates": [(2, 0)], **options})


def test_scores_that_are_none_are_refused():
    with pytest.raises(TypeError, match=r"got an array of shape \(\)"):
        search_heads(lambda heads: 1.0, [(2, 0)])
    with pytest.raises(TypeError, match=r"each of 3 samples, got an array of shape \(1, 2\)"):
        search_heads(lambda heads: np.ones(2 if heads else 3), [(2, 0)])
    with pytest.raises(ValueError, match="finite scores"):
        search_heads(lambda heads: np.full(3, np.nan), [(2, 0)])


def start(folder):
    command = [sys.executable, search_model.__file__, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=[pytest.mark.nightly])])
def test_kills_and_the_same_profile(tmp_path, kills):
    whole, folder, rng = tmp_path / "whole", tmp_path / "killed", np.random.default_rng(7)
    whole.mkdir()
    folder.mkdir()
    told = []
    search_model.search(whole / "run.jsonl", whole / "found.json", lambda *at: told.append(at[0]))
    known = 0
    for _ in range(kills):
        process = start(folder)
        for _ in range(known + int(rng.integers(0, 3))):  # what is known is told anew
            process.stdout.readline()
        time.sleep(float(rng.random() * 0.015))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (folder / "run.jsonl").exists():
            keys = [*Journal(folder / "run.jsonl")]
            known = sum(len(key) == 4 for key in keys)  # pieces, of which progress is told
    assert 3 < known < len(told)
    assert not (folder / "found.json").exists()
    process = start(folder)
    process.communicate(timeout=HANGS)
    assert process.returncode == 0
    ours, theirs = (Profile.load(each / "found.json") for each in (folder, whole))
    assert ours.methods == theirs.methods
    assert ours.methods["ACT"]["heads"]
    assert ours.scores == theirs.scores
    for name, array in theirs.arrays.items():
        np.testing.assert_array_equal(ours.arrays[name], array)
    assert (folder / "found.json").read_bytes() == (whole / "found.json").read_bytes()
    found = [path.name for path in sorted(folder.iterdir())]
    assert [name.partition(".")[2].split(".")[-1] for name in found] == ["npz", "json", "jsonl"]


def test_ctrl_c_ends_within_a_second_and_leaves_a_journal(tmp_path):
    def attempt(number):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = start(folder)
        process.stdout.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        for line in process.stdout:
            if line == "interrupted\n":
                break
        took = time.monotonic() - began
        process.communicate(timeout=HANGS)
        assert process.returncode == 130
        lines = (folder / "run.jsonl").read_text().splitlines()
        assert [*map(json.loads, lines)]
        assert len(Journal(folder / "run.jsonl")) == len(lines) - 1 > 0
        return took

    assert within(attempt, 1)


def test_layers_run_one_by_one_are_the_model(rng):
    llama = search_model.model()
    (batch, _) = search_model.batches(llama)
    scores = PromptScores(llama, [batch], SWITCHES["act"])
    upwards = scores.layer_scores({2: (0, 1), 5: (3,)}, 5, [0, 2])
    brute = [scores({2: (0, 1), 5: (0, 3)}), scores({2: (0, 1), 5: (2, 3)})]
    np.testing.assert_allclose(upwards, brute, atol=TOLERANCE)
    assert not np.allclose(upwards[0], upwards[1], atol=TOLERANCE)
