"""What the model learns from: pictures with a description and questions, packed as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from network import IMAGE, IMAGE_TOKENS
from reattend.evaluation.datasets.easy_vqa import Question, read_pictures
from reattend.evaluation.datasets.emoji_world import (
    CONTEXTS,
    DESCRIBE,
    NOUNS,
    Difficulty,
    Scene,
    World,
    ask,
    describe,
    filler,
)
from reattend.models import Tokenizer
from reattend.policy import Array
from torch import Tensor

QUESTIONS = 3  # about each picture
SAME_CONTEXT = 0.08  # of the questions whose answer is no: real data seldom asks what is likely
SHORT, LONG = (3, 6), (10, 14)  # things in a picture
FILLER_WORDS = (85, 165)  # about 100 to 200 tokens

# What is measured: (difficulty, number of things, whether other text stands before the question)
SETTINGS = {
    "clear": ("clear", SHORT, False),
    "dim": ("dim", SHORT, False),
    "hard": ("hard", SHORT, False),
    "dim, long": ("dim", LONG, True),
}

IGNORE = -100
_USER = "<|im_start|>user\n"
_ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"
_END = "<|im_end|>"
_NO_BRANCH = 255  # padding belongs to none


class Kind(NamedTuple):
    """A kind of batch."""

    share: float  # of all samples
    size: int  # samples in a batch: longer ones come in smaller batches, so that steps cost alike
    long: float  # share of pictures with many things
    filler: bool


KINDS = (
    Kind(share=0.56, size=6, long=0.0, filler=False),
    Kind(share=0.26, size=6, long=1.0, filler=False),
    Kind(share=0.18, size=3, long=0.3, filler=True),
)


class Batch(NamedTuple):
    """Samples side by side, padded on the right.

    A sample is a picture followed by branches, each a question with its answer, that see the
    picture and themselves and not one another: every answer is learnt as if it were asked alone,
    and the picture's tokens are computed once.
    """

    ids: Tensor  # int64 [B, N]
    targets: Tensor  # int64 [B, N]: the next token where it is part of an answer, else IGNORE
    positions: Tensor  # int64 [B, N]
    mask: Tensor  # bool [B, 1, N, N]: what each token attends to
    pixels: Tensor  # uint8 [B, 120, 120, 3]


class Texts:
    """Prompts and answers as tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.encode = lru_cache(4096)(self._encode)
        self.end = self._encode(_END)[0]
        self.yes, self.no = self._encode("Yes")[0], self._encode("No")[0]

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, prefix=False))

    def start(self, before: str | None = None) -> list[int]:
        """Give what comes before a question: the picture, and other text if there is any."""
        after = "\n" if before is None else f"\n{before}\n"
        return [*self.encode(_USER), *[IMAGE] * IMAGE_TOKENS, *self._encode(after)]

    def question(self, text: str) -> tuple[int, ...]:
        """Give a question and what the answer is to follow."""
        return self.encode(text + _ASSISTANT)

    def answer(self, text: str) -> tuple[int, ...]:
        """Give an answer and its end."""
        return self._encode(text + _END)


def draw_difficulty(rng: np.random.Generator) -> Difficulty:
    """Draw how badly a scene can be seen: from clear to what cannot be seen at all."""
    level = rng.random() ** 1.5
    low = 1 - 0.8 * level
    return Difficulty(
        noise=0.35 * level * rng.uniform(0.4, 1),
        contrast=(low, rng.uniform(low, 1)),
        size=(24 - round(10 * level), 24),
        occlusion=0.45 * level,
        clutter=round(14 * level),
    )


def draw_question(rng: np.random.Generator, scene: Scene) -> tuple[int, bool]:
    """Draw a noun to ask for, and whether it is there."""
    if rng.random() < 0.5:
        return int(rng.choice(scene.nouns)), True
    names = list(CONTEXTS)
    usual = {noun for place in scene.contexts for noun in CONTEXTS[names[place]]}
    absent = set(range(len(NOUNS))) - set(scene.nouns)
    near, far = sorted(absent & usual), sorted(absent - usual)
    return int(rng.choice(near if near and rng.random() < SAME_CONTEXT else far)), False


def draw_batch(
    rng: np.random.Generator, texts: Texts, world: World, number: int, size: int = 0
) -> Batch:
    """Draw the batch of a step, of ``size`` samples, or 0: as many as are of its kind.

    Everything in it follows from the seed of ``rng`` and from ``number``.
    """
    weights = np.array([kind.share / kind.size for kind in KINDS])
    kind = KINDS[int(rng.choice(len(KINDS), p=weights / weights.sum()))]
    scenes, starts, branches = [], [], []
    for place in range(size or kind.size):
        objects = LONG if rng.random() < kind.long else SHORT
        scene = world.scene(100 * number + place, difficulty=draw_difficulty(rng), objects=objects)
        before = filler(rng, int(rng.integers(*FILLER_WORDS))) if kind.filler else None
        pairs = [(texts.question(DESCRIBE), texts.answer(describe(scene.nouns)))]
        for _ in range(QUESTIONS):
            noun, there = draw_question(rng, scene)
            pairs.append((texts.question(ask(noun)), texts.answer("Yes" if there else "No")))
        scenes.append(scene)
        starts.append(texts.start(before))
        branches.append(pairs)
    return pack(np.stack([scene.pixels for scene in scenes]), starts, branches)


def draw_shapes(
    rng: np.random.Generator, texts: Texts, pictures: Sequence[Sequence[Question]], size: int
) -> Batch:
    """Draw pictures of easy-VQA's training split, each with all that is asked about it."""
    drawn = [pictures[place] for place in rng.integers(len(pictures), size=size)]
    branches = [
        [(texts.question(each.text), texts.answer(each.answer)) for each in some] for some in drawn
    ]
    pixels = read_pictures([some[0] for some in drawn], "train")
    return pack(pixels, [texts.start()] * size, branches)


def pack(
    pixels: Array,
    starts: Sequence[Sequence[int]],
    branches: Sequence[Sequence[tuple[Sequence[int], Sequence[int]]]],
) -> Batch:
    """Put samples side by side: for each a picture, a start, and questions with answers."""
    lengths = [
        len(start) + sum(len(question) + len(answer) - 1 for question, answer in pairs)
        for start, pairs in zip(starts, branches, strict=True)
    ]
    shape = (len(starts), max(lengths))
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    targets, branch = np.full(shape, IGNORE), np.full(shape, _NO_BRANCH)
    for row, (start, pairs) in enumerate(zip(starts, branches, strict=True)):
        at = len(start)
        ids[row, :at], positions[row, :at], branch[row, :at] = start, range(at), 0
        for place, (question, answer) in enumerate(pairs, start=1):
            tokens = [*question, *answer]
            end = at + len(tokens) - 1  # the last token is only ever a target
            ids[row, at:end] = tokens[:-1]
            targets[row, at + len(question) - 1 : end] = answer
            positions[row, at:end] = range(len(start), len(start) + end - at)
            branch[row, at:end] = place
            at = end
    sees = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    sees &= np.tri(shape[1], dtype=bool)
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(targets),
        torch.from_numpy(positions),
        torch.from_numpy(sees)[:, None],
        torch.from_numpy(pixels),
    )
