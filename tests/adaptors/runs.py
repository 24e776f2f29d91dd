"""Generations with a model, and what its attention gave in each layer and step."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
from formulas import WrittenOut, written_out
from models import IMAGE, Model
from reattend.adaptors.transformers import attached
from reattend.adaptors.transformers.caches import cache_argument, cache_of
from reattend.methods import ACT, VAR, VHR

METHODS = {
    "VAR": {"sink_dims": (3, 7), "tau": 0.15, "p": 0.3, "rho": 0.3, "image_mass": 0.1},
    "ACT": {"theta": 0.08, "beta": 0.4},
    "VHR": {"alpha": 2.0, "layers": (1, 3, 4)},
}
TOLERANCE = 5e-5  # float32, through all layers, relative to the largest output of the layer
KINDS = {"VAR": VAR, "ACT": ACT, "VHR": VHR}


def generate(model: Any, inputs: dict[str, Any], steps: int, **options: Any) -> Any:
    """Generate greedily; gives tokens and logits."""
    return model.generate(
        **inputs, max_new_tokens=steps, do_sample=False, output_logits=True,
        return_dict_in_generate=True, **options,
    )  # fmt: skip


def tokens(model: Any, inputs: dict[str, Any], steps: int, **options: Any) -> list[list[int]]:
    """Generate greedily; gives the new tokens of each item."""
    found = generate(model, inputs, steps, **options).sequences[:, -steps:]
    return [row.tolist() for row in found]


@contextmanager
def watched(session: Any):  # type: ignore[no-untyped-def]
    """Record what goes into each layer's output projection [B, N, H Dv]."""
    records, hooks = [], []
    for module in session.structure.attention.values():

        def keep(module, args):  # type: ignore[no-untyped-def]
            records.append(args[0].detach().double().numpy())

        projection = getattr(module, "o_proj", None) or module.out_proj
        hooks.append(projection.register_forward_pre_hook(keep))
    try:
        yield records
    finally:
        for hook in hooks:
            hook.remove()


def attached_run(
    case: Model, name: str, inputs: dict[str, Any], steps: int, how: Any = None
) -> Any:
    """Generate with a method attached; gives tokens, each step's layers, and the session."""
    model = case.load()
    with (
        attached(
            model, KINDS[name](**(how or METHODS[name])), image=_text_image(case, inputs)
        ) as session,
        watched(session) as records,
    ):
        found = tokens(model, inputs, steps)
    return found, records[-steps * session.structure.num_layers :], session


def formula_run(case: Model, name: str, inputs: dict[str, Any], steps: int, how: Any = None) -> Any:
    """The same with attention written out on the full matrix."""
    model = case.load()
    image = _text_image(case, inputs)
    holders = (inputs["input_ids"] == IMAGE).numpy() if image is None else image
    image = case.shown(inputs["input_ids"]).numpy() if image is None else image
    methods = {name: how or METHODS[name]}
    attention = WrittenOut(model, methods, image if image.any() else None, holders)
    with written_out(model, attention, inputs):
        found = tokens(model, inputs, steps)
    flat = [record.reshape(*record.shape[:2], -1) for record in attention.records]
    return found, flat[-steps * attention.num_layers :], attention


def held(model: Any, out: Any) -> dict[str, Any]:
    """Give the cache of an output as an argument of the next forward."""
    return {cache_argument(model): cache_of(out)}


def check_formula(
    case: Model, name: str, inputs: dict[str, Any], steps: int, how: Any = None
) -> Any:
    """Check each layer's outputs, of the prompt and of each step, against the formula's."""
    expected_tokens, expected, attention = formula_run(case, name, inputs, steps, how)
    found_tokens, found, session = attached_run(case, name, inputs, steps, how)
    assert attention.changed[name] >= 6, "the formula must have something to do"
    assert found_tokens == expected_tokens
    assert len(found) == len(expected) == steps * session.structure.num_layers
    valid = inputs["attention_mask"].bool().numpy()
    for ours, theirs in zip(found, expected, strict=True):
        rows = valid if ours.shape[1] > 1 else np.ones((len(ours), 1), bool)
        assert np.abs(ours - theirs)[rows].max() < TOLERANCE * max(1, np.abs(theirs[rows]).max())
    return session


def _text_image(case: Model, inputs: dict[str, Any]) -> Any:
    """Give text models a span of keys to take for an image, or they would have nothing to do."""
    if case.image:
        return None
    image = np.zeros(inputs["input_ids"].shape, bool)
    image[:, -9:-2] = True
    return image
