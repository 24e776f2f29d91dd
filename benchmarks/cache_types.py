"""What a KVCache's type costs in exactness, on a real language model.

python benchmarks/cache_types.py              a table, about half a minute
python benchmarks/cache_types.py --quick      a short prompt and few steps

SmolLM2-135M reads a piece of the licence and goes on. Each type reads the tokens that float32
chose, so that every step compares the same thing: attention outputs of each layer, and the
likeliest token.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple

TYPES = ("float32", "float16", "bfloat16", "int8", "int4")
TEXT = Path(__file__).parent.parent / "LICENSE"
STARTS = (0, 1200)  # tokens of the text before each prompt


class Answer(NamedTuple):
    tokens: list[int]  # the likeliest at each step
    outputs: Any  # attention's, of the last row at each step [steps, L, H D]
    mib: float  # that the cache takes


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a short prompt and few steps")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import numpy as np
    from reattend import models

    length, steps = (40, 4) if options.quick else (512, 32)
    file = models.ModelFile(models.find_smollm2())
    model, tokenizer = models.read_llama(file), models.Tokenizer(file)
    text = tokenizer.encode(TEXT.read_text())
    prompts = [text[start : start + length] for start in STARTS]
    exact = [answer(model, prompt, steps, "float32") for prompt in prompts]
    print("| cache | MiB | rms error, median layer | worst layer | same tokens |")
    print("| --- | --- | --- | --- | --- |")
    for kind in TYPES:
        found = [
            answer(model, prompt, steps, kind, right.tokens)
            for prompt, right in zip(prompts, exact, strict=True)
        ]
        right = np.concatenate([each.outputs for each in exact])
        off = np.concatenate([each.outputs for each in found]) - right
        error = np.sqrt((off**2).mean((0, 2)) / (right**2).mean((0, 2)))  # [L]
        pairs = [
            (one, other)
            for each, same in zip(found, exact, strict=True)
            for one, other in zip(each.tokens, same.tokens, strict=True)
        ]
        same = sum(one == other for one, other in pairs)
        print(
            f"| {kind} | {found[0].mib:.1f} | {np.median(error):.1e} | {error.max():.1e} "
            f"| {same} of {len(pairs)} |"
        )
    return 0


def answer(
    model: Any, prompt: list[int], steps: int, kind: str, given: list[int] | None = None
) -> Answer:
    """Answer greedily, or read given tokens, with a cache of a type."""
    import numpy as np
    from reattend import KVCache, Session

    class Watched(Session):
        """Keeps each layer's output of the last row."""

        def attend(self, layer: int, *arrays: Any, **options: Any) -> Any:
            out = super().attend(layer, *arrays, **options)
            outputs.append(out[0, :, -1].copy())
            return out

    layers = model.config.num_layers
    cache = KVCache(layers, dtype=kind, capacity=len(prompt) + steps)
    session = Watched([], num_layers=layers)
    tokens: list[int] = []
    outputs: list[Any] = []
    with session.generation(prompt_len=len(prompt)):
        ids = np.array([prompt])
        for step in range(steps):
            tokens.append(int(model.logits(model(ids, cache, session)[:, -1]).argmax()))
            ids = np.array([[tokens[-1] if given is None else given[step]]])
    return Answer(tokens, np.stack(outputs).reshape(steps, layers, -1), cache.nbytes / 2**20)


if __name__ == "__main__":
    raise SystemExit(main())
