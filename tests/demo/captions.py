"""Compares captions token by token: with the fused pass, and on the full matrix.

    python tests/demo/captions.py --captions 500

takes the weights that are shipped, and scenes of the test split. The suite compares a few.
"""

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
