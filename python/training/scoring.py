"""Held-out scores of a network: what it says of scenes that expectation is wrong about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from network import Network, mixed
from reattend.adaptors.transformers.caches import cache_argument, cache_of
from reattend.evaluation.datasets.emoji_world import (
    CONTEXTS,
    DESCRIBE,
    NOUNS,
    Scene,
    World,
    ask,
    filler,
    mentioned,
)
from reattend.optional import demand
from samples import FILLER_WORDS, LONG, SETTINGS, SHORT, Texts
from torch import Tensor

TOGETHER = 32  # prompts in a batch
LONGEST = {SHORT: 48, LONG: 96}  # tokens of a description


@torch.no_grad()
def score(
    network: Network,
    texts: Texts,
    count: int,
    settings: Iterable[str] = SETTINGS,
    longest: int | None = None,
) -> dict[str, dict[str, float]]:
    """Score ``count`` conflict scenes of the split 'tune' in each setting.

    Descriptions end after ``longest`` tokens, or after those that a true one could take.
    """
    network.eval()
    world = World(split="tune")
    scores = {}
    for name in demand("tqdm").tqdm(settings, "scores"):
        difficulty, objects, with_filler = SETTINGS[name]
        scenes = [
            world.scene(index, difficulty=difficulty, conflict=True, objects=objects)
            for index in range(count)
        ]
        rng = np.random.default_rng(0)
        words = (int(rng.integers(*FILLER_WORDS)) for _ in scenes)
        starts = [texts.start(filler(rng, n) if with_filler else None) for n in words]
        scores[name] = {
            **_descriptions(network, texts, scenes, starts, longest or LONGEST[objects]),
            **_questions(network, texts, scenes, starts),
        }
    return scores


def _descriptions(
    network: Network,
    texts: Texts,
    scenes: Sequence[Scene],
    starts: Sequence[list[int]],
    longest: int,
) -> dict[str, float]:
    """CHAIR, recall, and how far what is hallucinated is what was removed."""
    prompts = [[*start, *texts.question(DESCRIBE)] for start in starts]
    pixels = np.stack([scene.pixels for scene in scenes])
    said = [set(mentioned(text)) for text in generate(network, texts, prompts, pixels, longest)]
    there = [set(scene.nouns) for scene in scenes]
    made_up = [words - truth for words, truth in zip(said, there, strict=True)]
    count = sum(map(len, made_up))
    removed = sum(len(m & set(s.removed)) for m, s in zip(made_up, scenes, strict=True))
    chance = sum(
        len(m) * len(s.removed) / (len(NOUNS) - len(s.nouns))
        for m, s in zip(made_up, scenes, strict=True)
    )
    return {
        "chair_s": _rate(sum(map(bool, made_up)), len(scenes)),
        "chair_i": _rate(count, sum(map(len, said))),
        "recall": _rate(
            sum(len(words & truth) for words, truth in zip(said, there, strict=True)),
            sum(map(len, there)),
        ),
        "mentions": _rate(sum(map(len, said)), len(scenes)),
        "removed_share": _rate(removed, count),
        "removed_chance": _rate(chance, count),
    }


def _questions(
    network: Network, texts: Texts, scenes: Sequence[Scene], starts: Sequence[list[int]]
) -> dict[str, float]:
    """Yes or no: accuracy and share of yes, for absent nouns drawn freely or of the context."""
    rng = np.random.default_rng(1)
    names = list(CONTEXTS)
    prompts, rows, there = [], [], []
    for row, scene in enumerate(scenes):
        absent = set(range(len(NOUNS))) - set(scene.nouns)
        near = {noun for place in scene.contexts for noun in CONTEXTS[names[place]]} & absent
        random, adversarial = rng.choice(sorted(absent)), rng.choice(sorted(near or absent))
        for noun in (rng.choice(scene.nouns), random, adversarial):
            prompts.append([*starts[row], *texts.question(ask(int(noun)))])
            rows.append(row)
            there.append(int(noun) in scene.nouns)
    pixels = np.stack([scenes[row].pixels for row in rows])
    logits = torch.cat(
        [
            network.logits(
                _read(network, prompts[at : at + TOGETHER], pixels[at : at + TOGETHER])[0]
            )
            for at in range(0, len(prompts), TOGETHER)
        ]
    )
    said = (logits[:, texts.yes] > logits[:, texts.no]).numpy().reshape(-1, 3)
    present, random, adversarial = said.T
    return {
        "random_accuracy": float((present.mean() + 1 - random.mean()) / 2),
        "adversarial_accuracy": float((present.mean() + 1 - adversarial.mean()) / 2),
        "yes_present": float(present.mean()),
        "yes_random": float(random.mean()),
        "yes_adversarial": float(adversarial.mean()),
    }


def generate(
    network: Network,
    texts: Texts,
    prompts: Sequence[Sequence[int]],
    pixels: np.ndarray[Any, Any],
    longest: int,
) -> list[str]:
    """Answer each prompt with the likeliest token at every step."""
    answers: list[str] = []
    for at in range(0, len(prompts), TOGETHER):
        states, cache, mask = _read(
            network, prompts[at : at + TOGETHER], pixels[at : at + TOGETHER]
        )
        tokens: list[Tensor] = []
        for _ in range(longest):
            tokens.append(network.logits(states).argmax(-1))
            if all((torch.stack(tokens, 1) == texts.end).any(1)):
                break
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            with mixed():
                states = network.language.model(
                    inputs_embeds=network.embedding[tokens[-1]][:, None],
                    attention_mask=mask,
                    position_ids=mask.sum(1, keepdim=True) - 1,
                    **{cache_argument(network.language.model): cache},
                ).last_hidden_state[:, -1]
        for row in torch.stack(tokens, 1).tolist():
            end = row.index(texts.end) if texts.end in row else len(row)
            answers.append(texts.tokenizer.decode(row[:end]))
    return answers


def _read(
    network: Network, prompts: Sequence[Sequence[int]], pixels: np.ndarray[Any, Any]
) -> tuple[Tensor, Any, Tensor]:
    """Read prompts, padded on the left: last states [B, C], the cache, and the mask."""
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
    with mixed():
        out = network.language.model(
            inputs_embeds=network.embed(ids, torch.from_numpy(pixels)),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
        )
    return out.last_hidden_state[:, -1], cache_of(out), mask


def _rate(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
