"""Trains the demonstration's vision-language model: `python python/training/train.py --seed 0`."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the language model comes from its package

import numpy as np
import torch
from network import Network, random_language, read_language
from reattend.evaluation.datasets.emoji_world.world import VERSION
from reattend.models import ModelFile, Tokenizer, find_smollm2
from reattend.models.vision_weights import read_arrays
from reattend.optional import demand
from reattend.whole_file import whole_file
from samples import Texts
from scoring import score
from stages import STAGES, RegisterStage, ShapeStage, Stage

FORMAT = 1
STEPS = {"encoder": 1200, "projector": 300, "language": 700, "registers": 150, "shapes": 200}
BATCH = {"encoder": 24, "projector": 16, "shapes": 6}  # of the others, by kind of sample
WARM_UP = 0.03  # of a stage's steps
LEAST_RATE = 0.02  # of the rate, at the end
LARGEST_GRADIENT = 1.0
LOGGED_EVERY = 20  # steps
SAVED_EVERY = 180.0  # seconds
SCENES = 96  # that each held-out score is measured on


class Run:
    """A training run: where it stands, how to keep it and how to go on."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.seed, self.quick, self.out = arguments.seed, arguments.quick, arguments.out
        self.checkpoint = self.out.with_suffix(".checkpoint")
        self.path = find_smollm2()
        self.texts = Texts(Tokenizer(ModelFile(self.path)))
        language = random_language() if self.quick else read_language(self.path)
        self.stages: tuple[type[Stage], ...] = STAGES
        start: dict[str, Any] = {}
        if arguments.start:
            self.stages = (ShapeStage,) if arguments.shapes else (RegisterStage,)
            start = read_arrays(arguments.start)
        registers = arguments.registers or len(start.get("registers", ()))
        self.network = Network(language, self.seed, registers=registers)
        if start:
            self.network.restore(start)
        self.log: dict[str, list[tuple[int, float]]] = {stage.name: [] for stage in self.stages}
        self.seconds = dict.fromkeys(self.log, 0.0)
        self.stage_number, self.step = 0, 0
        self.kept: dict[str, Any] = {}
        if arguments.resume and self.checkpoint.exists():
            self._restore()

    def train(self) -> None:
        """Run every stage that is left."""
        for number, kind in enumerate(self.stages):
            if number < self.stage_number:
                continue
            if number > self.stage_number:
                self.stage_number, self.step, self.kept = number, 0, {}
            steps, batch = STEPS[kind.name], BATCH.get(kind.name, 0)
            if self.quick:
                steps, batch = 2, 2
            self._run(kind(self.network, self.texts, self.seed, steps, batch))

    def _run(self, stage: Stage) -> None:
        optimizer = torch.optim.AdamW(stage.groups(), weight_decay=0.0)
        rates = [group["lr"] for group in optimizer.param_groups]
        if self.kept:
            stage.restore(self.kept["stage"])
            optimizer.load_state_dict(self.kept["optimizer"])
            self.kept = {}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        mean, saved = None, time.monotonic()
        bar = demand("tqdm").tqdm(
            range(self.step, stage.steps),
            stage.name,
            initial=self.step,
            total=stage.steps,
            mininterval=2,
        )
        for step in bar:
            began = time.process_time()
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step, stage.steps)
            loss = stage.loss(step)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
            optimizer.step()
            mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
            self.seconds[stage.name] += time.process_time() - began
            self.step = step + 1
            if step % LOGGED_EVERY == 0 or self.step == stage.steps:
                self.log[stage.name].append((step, round(mean, 4)))
                bar.set_postfix(loss=f"{mean:.3f}", refresh=False)
            if time.monotonic() - saved > SAVED_EVERY or self.step == stage.steps:
                self._save(stage, optimizer)
                saved = time.monotonic()

    def _save(self, stage: Stage, optimizer: torch.optim.Optimizer) -> None:
        state = {
            "seed": self.seed,
            "quick": self.quick,
            "stage_number": self.stage_number,
            "step": self.step,
            "log": self.log,
            "seconds": self.seconds,
            "learnt": {name: p.detach() for name, p in self.network.learnt().items()},
            "stage": stage.state(),
            "optimizer": optimizer.state_dict(),
        }
        with whole_file(self.checkpoint) as partial:
            torch.save(state, partial)

    def _restore(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        for name in ("seed", "quick"):
            if state[name] != getattr(self, name):
                raise SystemExit(
                    f"{self.checkpoint} was made with {name}={state[name]}, "
                    f"not {getattr(self, name)}: give another --out, or leave out --resume"
                )
        with torch.no_grad():
            for name, parameter in self.network.learnt().items():
                parameter.copy_(state["learnt"][name])
        self.stage_number, self.step = state["stage_number"], state["step"]
        self.log, self.seconds, self.kept = state["log"], state["seconds"], state

    def export(self) -> dict[str, Any]:
        """Score what the file will hold, write it, and give its metadata."""
        arrays = self.network.export()
        broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if broken:
            raise SystemExit(f"not finite in float16: {', '.join(broken)}")
        self.network.restore(arrays)
        metadata = {
            "format": FORMAT,
            "seed": self.seed,
            "world": VERSION,
            "language": self.path.name,
            "language_sha256": hashlib.sha256(self.path.read_bytes()).hexdigest(),
            "steps": {name: STEPS[name] for name in self.log},
            "cpu_seconds": {name: round(seconds) for name, seconds in self.seconds.items()},
            "date": datetime.now(timezone.utc).date().isoformat(),
            "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
            "log": self.log,
            "scores": self._score(),
        }
        whole: Any = {"metadata": np.array(json.dumps(metadata)), **arrays}
        with whole_file(self.out) as partial:
            np.savez_compressed(partial, **whole)
        return metadata

    def _score(self) -> dict[str, dict[str, float]]:
        if ShapeStage in self.stages:
            return {}  # reattend evaluate --kind easy-vqa scores it
        if self.quick:
            return score(self.network, self.texts, 2, longest=3)
        return score(self.network, self.texts, SCENES)


def schedule(step: int, steps: int) -> float:
    """Give the share of the learning rate at a step: up quickly, then down in a line."""
    warm = max(1.0, WARM_UP * steps)
    return min(1.0, (step + 1) / warm) * (1 - (1 - LEAST_RATE) * step / steps)


def main(words: Sequence[str] | None = None) -> None:
    """Train, score and write the weights, as a command line's words say (default: sys.argv's)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the start, scenes and questions")
    parser.add_argument("--out", type=Path, help="weights file (default: seed{SEED}.npz)")
    parser.add_argument(
        "--registers", type=int, default=0, metavar="K",
        help="teach the model of --start to live with K registers, and nothing else",
    )  # fmt: skip
    parser.add_argument(
        "--shapes", action="store_true",
        help="teach the model of --start the shapes of easy-VQA's training split, and nothing else",
    )  # fmt: skip
    parser.add_argument("--start", type=Path, help="weights to start from")
    parser.add_argument("--resume", action="store_true", help="go on where the checkpoint stopped")
    parser.add_argument(
        "--quick", action="store_true", help="seconds, with random weights: a trial"
    )
    parser.add_argument("--threads", type=int, help="for torch (default: its own choice)")
    arguments = parser.parse_args(words)
    if arguments.seed < 0:
        parser.error(f"--seed must be at least 0, got {arguments.seed}")
    if (arguments.registers > 0) + arguments.shapes != bool(arguments.start):
        parser.error("--start FILE goes with either --registers K, at least 1, or --shapes")
    arguments.out = arguments.out or Path(f"seed{arguments.seed}.npz")
    if arguments.out.suffix != ".npz":
        parser.error(f"--out must end with .npz, got {arguments.out}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    run = Run(arguments)
    run.train()
    metadata = run.export()
    print(json.dumps(metadata["scores"], indent=2))
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
