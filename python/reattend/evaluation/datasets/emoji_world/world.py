"""Scenes of known things: pictures with exact ground truth, as hard to see as one asks for.

The pictures are OpenMoji's (openmoji.org), CC BY-SA 4.0, see `sprites`.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np

from reattend.evaluation.datasets.emoji_world.sprites import sprite
from reattend.policy import Array

__all__ = ["CELL", "NOUNS", "SIDE", "SPLITS", "VERSION", "Difficulty", "Scene", "World"]

VERSION = 2  # of the scenes: grows when the same seed gives other pictures
SIDE = 120  # px of a picture
CELL = 24  # px of a cell of the 5 x 5 grid; holds one thing
SPLITS = ("train", "tune", "test")

_ONE_CONTEXT = 7  # most things of a scene that has one context
_MOST = 14
_ANGLES = range(-24, 25, 8)
_MAX_CLUTTER = 40
_COVERED = (0.3, 0.55)  # part of a thing that is covered, if it is
_SCRAP = (3, 9)  # px of a scrap's sides
_LOOKS = 9  # random numbers that say how a thing looks
_BACKGROUND = (0.7, 1.0)

_PICTURES = {
    "kitchen": "spoon🥄 knife🔪 bread🍞 cheese🧀 egg🥚 pan🍳 salt🧂",
    "fruit": "apple🍎 banana🍌 orange🍊 grapes🍇 lemon🍋 pear🍐 strawberry🍓",
    "farm": "cow🐄 pig🐖 horse🐎 sheep🐑 rooster🐓 tractor🚜 goat🐐",
    "street": "car🚗 bus🚌 bicycle🚲 taxi🚕 truck🚚 motorcycle🏍 ambulance🚑",
    "music": "guitar🎸 violin🎻 trumpet🎺 drum🥁 microphone🎤 saxophone🎷 piano🎹",
    "sport": "football🏈 basketball🏀 racket🏸 trophy🏆 medal🏅 baseball⚾ volleyball🏐",
    "office": "computer💻 pencil✏ book📕 scissors✂ phone📱 printer🖨 calendar📅",
    "bedroom": "bed🛏 lamp💡 clock🕰 couch🛋 door🚪 mirror🪞 chair🪑",
    "sea": "fish🐟 whale🐳 crab🦀 octopus🐙 ship🚢 anchor⚓ shark🦈",
    "garden": "tree🌳 rose🌹 sunflower🌻 bee🐝 butterfly🦋 snail🐌 tulip🌷",
    "weather": "sun☀ cloud☁ umbrella☂ rainbow🌈 snowman⛄ moon🌙 star⭐",
    "clothes": "shirt👕 dress👗 hat👒 shoe👞 glove🧤 socks🧦 scarf🧣",
}
_ENTRIES = [entry for line in _PICTURES.values() for entry in line.split()]

NOUNS: tuple[str, ...] = tuple(entry[:-1] for entry in _ENTRIES)
CHARACTERS: tuple[str, ...] = tuple(entry[-1] for entry in _ENTRIES)
CONTEXTS: dict[str, tuple[int, ...]] = {
    name: tuple(range(7 * place, 7 * place + 7)) for place, name in enumerate(_PICTURES)
}


def _check_between(name: str, limits: tuple[float, float], least: float, most: float) -> None:
    low, high = limits
    if not least <= low <= high <= most:
        raise ValueError(
            f"{name} must be two numbers, ascending, in [{least}, {most}], got {limits}"
        )


def _check_count(name: str, value: int) -> int:
    number = operator.index(value)
    if number < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return number


@dataclass(frozen=True)
class Difficulty:
    """How badly the things of a scene can be seen.

    Parameters
    ----------
    noise : float
        Standard deviation of the noise of each channel, where pixels are in [0, 1].
    contrast : (float, float)
        Opacity of a thing, drawn between these, in [0, 1].
    size : (int, int)
        Its longer side in pixels, drawn between these, in [8, 24].
    occlusion : float
        Probability that a third to a half of a thing is covered.
    clutter : int
        How many coloured scraps lie about, 0 to 40.

    Raises
    ------
    ValueError
        If one of them is outside its range.

    Examples
    --------
    >>> Difficulty(noise=0.1, contrast=(0.5, 1.0), size=(18, 24))
    Difficulty(noise=0.1, contrast=(0.5, 1.0), size=(18, 24), occlusion=0.0, clutter=0)
    """

    noise: float
    contrast: tuple[float, float]
    size: tuple[int, int]
    occlusion: float = 0.0
    clutter: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise must be in [0, 1], got {self.noise}")
        _check_between("contrast", self.contrast, 0, 1)
        _check_between("size", self.size, 8, CELL)
        if not 0 <= self.occlusion <= 1:
            raise ValueError(f"occlusion must be a probability, got {self.occlusion}")
        if not 0 <= self.clutter <= _MAX_CLUTTER:
            raise ValueError(f"clutter must be in 0 to {_MAX_CLUTTER}, got {self.clutter}")


DIFFICULTIES: dict[str, Difficulty] = {
    "clear": Difficulty(noise=0.05, contrast=(0.8, 1.0), size=(20, 24)),
    "dim": Difficulty(noise=0.18, contrast=(0.35, 0.8), size=(16, 24), occlusion=0.2, clutter=6),
    "hard": Difficulty(noise=0.26, contrast=(0.3, 0.65), size=(15, 22), occlusion=0.35, clutter=10),
}


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, and what is in it.

    ``nouns``, ``removed`` and ``contexts`` are indices into `NOUNS` and of `CONTEXTS`.
    """

    contexts: tuple[int, ...]  # one, or two where there are more than seven things
    nouns: tuple[int, ...]  # what is there, in no order; no noun twice
    removed: tuple[int, ...]  # usual things taken out, for each of which a stranger came
    pixels: Array  # uint8 [120, 120, 3]
    boxes: Array  # int64 [n, 4]: x0 y0 x1 y1 of each noun, x1 and y1 excluded

    @property
    def context(self) -> int:
        """Where the scene is, or mostly: the place of its name in `CONTEXTS`."""
        return self.contexts[0]


