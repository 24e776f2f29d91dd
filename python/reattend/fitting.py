"""Whether methods fit a model and a prompt: said before anything is computed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from reattend.call import Prompt
from reattend.checks import listed
from reattend.head_set import check_heads
from reattend.layer_set import check_layers
from reattend.method import Method, integers


def fitted(
    methods: Any, num_layers: int, num_heads: int | None, hidden_size: int | None = None
) -> tuple[Method, ...]:
    """Give methods as a tuple, once each has been found to fit a model.

    Parameters
    ----------
    methods : Method or sequence of Method
        What is to be applied.
    num_layers : int
        Of the model.
    num_heads, hidden_size : int or None
        Of the model; None where they are not known.

    Raises
    ------
    TypeError
        If one is no method.
    ValueError
        If one has parameters that cannot be meant for such a model.

    Examples
    --------
    >>> fitted((), 32, None)
    ()
    """
    # A class is no sequence either, and is named as what it is.
    single = isinstance(methods, (Method, type, str))
    what = "Method instances"
    found = (methods,) if single else listed("methods", methods, what)
    for method in found:
        if not isinstance(method, Method):
            hint = ""
            if isinstance(method, type) and issubclass(method, Method):
                hint = f"; write {method.__name__}()"
            raise TypeError(f"methods must be Method instances, got {method!r}{hint}")
        if method.profile is not None:
            method.profile.check_sizes(num_layers, num_heads, hidden_size)
        _check_places(method, num_layers, num_heads)
        method.check_model(num_layers, num_heads, hidden_size)
    return found


def cross_layers_of(layers: Any, num_layers: int, methods: Sequence[Method]) -> frozenset[int]:
    """Give the layers of cross-attention, once methods are found to say what they do there.

    Parameters
    ----------
    layers : iterable of int
        The layers.
    num_layers : int
        Of the model.
    methods : sequence of Method
        What is to be applied.

    Raises
    ------
    TypeError, ValueError
        If they are no layers of the model, or a method does not know cross-attention.

    Examples
    --------
    >>> cross_layers_of((1, 3), 4, ())
    frozenset({1, 3})
    """
    found = frozenset(integers("cross_layers", layers))
    if any(not 0 <= layer < num_layers for layer in found):
        raise ValueError(f"cross_layers must be from 0 to {num_layers - 1}, got {sorted(found)}")
    without = sorted({type(m).__name__ for m in methods if not m.knows_cross}) if found else []
    if without:
        raise ValueError(
            f"{' and '.join(without)} does not say what it does in cross-attention, where all keys "
            f"are an image's, as in layers {sorted(found)}: leave it out"
        )
    return found


def _check_places(method: Method, num_layers: int, num_heads: int | None) -> None:
    """Refuse heads and layers that a model has not, in the forms that all methods keep them in."""
    heads, layers = getattr(method, "heads", None), getattr(method, "layers", None)
    if isinstance(heads, tuple) and all(_is_pair(each) for each in heads):
        check_heads(heads, num_layers, num_heads)
    if isinstance(layers, tuple) and all(type(each) is int for each in layers):
        check_layers(layers, num_layers)


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], tuple)


def warn_without_image(methods: Sequence[Method], prompt: Prompt, stacklevel: int) -> bool:
    """Warn of methods that do nothing because the prompt has no image; say whether it did.

    Parameters
    ----------
    methods : sequence of Method
        Those of a session.
    prompt : Prompt
        That begins.
    stacklevel : int
        Of the frame that the warning is about, counted from the caller.

    Examples
    --------
    >>> warn_without_image((), Prompt(3), stacklevel=1)
    False
    """
    if prompt.image is not None and prompt.image.any():
        return False
    branch = prompt.text_outputs is not None or prompt.text_only is not None
    idle = sorted(
        {
            type(method).__name__
            for method in methods
            if method.needs_image and not (method.needs_text_only and branch)
        }
    )
    if idle:
        warnings.warn(
            f"{' and '.join(idle)} will change nothing: the prompt has no image; pass "
            "session.generation(image=mask), True at the prompt's image tokens",
            stacklevel=stacklevel + 1,
        )
    return bool(idle)
