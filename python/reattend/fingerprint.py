"""What tells a model from others: its sizes, and a checksum of some of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from reattend.policy import Array

__all__ = ["fingerprint"]

_SAMPLED = 64  # numbers that are read of each weight


def fingerprint(model: Any) -> dict[str, Any]:
    """Say which model this is: class, sizes, and a checksum over some numbers of every weight.

    Numbers are rounded to bfloat16 first, so that a model is itself in float32, in bfloat16, and
    in the float16 that it may come in.

    Parameters
    ----------
    model : torch.nn.Module, or a model of `reattend.models`
        What is to be told from others; or what this function gave, which comes back.

    Returns
    -------
    dict
        ``architecture``, ``num_layers``, ``num_heads``, ``hidden_size`` (None where the model's
        config does not say) and ``weights``, as JSON can hold them.

    Raises
    ------
    TypeError
        If it has no weights that could be read.

    Examples
    --------
    >>> from reattend.models import Config, Layer, Llama
    >>> def model(weight):
    ...     config = Config(num_layers=1, num_heads=2, num_kv_heads=2, head_dim=2, hidden_size=4)
    ...     sizes = (4,), (4, 12), (4, 4), (4,), (4, 12), (6, 4)
    ...     layer = Layer(*(np.full(size, weight, np.float32) for size in sizes))
    ...     return Llama(config, [layer], np.ones((4, 9), np.float32), np.ones(4, np.float32))
    >>> one = fingerprint(model(0.5))
    >>> one["architecture"], one["num_heads"], one["hidden_size"]
    ('Llama', 2, 4)
    >>> one == fingerprint(model(0.5)), one == fingerprint(model(0.25))
    (True, False)
    """
    if isinstance(model, Mapping):
        return dict(model)
    found, count = hashlib.sha256(), 0
    for name, shape, some in _weights(model):
        found.update(f"{name} {shape}".encode() + _bfloat16(some).tobytes())
        count += 1
    if not count:
        raise TypeError(
            "model must be a torch module or a model of reattend.models, with weights, "
            f"got {type(model).__name__}"
        )
    return {"architecture": type(model).__name__, **_sizes(model), "weights": found.hexdigest()}


def _weights(model: Any) -> Iterator[tuple[str, tuple[int, ...], Array]]:
    """Give name, shape and some numbers of each weight."""
    if hasattr(model, "named_parameters"):
        for name, weight in model.named_parameters():
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, len(flat) // _SAMPLED)]
            yield name, tuple(weight.shape), some.float().cpu().numpy()
        return
    for name, weight in _arrays("", model):
        flat = weight.reshape(-1)
        yield name, weight.shape, flat[:: max(1, len(flat) // _SAMPLED)].astype(np.float32)


def _arrays(name: str, thing: Any) -> Iterator[tuple[str, Array]]:
    """Find the arrays of floats of a NumPy model, in the parts that it is made of."""
    if isinstance(thing, np.ndarray):
        if thing.dtype.kind == "f":
            yield name, thing
    elif isinstance(thing, (list, tuple)):
        for place, each in enumerate(thing):
            yield from _arrays(f"{name}.{place}", each)
    elif type(thing).__module__.startswith("reattend.models"):
        for inner, each in sorted(vars(thing).items()):
            yield from _arrays(f"{name}.{inner}", each)


def _bfloat16(numbers: Array) -> Array:
    """Round float32 to nearest, ties to even, and keep the upper half of the bits."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype("<u2")


def _sizes(model: Any) -> dict[str, int | None]:
    config: Any = getattr(getattr(model, "llama", model), "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    names = {
        "num_layers": ("num_layers", "num_hidden_layers"),
        "num_heads": ("num_heads", "num_attention_heads"),
        "hidden_size": ("hidden_size",),
    }

    def first(some: tuple[str, ...]) -> int | None:
        values = (getattr(config, each, None) for each in some)
        return next((value for value in values if isinstance(value, int)), None)

    return {name: first(some) for name, some in names.items()}
