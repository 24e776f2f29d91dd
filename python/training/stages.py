"""The three stages of training: name what is seen, speak the nouns' language, answer."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import torch
from network import REGISTER_SCALE, WIDTH, Network, mixed
from reattend.evaluation.datasets.easy_vqa import read_questions
from reattend.evaluation.datasets.emoji_world import NOUNS, World
from reattend.evaluation.datasets.emoji_world.world import CELL
from samples import IGNORE, Batch, Texts, draw_batch, draw_difficulty, draw_shapes
from torch import Tensor, nn
from torch.nn import functional

BACKGROUND = len(NOUNS)  # the class of a patch that shows nothing
PATCHES = 10  # of a side
SHAPES = 4000  # pictures of easy-VQA's training split: all of them
Groups = list[dict[str, Any]]


class Stage:
    """A part of training: what it learns, how fast, and the loss of a step.

    A step's samples follow from seed, stage and step alone, so that a resumed run goes on as if it
    had not stopped.
    """

    name: str
    number: int
    batch: int

    def __init__(self, network: Network, texts: Texts, seed: int, steps: int, batch: int) -> None:
        self.network, self.texts = network, texts
        self.seed, self.steps, self.batch = seed, steps, batch
        self.world = World(seed=seed, split="train")

    def groups(self) -> Groups:
        """Give the parameters that are learnt, with their learning rates."""
        raise NotImplementedError

    def loss(self, step: int) -> Tensor:
        """Draw a step's samples and give their loss."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Give what must be kept besides the network."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""

    def _rng(self, step: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.number, step])

    def _named(self, step: int) -> tuple[Tensor, Tensor]:
        """Draw pictures of many things, and what each patch shows."""
        rng = self._rng(step)
        things = World(seed=self.seed, split="train", cooccurrence=0.0)
        first = 10_000_000 * self.number + 100 * step
        scenes = [
            things.scene(first + place, difficulty=draw_difficulty(rng), objects=(10, 14))
            for place in range(self.batch)
        ]
        labels = np.full((self.batch, PATCHES, PATCHES), BACKGROUND)
        for scene, label in zip(scenes, labels, strict=True):
            for noun, (left, top, right, bottom) in zip(scene.nouns, scene.boxes, strict=True):
                row, column = (top + bottom) // 2 // CELL * 2, (left + right) // 2 // CELL * 2
                label[row : row + 2, column : column + 2] = noun
        pixels = np.stack([scene.pixels for scene in scenes])
        return torch.from_numpy(pixels), torch.from_numpy(labels.reshape(self.batch, -1))


class EncoderStage(Stage):
    """The encoder names the thing at each of its patches."""

    name, number = "encoder", 1
    rate = 2e-3
    background_weight = 0.1

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.head = nn.Linear(WIDTH, BACKGROUND + 1)
        self.weight = torch.ones(BACKGROUND + 1)
        self.weight[BACKGROUND] = self.background_weight

    def groups(self) -> Groups:
        """Learn the encoder and a layer that is thrown away afterwards."""
        parameters = [*self.network.encoder.parameters(), *self.head.parameters()]
        return [{"params": parameters, "lr": self.rate, "weight_decay": 0.02}]

    def loss(self, step: int) -> Tensor:
        """Cross-entropy of every patch."""
        pixels, labels = self._named(step)
        with mixed():
            features = self.network.encoder(pixels)
        classes = self.head(features.float())
        return functional.cross_entropy(classes.flatten(0, 1), labels.flatten(), self.weight)

    def state(self) -> dict[str, Any]:
        """Keep the layer that names."""
        return self.head.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.head.load_state_dict(state)


class ProjectorStage(Stage):
    """The projector maps a patch to the mean token embedding of what it shows."""

    name, number = "projector", 2
    rate = 1e-3
    background_norm = 0.3  # a patch that shows nothing is a faint full stop

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        nothing = self.background_norm * self._mean(".")
        self.wanted = torch.stack([*(self._mean(f" {noun}") for noun in NOUNS), nothing])
        self.size = self.wanted[:-1].square().sum(-1).mean()

    def groups(self) -> Groups:
        """Learn the projector alone."""
        return [{"params": [*self.network.projector.parameters()], "lr": self.rate}]

    def loss(self, step: int) -> Tensor:
        """Squared distance, as a share of the embeddings' squared norm."""
        pixels, labels = self._named(step)
        with torch.no_grad(), mixed():
            features = self.network.encoder(pixels)
        given = self.network.project(features.float())
        return (given - self.wanted[labels]).square().sum(-1).mean() / self.size

    def _mean(self, word: str) -> Tensor:
        return self.network.embedding[list(self.texts.encode(word))].mean(0)


RATES = {"lora": 1e-3, "projector": 5e-4, "encoder": 1e-4}  # of the last stage


class LanguageStage(Stage):
    """All of it answers: the loss is that of the answers' tokens."""

    name, number = "language", 3

    def groups(self) -> Groups:
        """Learn all of it, what is new fastest."""
        learnt = self.network.learnt().items()
        return [
            {"params": [p for name, p in learnt if name.startswith(part)], "lr": rate}
            for part, rate in RATES.items()
        ]

    def loss(self, step: int) -> Tensor:
        """Cross-entropy of the answers' tokens."""
        batch = self._draw(step)
        asked = batch.targets != IGNORE
        with mixed():
            states = self.network.language.model(
                inputs_embeds=self.network.embed(batch.ids, batch.pixels),
                attention_mask=batch.mask,
                position_ids=batch.positions,
                use_cache=False,
            ).last_hidden_state
            logits = self.network.logits(states[asked])
        return functional.cross_entropy(logits, batch.targets[asked])

    def _draw(self, step: int) -> Batch:
        return draw_batch(self._rng(step), self.texts, self.world, step, self.batch)


class RegisterStage(LanguageStage):
    """A model that can answer already gets registers, and learns to answer with them.

    They start as what the first key's state is where sinks have formed, so that they draw attention
    as it does, and are learnt from there.
    """

    name, number = "registers", 4
    slower = 0.3  # than the stage before
    rate = 1e-3
    formed = 4  # the layer that the first key enters as a sink

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        registers = self.network.registers
        with torch.no_grad(), mixed():
            first = self.texts.start()[:1]
            out = self.network.language.model(
                inputs_embeds=self.network.embedding[first][None], output_hidden_states=True
            )
            registers[:] = out.hidden_states[self.formed][0, 0].float() / REGISTER_SCALE

    def groups(self) -> Groups:
        """Learn registers, and all else slowly."""
        groups = [{**group, "lr": self.slower * group["lr"]} for group in super().groups()]
        return [*groups, {"params": [self.network.registers], "lr": self.rate}]


class ShapeStage(LanguageStage):
    """A model that can answer learns others' pictures and questions: those of easy-VQA."""

    name, number = "shapes", 5

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        asked = groupby(read_questions(SHAPES, "train"), lambda question: question.picture)
        self.pictures = [[*questions] for _, questions in asked]

    def _draw(self, step: int) -> Batch:
        return draw_shapes(self._rng(step), self.texts, self.pictures, self.batch)


STAGES = (EncoderStage, ProjectorStage, LanguageStage)