class World:
    """Scenes by number: the same seed, split and number give the same scene.

    Difficulty changes how things look and nothing else: the same number at another difficulty has
    the same things in the same cells.

    Parameters
    ----------
    seed : int
        Of the whole world.
    split : {"train", "tune", "test"}
        Splits share no scene.
    cooccurrence : float
        Probability that a thing is of the scene's context; else it is any other.

    Raises
    ------
    ValueError
        If one of them is none of these.

    Examples
    --------
    >>> scene = World(split="test").scene(3, difficulty="clear")
    >>> list(CONTEXTS)[scene.context], [NOUNS[noun] for noun in scene.nouns]
    ('sport', ['volleyball', 'shoe', 'lamp'])
    >>> scene.pixels.shape, scene.boxes.shape
    ((120, 120, 3), (3, 4))
    """

    def __init__(self, seed: int = 0, split: str = "train", cooccurrence: float = 0.85) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if not 0 <= cooccurrence <= 1:
            raise ValueError(f"cooccurrence must be a probability, got {cooccurrence}")
        self.seed = _check_count("seed", seed)
        self.split = split
        self.cooccurrence = cooccurrence

    def scene(
        self,
        index: int,
        *,
        difficulty: str | Difficulty = "dim",
        conflict: bool = False,
        objects: tuple[int, int] = (3, 6),
    ) -> Scene:
        """Draw a scene.

        Parameters
        ----------
        index : int
            Its number, from 0.
        difficulty : str or Difficulty
            A name of `DIFFICULTIES`, or one's own.
        conflict : bool
            Whether a third of the things that are usual here made room for strangers: what
            expectation says is then wrong, and only the picture tells.
        objects : (int, int)
            Least and largest number of things, 1 to 14 (2 to 14 in conflict); above 7 they are of
            two contexts.

        Returns
        -------
        Scene

        Raises
        ------
        ValueError
            If ``difficulty`` is not known, or ``index`` or ``objects`` are out of range.

        Examples
        --------
        >>> scene = World().scene(0, conflict=True)
        >>> list(CONTEXTS)[scene.context], [NOUNS[noun] for noun in scene.removed]
        ('garden', ['tree', 'snail'])
        """
        _check_between("objects", objects, 2 if conflict else 1, _MOST)
        look = _find_difficulty(difficulty)
        number = _check_count("index", index)
        rng = np.random.default_rng([SPLITS.index(self.split), self.seed, number])
        count = int(rng.integers(objects[0], objects[1] + 1))
        contexts, nouns, removed = self._choose(rng, count, conflict=conflict)
        pixels, boxes = _paint(rng, nouns, look)
        return Scene(contexts, nouns, removed, pixels, boxes)

    def _choose(
        self, rng: np.random.Generator, count: int, *, conflict: bool
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Choose contexts, nouns and removed nouns of a scene of ``count`` things."""
        names = list(CONTEXTS)
        contexts = rng.permutation(len(names))[: 1 if count <= _ONE_CONTEXT else 2]
        usual = rng.permutation(np.concatenate([CONTEXTS[names[place]] for place in contexts]))
        order = rng.permutation(len(NOUNS))
        strangers = order[~np.isin(order, usual)]
        if conflict:
            kept = count - (count + 1) // 3
            removed = usual[kept:count]
        else:
            kept = min(max(1, int(rng.binomial(count, self.cooccurrence))), len(usual))
            removed = usual[:0]
        nouns = rng.permutation(np.concatenate([usual[:kept], strangers[: count - kept]]))
        return _ints(contexts), _ints(nouns), _ints(removed)


def _paint(
    rng: np.random.Generator, nouns: tuple[int, ...], look: Difficulty
) -> tuple[Array, Array]:
    """Paint things into free cells: pixels and boxes.

    What is drawn from ``rng`` does not depend on ``look``, so that a scene keeps its things and
    their places at every difficulty.
    """
    per_row = SIDE // CELL
    cells = rng.permutation(per_row * per_row)[: len(nouns)]
    ways = rng.random((len(nouns), _LOOKS)).tolist()
    scraps = rng.random((_MAX_CLUTTER, 8)).tolist()
    background = np.array([255 * _within(_BACKGROUND, u) for u in rng.random(3)], np.float32)
    noise = rng.standard_normal((SIDE, SIDE, 3), dtype=np.float32)

    canvas = np.empty((SIDE, SIDE, 3), np.float32)
    canvas[:] = background
    boxes = np.empty((len(nouns), 4), np.int64)
    for noun, cell, box, way in zip(nouns, cells.tolist(), boxes, ways, strict=True):
        size, angle, flip, contrast, right, down, covered, part, side = way
        turned = _ANGLES[int(angle * len(_ANGLES))]
        picture = sprite(CHARACTERS[noun], round(_within(look.size, size)), turned)
        if flip < 0.5:
            picture = picture[:, ::-1]
        height, width = picture.shape[:2]
        top = cell // per_row * CELL + int(down * (CELL - height + 1))
        left = cell % per_row * CELL + int(right * (CELL - width + 1))
        box[:] = left, top, left + width, top + height
        _blend(canvas[top : top + height, left : left + width], picture, look, contrast)
        if covered < look.occlusion:
            _cover(canvas[top : top + height, left : left + width], background, part, side)
    for scrap in scraps[: look.clutter]:
        _strew(canvas, scrap, look)
    canvas += (255 * look.noise) * noise
    np.clip(canvas, 0, 255, out=canvas)
    return np.rint(canvas, out=canvas).astype(np.uint8), boxes


def _blend(canvas: Array, picture: Array, look: Difficulty, contrast: float) -> None:
    opacity = picture[..., 3:] * np.float32(_within(look.contrast, contrast) / 255)
    canvas += opacity * (picture[..., :3] - canvas)


def _cover(canvas: Array, background: Array, part: float, side: float) -> None:
    """Cover a part of a thing from one of its four sides."""
    turned = np.rot90(canvas, int(side * 4))
    turned[: round(_within(_COVERED, part) * len(turned))] = background


def _strew(canvas: Array, scrap: list[float], look: Difficulty) -> None:
    """Lay a coloured scrap somewhere."""
    *colour, contrast, x, y, width, height = scrap
    right, down = round(_within(_SCRAP, width)), round(_within(_SCRAP, height))
    left, top = int(x * (SIDE - right)), int(y * (SIDE - down))
    opacity = np.float32(_within(look.contrast, contrast))
    patch = canvas[top : top + down, left : left + right]
    patch += opacity * (np.float32(255) * np.array(colour, np.float32) - patch)


def _within(limits: tuple[float, float], share: float) -> float:
    low, high = limits
    return low + (high - low) * share


def _find_difficulty(difficulty: str | Difficulty) -> Difficulty:
    if isinstance(difficulty, Difficulty):
        return difficulty
    if difficulty not in DIFFICULTIES:
        names = ", ".join(DIFFICULTIES)
        raise ValueError(f"difficulty must be a Difficulty or one of {names}, got {difficulty!r}")
    return DIFFICULTIES[difficulty]


def _ints(numbers: Array) -> tuple[int, ...]:
    return tuple(numbers.tolist())
