"""Random weights of a vision-language model, as the file of learnt arrays has them."""

import json
from pathlib import Path

import numpy as np
import tiny_llama as tiny

RANK = 8


def arrays(
    rng, *, channels=(8, 8, 16, 16, 16, 16), inner=24, size=tiny.HIDDEN, layers=tiny.LAYERS,
    heads=tiny.HEADS, kv_heads=tiny.KV_HEADS, dim=tiny.DIM, change=0.05,
):  # fmt: skip
    """Give arrays by name; what the language model learnt is as large as ``change``."""

    def normal(*shape, scale=1.0):
        return (rng.standard_normal(shape, dtype=np.float32) * scale).astype(np.float16)

    def matrix(out, width):
        return normal(out, width, scale=width**-0.5)

    named, width = {}, 3
    for index, out in enumerate(channels):
        side, at = 5 if index == 0 else 3, f"encoder.{index}"
        named |= {
            f"{at}.weight": normal(out, width, side, side, scale=(width * side * side) ** -0.5),
            f"{at}.bias": normal(out, scale=0.1),
            f"{at}.norm_weight": 1 + normal(out, scale=0.2),
            f"{at}.norm_bias": normal(out, scale=0.2),
        }
        width = out
    for index, (wide, out) in enumerate([(width, inner), (inner, size)]):
        named[f"projector.{index}.weight"] = matrix(out, wide)
        named[f"projector.{index}.bias"] = normal(out, scale=0.1)
    shapes = {
        "query": (size, heads * dim),
        "value": (size, kv_heads * dim),
        "output": (heads * dim, size),
    }
    for layer in range(layers):
        for name, (wide, out) in shapes.items():
            named[f"lora.{layer}.{name}.down"] = normal(RANK, wide, scale=change)
            named[f"lora.{layer}.{name}.up"] = normal(out, RANK, scale=change)
    return named


def write(path, named, **metadata):
    """Write the file; ``metadata`` goes beside its format."""
    described = np.array(json.dumps({"format": 1, "seed": 0, **metadata}))
    np.savez_compressed(path, metadata=described, **named)
    return Path(path)
