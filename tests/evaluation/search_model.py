"""A small random decoder, prompts with pictures and padding, and a search that can be killed."""

import sys
import time
from pathlib import Path

import numpy as np
from reattend import ACT
from reattend.evaluation.calibration import (
    PromptBatch,
    PromptScores,
    head_candidates,
    search_heads,
    search_profile,
)
from reattend.models import Config, Layer, Llama

LAYERS, HEADS, PROMPTS, LENGTH = 9, 4, 10, 24


def model(seed=0):
    rng, width, inner = np.random.default_rng(seed), 32, 48

    def weight(*shape, scale=None):
        drawn = rng.standard_normal(shape, dtype=np.float32)
        return drawn / np.float32(scale or shape[0] ** 0.5)

    config = Config(num_layers=LAYERS, num_heads=HEADS, num_kv_heads=2, head_dim=8,
                    hidden_size=width)  # fmt: skip
    ones = np.ones(width, np.float32)
    layers = [
        Layer(ones, weight(width, 64, scale=1.5), weight(32, width), ones,
              weight(width, 2 * inner), weight(inner, width))
        for _ in range(LAYERS)
    ]  # fmt: skip
    return Llama(config, layers, weight(width, 60, scale=1.0), ones)


def batches(llama, seed=0):
    """Two batches of prompts: the second one padded on the left."""
    rng, found = np.random.default_rng(seed), []
    for padded in (False, True):
        inputs = llama.embed(rng.integers(0, 60, (PROMPTS // 2, LENGTH)))
        lengths = rng.integers(LENGTH // 2, LENGTH, PROMPTS // 2)
        mask = np.arange(LENGTH) >= LENGTH - lengths[:, None] if padded else None
        image = np.zeros(inputs.shape[:2], bool)
        image[:, LENGTH - 10 : LENGTH - 4] = True
        wanted = rng.integers(0, 60, PROMPTS // 2)

        def score(logits, items, wanted=wanted):
            return logits[np.arange(len(items)), wanted[items]]

        found.append(PromptBatch(inputs, mask, image, score))
    return found


def scores(seed=0, switch=None, **options):
    llama = model()
    return PromptScores(
        llama, batches(llama, seed), switch or (lambda heads: ACT(heads=heads, theta=0.1)),
        together=7, identity={"model": "random", "data": seed}, **options,
    )  # fmt: skip


def search(journal, profile, told=lambda *_: None, strategy="forward"):
    """Search, and write what was found; ``told`` is the progress."""
    llama = model()
    found = search_heads(
        scores(), head_candidates(LAYERS, HEADS), strategy=strategy, most=6, journal=journal,
        confirm=scores(seed=1), progress=told,
    )  # fmt: skip
    made = search_profile(found, ACT(theta=0.1), llama, data={"seed": 0}, created="2026-01-01")
    return made.save(profile)


if __name__ == "__main__":
    folder = Path(sys.argv[1])

    def say(done, whole, so_far):
        print(done, flush=True)
        time.sleep(0.01)  # the model is small: pieces last long enough to be killed in

    try:
        search(folder / "run.jsonl", folder / "found.json", say)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
