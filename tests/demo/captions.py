"""Compares captions token by token: with the fused pass, and on the full matrix.

    OMP_WAIT_POLICY=passive python tests/demo/captions.py --count 500

takes the weights that are shipped, and scenes of the test split. The suite compares a few.
"""

import argparse

import numpy as np
from eager import EagerSession
from reattend import Session


def captions(model, session, prompts, pixels, *, max_new_tokens, stop=None):
    """Give the tokens of each answer up to its end, as lists."""
    stop = model.tokenizer.stop if stop is None else stop
    steps = model.generate(session, prompts, pixels, max_new_tokens=max_new_tokens, stop=stop)
    answers = np.stack(list(steps), axis=1).tolist()
    ends = [next((i + 1 for i, t in enumerate(a) if t in stop), len(a)) for a in answers]
    return [answer[:end] for answer, end in zip(answers, ends, strict=True)]


def compare_captions(model, method, prompts, pixels, *, batch=16, max_new_tokens=64, stop=None):
    """Give the captions that differ, (which, ours, the full matrix's), and how much was changed."""
    different, changed = [], 0
    for start in range(0, len(prompts), batch):
        some = slice(start, start + batch)
        num_layers = model.llama.config.num_layers
        eager = EagerSession(method, num_layers=num_layers)
        ours, theirs = (
            captions(
                model, session, prompts[some], pixels[some],
                max_new_tokens=max_new_tokens, stop=stop,
            )
            for session in (Session(method, num_layers=num_layers), eager)
        )  # fmt: skip
        pairs = enumerate(zip(ours, theirs, strict=True), start)
        different += [(index, mine, other) for index, (mine, other) in pairs if mine != other]
        changed += eager.changed
    return different, changed


def main():
    """Compare each method at its paper's strength, and exit with 1 if a caption differs."""
    from reattend.evaluation.datasets.emoji_world import DESCRIBE, World
    from reattend.evaluation.loading import load
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="captions of each method")
    parser.add_argument("--batch", type=int, default=32, help="captions side by side")
    options = parser.parse_args()
    loaded, world = load()._replace(profile=None), World(split="test")  # the papers' strengths
    model, wrong = loaded.model, 0
    for name in ("var", "vhr", "act"):
        (method,) = loaded.methods(name)
        different, changed = [], 0
        for start in tqdm(range(0, options.count, options.batch), name, unit="batch"):
            some = range(start, min(start + options.batch, options.count))
            pixels = np.stack([world.scene(index, conflict=True).pixels for index in some])
            prompts = [model.prompt(DESCRIBE)] * len(some)
            found, more = compare_captions(model, method, prompts, pixels, batch=options.batch)
            different += [(start + index, *texts) for index, *texts in found]
            changed += more
        print(f"{method}: {len(different)} of {options.count} differ; {changed:,} changed")
        for index, ours, theirs in different:
            print(f"  {index}: {model.tokenizer.decode(ours)}")
            print(f"  {' ' * len(str(index))}  {model.tokenizer.decode(theirs)}")
        wrong += len(different)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
