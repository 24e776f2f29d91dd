"""Tuning strengths: the least hallucinated at its own recall wins, and silence never does."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from reattend import VHR
from reattend.evaluation.calibration import Described, tune, tuning_profile
from reattend.evaluation.runner.journal import Journal, JournalError

SAMPLES, THINGS = 60, 12


class World:
    """A model that names things with a probability; strengths cut it, or make it better."""

    def __init__(self, *, known=True):
        self._known, self.calls = known, []

    def identity(self):
        return {"model": "planted", "known": self._known}

    def __call__(self, parameters, samples):
        self.calls.append((parameters, samples))
        return [self._one(parameters or {}, number) for number in samples]

    def _one(self, parameters, number):
        rng = np.random.default_rng(number)
        there = set(rng.choice(THINGS, 6, replace=False).tolist())
        sure = np.where([t in there for t in range(THINGS)], rng.beta(5, 2, THINGS),
                        rng.beta(2, 5, THINGS))  # fmt: skip
        keep = sure > max(0.3, parameters.get("silence", 0.0))
        better = rng.random(THINGS) < parameters.get("skill", 0.0)  # hallucinations it loses
        keep &= ~(better & ~np.isin(np.arange(THINGS), list(there)))
        words = [(thing, float(sure[thing]) if self._known else 1.0)
                 for thing in np.flatnonzero(keep).tolist()]  # fmt: skip
        return Described(words, there)


@pytest.mark.parametrize("known", [True, False])
def test_to_say_less_never_wins(known):
    found = tune(World(known=known), {"silence": [0.5, 0.6, 0.7, 0.8]}, SAMPLES)
    plain = found.plain
    for trial in found.trials:  # each of them hallucinates much less, and none is better
        assert trial.hallucinated.high < plain.hallucinated.value
        assert trial.recall.high < plain.recall.value
    assert found.best is None
    assert found.verdict == "no difference shown"
    if known:
        assert all(abs(trial.excess.value) < 0.01 for trial in found.trials)
    else:
        assert all(trial.out for trial in found.trials)


@pytest.mark.parametrize("search", ["grid", "halving"])
@pytest.mark.parametrize("known", [True, False])
def test_what_is_better_wins_though_others_say_less(known, search):
    world = World(known=known)
    grid = [{"skill": 0.1}, {"silence": 0.7}, {"skill": 0.6}, {"silence": 0.8, "skill": 0.3},
            {"skill": 0.0}, {"skill": 0.3}]  # fmt: skip
    found = tune(world, grid, SAMPLES, search=search)
    assert found.best == {"skill": 0.6}
    assert found.verdict == "better"
    (best,) = [trial for trial in found.trials if trial.parameters == found.best]
    assert best.excess.high < 0
    assert best.on_frontier
    assert [trial.parameters for trial in found.trials] == grid
    if search == "halving":
        described = sum(len(some) for parameters, some in world.calls if parameters is not None)
        assert described < 0.6 * SAMPLES * len(grid)
        assert best.samples == SAMPLES
    made = tuning_profile(found, VHR(), {"num_layers": 3})
    assert made.scores["VHR"]["tuned"]["verdict"] == "better"


def test_it_goes_on_where_it_was(tmp_path):
    path, told = tmp_path / "tune.jsonl", []
    grid = {"silence": [0.5, 0.6], "skill": [0.0, 0.5]}
    whole = tune(World(), grid, SAMPLES, search="halving", journal=path,
                 progress=lambda done, of, so_far: told.append((done, of, so_far())))  # fmt: skip
    assert told[-1][0] == told[-1][1]
    assert "at equal recall" in told[-1][2]
    world = World()
    assert tune(world, grid, SAMPLES, search="halving", journal=path) == whole
    assert world.calls == []
    size = len(Journal(path))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]))
    assert tune(world, grid, SAMPLES, search="halving", journal=path) == whole
    assert len(Journal(path)) == size
    with pytest.raises(JournalError, match="of another run, with tuned"):
        tune(World(known=False), grid, SAMPLES, journal=path)
    with pytest.raises(ValueError, match="identity must say"):
        tune(World().__call__, grid, SAMPLES, journal=tmp_path / "new.jsonl")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (({}, 3), "grid must hold at least one strength"),
        (([], 3), "grid must hold at least one strength"),
        (({"skill": [1]}, 0), "samples must be at least 1, got 0"),
        (({"skill": [1]}, 3, "all"), "search must be one of grid, halving, got 'all'"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, says):
    grid, samples, *search = arguments
    with pytest.raises(ValueError, match=says):
        tune(World(), grid, samples, **({"search": search[0]} if search else {}))


def test_descriptions_that_lack_are_refused():
    with pytest.raises(ValueError, match="must give 3 descriptions, got 0"):
        tune(lambda parameters, samples: [], {"skill": [1]}, 3)


def test_an_identity_that_is_given_counts_beside_the_describers_own(tmp_path):
    path = tmp_path / "tune.jsonl"
    tune(World(), {"skill": [0.5]}, 8, journal=path, identity={"prompt": "short"})
    with pytest.raises(JournalError, match="of another run, with identity"):
        tune(World(), {"skill": [0.5]}, 8, journal=path, identity={"prompt": "long"})


@pytest.mark.parametrize("samples", [1, 5])
def test_few_samples_show_nothing(samples):
    def describe(parameters, some):
        made_up = [(9, 0.5)] if parameters is None else []
        return [Described([(0, 0.4), *made_up], {0}) for _ in some]

    found = tune(describe, {"alpha": [1.1]}, samples)
    assert (found.best, found.verdict) == ({"alpha": 1.1}, "no difference shown")
    assert tune(describe, {"alpha": [1.1]}, 6).verdict == "better"


def test_long_arrays_are_strengths_of_their_own():
    """NumPy shows the ends of a long array alone."""

    def describe(parameters, some):
        words = [] if parameters is None else [(int(parameters["gates"][1000]), 1.0)]
        return [Described([(9, 1.0), *words], {0}) for _ in some]

    gates = np.zeros((2, 2000))
    gates[1, 1000] = 1
    found = tune(describe, [{"gates": each} for each in gates], 8)
    assert [trial.recall.value for trial in found.trials] == [1, 0]
