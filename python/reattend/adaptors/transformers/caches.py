"""What transformers calls a model's cache: `cache` since 5.24, `past_key_values` before."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import cast

from reattend.adaptors.transformers.protocols import Cache, Model

_NEW, _OLD = "cache", "past_key_values"


def cache_argument(model: Model) -> str:
    """Give the name by which a model takes its cache.

    Parameters
    ----------
    model : transformers.PreTrainedModel

    Examples
    --------
    >>> class Model:
    ...     def forward(self, input_ids, past_key_values=None): ...
    >>> cache_argument(Model())
    'past_key_values'
    """
    return _NEW if _NEW in signature(model.forward).parameters else _OLD


def cache_of(values: Mapping[str, object]) -> Cache | None:
    """Give the cache among a forward's arguments, or of its output; None if there is none.

    Parameters
    ----------
    values : mapping of str
        By either name.

    Examples
    --------
    >>> cache_of({"past_key_values": 1}), cache_of({"cache": 2}), cache_of({})
    (1, 2, None)
    """
    found = values.get(_NEW)
    return cast("Cache | None", values.get(_OLD) if found is None else found)


def window_of(cache: Cache | None, layer: int) -> int | None:
    """Give how many keys a cache keeps of a layer; None where it keeps all.

    Parameters
    ----------
    cache : transformers.Cache, optional
    layer : int

    Examples
    --------
    >>> window_of(None, 0) is None
    True
    """
    layers = getattr(cache, "layers", ())
    kept = layers[layer] if layer < len(layers) else None
    if kept is None or not getattr(kept, "is_sliding", False):
        return None
    return int(getattr(kept, "sliding_window", None) or kept.max_cache_len)
