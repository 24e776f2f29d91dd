"""One layer's attention: from what transformers passes to what `Session.attend` takes, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reattend.adaptors.transformers.masks import Form, recognised
from reattend.adaptors.transformers.prompts import Prompt
from reattend.adaptors.transformers.tensors import floats, numbers, output_like
from reattend.attention import attention
from reattend.optional import demand
from reattend.policy import Array
from reattend.session import Session


@dataclass(eq=False)
class Forward:
    """One forward of the decoder."""

    past: int = 0  # keys that the cache held before
    prompt: Prompt | None = None  # None: no methods, or the text-only branch
    text: bool = False  # whether it is the text-only branch, or the search for sink dimensions
    text_session: Session | None = None
    states: Any = None  # tensor that entered the layer that runs
    forms: list[tuple[Any, int | None, Form]] = field(default_factory=list)  # of masks seen


def attend(
    forward: Forward,
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    padding: Array | None,
    options: dict[str, Any],
) -> Any:
    """Compute a layer's attention as a forward wants it.

    Parameters
    ----------
    forward : Forward
    module : torch.nn.Module
        The attention module.
    query, key, value : torch.Tensor
        [B, H, N, D], [B, H_kv, M, D], [B, H_kv, M, Dv].
    mask : torch.Tensor, optional
        [B, 1, N, M], bool or added to the scores. None: plain causal.
    padding : array of bool [B, at most all keys], optional
        The forward's 2-D attention mask.
    options : dict
        What else the model passes to its attention.

    Returns
    -------
    torch.Tensor [B, N, H, Dv]
    """
    _refuse(module, query, options)
    rows, slots = query.shape[2], key.shape[2]
    total = forward.past + rows
    dropped = max(0, total - slots)  # by a sliding cache
    length = total - dropped  # static caches have empty slots behind
    if slots > length:
        key, value = key[:, :, :length], value[:, :, :length]
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    form = _form(forward, mask, padding, options.get("sliding_window"), bool(causal), query, length)
    sink = options.get("s_aux")
    (query_, key_, value_), dtype = numbers(query, key, value)
    exact = query_.dtype == np.float32 or sink is not None
    tensor, out = output_like(query, value, exact=exact)
    how = {
        "scale": options.get("scaling"), "softcap": options.get("softcap"),
        "num_threads": demand("torch").get_num_threads(), "dtype": dtype, **form.arguments(),
    }  # fmt: skip
    session = forward.prompt.session if forward.prompt is not None else forward.text_session
    logsumexp = None
    if session is None:
        if sink is None:
            attention(query_, key_, value_, out=out, **how)
        else:
            result = attention(query_, key_, value_, out=out, returns="logsumexp", **how)
            logsumexp = result.logsumexp
    else:
        if sink is not None:
            logsumexp = attention(query_, key_, value_, returns="logsumexp", **how).logsumexp
        if dropped:
            key_, value_ = _behind(key_, dropped), _behind(value_, dropped)
            how.update(form.behind(dropped).arguments())
        if forward.prompt is not None and forward.states is not None:
            how["hidden_states"] = floats(forward.states)
        found = session.attend(module.layer_idx, query_, key_, value_, out=out, **how)
        if found is not out:
            out[...] = found
    if sink is not None and logsumexp is not None:
        # A learned sink is a key without a value: it takes its share of each row. Methods change
        # how a row shares out what is left; that share itself is not theirs.
        out *= _left_by(floats(sink), logsumexp)[..., None]
    return tensor.to(query.dtype)


def _refuse(module: Any, query: Any, options: dict[str, Any]) -> None:
    if demand("torch").compiler.is_compiling():
        raise NotImplementedError(
            "torch.compile cannot see into reattend: do not compile the model"
        )
    if query.requires_grad:
        raise RuntimeError("reattend computes no gradients: run the model under torch.no_grad()")
    if options.get("dropout"):
        raise NotImplementedError(
            f"dropout must be 0, got {options['dropout']}: reattend is for inference"
        )
    if not query.is_cpu:
        raise NotImplementedError(f"reattend computes on the CPU, got a query on {query.device}")
    if options.get("output_attentions"):
        raise NotImplementedError(
            "output_attentions needs the attention matrix, which reattend never makes: use eager "
            "attention for it"
        )
    for name in ("position_bias", "cache"):
        if options.get(name) is not None:
            raise NotImplementedError(
                f"{type(module).__name__} passes {name} to its attention, which reattend does not "
                "support"
            )


def _form(
    forward: Forward,
    mask: Any,
    padding: Array | None,
    window: int | None,
    causal: bool,
    query: Any,
    length: int,
) -> Form:
    """Give the words of a mask; a forward passes the same one to many layers."""
    batch, _, rows, _ = query.shape
    dropped = forward.past + rows - length
    if mask is None:
        if dropped and (window is None or rows > 1):
            raise NotImplementedError(
                f"the cache dropped {dropped} keys and no mask came with those that are left"
            )
        return Form(causal)
    for seen, of, form in forward.forms:
        if seen is mask and of == window:
            return form
    known = None
    if padding is not None and not padding.all():
        known = np.ones((batch, length), bool)
        given = padding[:, dropped : dropped + length]
        known[:, : given.shape[1]] = given
    # A window hides nothing while the keys are fewer, so it must be tried only where they are not.
    floating = mask.is_floating_point()
    array = floats(mask) if floating else mask.numpy()
    array = np.broadcast_to(array[..., :length], (batch, mask.shape[1], rows, length))
    form = recognised(array, padding=known, window=window)
    if dropped and form.window is None and not form.dense:
        form = form._replace(window=window)  # a step sees all that is left, for the rest is far
    forward.forms.append((mask, window, form))
    return form


def _behind(array: Array, dropped: int) -> Array:
    """Give keys their places since the prompt began: a session counts from there.

    The first are left 0, which is memory nobody touches; no row sees them.
    """
    batch, heads, length, size = array.shape
    full = np.zeros((batch, heads, dropped + length, size), dtype=array.dtype)
    full[:, :, dropped:] = array
    return full


def _left_by(sink: Array, logsumexp: Array) -> Array:
    """Give what a learned sink [H] leaves of each row [B, H, N] for the keys."""
    left: Array = np.exp(logsumexp - np.logaddexp(logsumexp, sink[:, None]))
    return left
