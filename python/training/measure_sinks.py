"""Measures visual sinks of trained weights: `python python/training/measure_sinks.py FILE`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from network import IMAGE, Network, read_network
from reattend.evaluation.datasets.emoji_world import DESCRIBE, World, filler
from reattend.models import ModelFile, Tokenizer, find_smollm2
from reattend.optional import demand
from reattend.sinks import column_sinks, massive_activations, sink_dims, sink_score
from samples import FILLER_WORDS, SETTINGS, Texts

TAU = 20.0  # VAR's: a token whose phi is above it is a sink
THETA = 0.1  # ACT's: a key whose mean attention is above it is a sink; the first key aside


class Reading(NamedTuple):
    """What one prompt shows in every layer."""

    states: Any  # float32 [L, N, C], entering each layer
    column_means: Any  # float32 [L, H, N]: mean attention of the rows that may see a key
    image_mass: Any  # float32 [L, H]: of the rows after the image
    image: Any  # bool [N]


@torch.no_grad()
def read(network: Network, texts: Texts, index: int, setting: str) -> Reading:
    """Read a prompt that asks for a description of a conflict scene of split 'tune'."""
    difficulty, objects, with_filler = SETTINGS[setting]
    scene = World(split="tune").scene(index, difficulty=difficulty, conflict=True, objects=objects)
    rng = np.random.default_rng(index)
    before = filler(rng, int(rng.integers(*FILLER_WORDS))) if with_filler else None
    ids = torch.tensor([[*texts.start(before), *texts.question(DESCRIBE)]])
    out = network.language.model(
        inputs_embeds=network.embed(ids, torch.from_numpy(scene.pixels[None])),
        output_hidden_states=True,
        output_attentions=True,
    )
    weights = torch.cat(out.attentions)  # [L, H, N, N]
    image = (ids[0] == IMAGE).numpy()
    rows = torch.arange(weights.shape[-1], 0, -1)  # that may see each key
    after = int(np.flatnonzero(image)[-1]) + 1
    return Reading(
        torch.cat(out.hidden_states[:-1]).numpy(),
        (weights.sum(-2) / rows).numpy(),
        weights[:, :, after:, image].sum(-1).mean(-1).numpy(),
        image,
    )


def summarise(readings: list[Reading], dims: list[int]) -> list[dict[str, Any]]:
    """Give each layer's numbers over all prompts."""
    layers = []
    for layer in range(len(readings[0].states)):
        phi = [sink_score(r.states[None, layer], dims)[0] for r in readings]
        on_image = np.stack([p[r.image] for p, r in zip(phi, readings, strict=True)])  # [S, 100]
        means = np.stack([r.column_means[layer][:, r.image] for r in readings])  # [S, H, 100]
        first = np.stack([r.column_means[layer][:, 0] for r in readings])
        mass = np.stack([r.image_mass[layer] for r in readings])
        layers.append(
            {
                "layer": layer,
                "phi_first": round(float(np.median([p[0] for p in phi])), 2),
                "phi_image_max": round(float(on_image.max()), 2),
                "phi_image_median": round(float(np.median(on_image)), 2),
                "image_tokens_above_tau": round(float((on_image > TAU).sum(1).mean()), 3),
                "column_mean_image_max": round(float(means.max()), 3),
                "column_mean_head": int(means.max((0, 2)).argmax()),
                "column_sinks_on_image": round(
                    float(column_sinks(means, THETA).sum((1, 2)).mean()), 3
                ),
                "column_mean_first": round(float(first.mean()), 3),
                "image_mass": round(float(mass.mean()), 3),
                "image_mass_head": round(float(mass.mean(0).max()), 3),
            }
        )
    return layers


def main() -> None:
    """Measure, print a table and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="what train.py wrote")
    parser.add_argument("--scenes", type=int, default=16, help="of each setting (default: 16)")
    parser.add_argument("--json", type=Path, help="where the numbers go as well")
    arguments = parser.parse_args()
    if arguments.scenes < 1:
        parser.error(f"--scenes must be at least 1, got {arguments.scenes}")
    path = find_smollm2()
    network = read_network(path, arguments.weights)
    network.language.set_attn_implementation("eager")  # gives its weights
    texts = Texts(Tokenizer(ModelFile(path)))
    results: dict[str, Any] = {}
    for setting in SETTINGS:
        indices = demand("tqdm").tqdm(range(arguments.scenes), setting)
        readings = [read(network, texts, index, setting) for index in indices]
        dims = sorted(
            {int(d) for r in readings for d in np.flatnonzero(sink_dims(r.states).any(0))}
        )
        massive = [massive_activations(r.states)[:, r.image] for r in readings]
        results[setting] = {
            "sink_dims": dims,
            "massive_on_image": sorted({int(d) for m in massive for d in np.argwhere(m)[:, 2]}),
            "layers": summarise(readings, dims),
        }
        _show(setting, results[setting])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def _show(setting: str, result: dict[str, Any]) -> None:
    print(f"\n{setting}: sink dimensions {result['sink_dims']}, on image tokens:")
    print(f"massive in dimensions {result['massive_on_image']}")
    names = list(result["layers"][0])
    print(" | ".join(names))
    for layer in result["layers"]:
        print(" | ".join(f"{layer[name]:>{len(name)}}" for name in names))


if __name__ == "__main__":
    main()
