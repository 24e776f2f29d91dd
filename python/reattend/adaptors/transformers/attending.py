"""One layer's attention: from what transformers passes to what `Session.attend` takes, and back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from reattend.adaptors.transformers.caches import window_of
from reattend.adaptors.transformers.keywords import refuse_unknown
from reattend.adaptors.transformers.masks import HIDDEN, Form, MaskArguments, recognised
from reattend.adaptors.transformers.prompts import Prompt
from reattend.adaptors.transformers.protocols import (
    AttentionModule,
    AttentionOptions,
    Cache,
    Tensor,
)
from reattend.adaptors.transformers.tensors import floats, numbers, output_like
from reattend.adaptors.transformers.verify import Asked, Check
from reattend.attention import attention
from reattend.optional import demand
from reattend.policy import Array
from reattend.session import Session


@dataclass(eq=False)
class Forward:
    """One forward of the decoder."""

    past: int = 0  # keys that the cache held before
    rows: int = 0  # tokens that are read; a layer may be asked about the last of them only
    prompt: Prompt | None = None  # None: no methods, or the text-only branch
    text: bool = False  # whether it is the text-only branch, or the search for sink dimensions
    text_outputs: dict[int, Array] | None = None  # where its last rows go, [B, H, Dv]
    check: Check | None = None  # holds attention against the model's own
    before: str = ""  # the implementation that the model had
    states: Tensor | None = None  # [B, N, C] that entered the layer that runs
    key_states: Tensor | None = None  # that the keys of the cross-attention that runs are made of
    cache: Cache | None = None  # of keys and values
    forms: list[tuple[Tensor, int | None, Form]] = field(default_factory=list)  # of masks seen


def attend(
    forward: Forward,
    module: AttentionModule,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    padding: Array | None,
    options: AttentionOptions,
) -> Tensor:
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
    refuse_unknown(module, query, key, value, options)
    rows, slots = query.shape[2], key.shape[2]
    length, dropped = _keys(forward, module, rows, slots, mask)
    causal = options.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    window = options.get("sliding_window")
    if window is None and dropped:  # Phi-3.5 MoE slides by its masks and its cache alone
        window = window_of(forward.cache, module.layer_idx)
    mask = _chosen(module, mask, options.get("indices"), query, slots, causal)
    form = _form(forward, mask, padding, window, causal, query, length, dropped)
    bias = options.get("position_bias")
    if bias is not None:
        form = form.biased(floats(bias)[..., :length])
    given = key, value
    if slots > length:
        key, value = key[:, :, :length], value[:, :, :length]
    sink = _sink(module, options, query)
    arrays, dtype = numbers(query, key, value)
    exact = arrays[0].dtype == np.float32 or sink is not None
    tensor, out = output_like(query, value, exact=exact)
    how: Settings = {
        "scale": options.get("scaling"), "softcap": options.get("softcap"), "dtype": dtype,
        "num_threads": demand("torch").get_num_threads(), **form.arguments(),
    }  # fmt: skip

    session = forward.prompt.session if forward.prompt is not None else None
    checked = forward.check is not None and forward.check.due(module, query, value, options, form)
    unchanged, room, logsumexp = tensor, out, None
    if session is not None and (checked or sink is not None):
        unchanged, room = output_like(query, value, exact=exact)
    if session is None or checked or sink is not None:
        logsumexp = _plain(arrays, room, how, with_logsumexp=sink is not None)
    if session is not None:
        _intervened(forward, session, module, arrays, out, form, how, dropped)
    if forward.text_outputs is not None:  # of rows as they are before a learned sink takes its own
        forward.text_outputs[module.layer_idx] = floats(tensor[:, -1]).copy()
    if sink is not None and logsumexp is not None:
        # A learned sink is a key without a value: it takes its share of each row. Methods change
        # how a row shares out what is left; that share itself is not theirs.
        left = _left_by(sink, logsumexp)[..., None]
        out *= left
        if room is not out:
            room *= left
    if checked and forward.check is not None:
        asked = Asked(module, query, *given, mask, options, causal, forward.rows - rows)
        forward.check.compare(asked, form, forward.before, unchanged)
    return tensor if tensor.dtype == query.dtype else tensor.to(query.dtype)


class Settings(MaskArguments):
    """What `reattend.attention` and `Session.attend` take beside arrays, by name."""

    scale: float | None
    softcap: float | None
    dtype: str | None
    num_threads: int


def _keys(
    forward: Forward, module: AttentionModule, rows: int, slots: int, mask: Tensor | None
) -> tuple[int, int]:
    """Give how many slots hold keys, and how many keys a sliding cache has dropped before them."""
    if rows > forward.rows:
        raise NotImplementedError(
            f"{type(module).__name__} attends from {rows} rows in a forward of {forward.rows} "
            "tokens, which reattend does not support"
        )
    total = forward.past + forward.rows
    dropped = max(0, total - slots)
    length = total - dropped  # static caches have empty slots behind
    if slots > length and mask is not None and _shown(mask[..., length:]).any():
        length = slots  # no empty slots, but keys that are no tokens (DeepSeek V4)
    methods = forward.prompt is not None or forward.text_outputs is not None
    if length > total and methods:
        raise NotImplementedError(
            f"{type(module).__name__} attends to keys that are no tokens, of which methods know "
            "nothing: attach the model without methods"
        )
    return length, dropped


def _plain(arrays: list[Array], out: Array, how: Settings, *, with_logsumexp: bool) -> Array | None:
    """Compute attention without a method, and its logsumexp [B, H, N] where that is wanted."""
    query, key, value = arrays
    if not with_logsumexp:
        attention(query, key, value, out=out, **how)
        return None
    found = attention(query, key, value, out=out, returns="logsumexp", **how)
    return found.logsumexp


def _intervened(
    forward: Forward,
    session: Session,
    module: AttentionModule,
    arrays: list[Array],
    out: Array,
    form: Form,
    how: Settings,
    dropped: int,
) -> None:
    """Compute attention as methods want it."""
    query, key, value = arrays
    if dropped:
        if form.window is None and not form.dense:
            raise NotImplementedError(
                f"{type(module).__name__} sees {key.shape[2]} keys after {dropped} were dropped, "
                "and no window says which: attach the model without methods"
            )
        key, value = _behind(key, dropped), _behind(value, dropped)
        how = {**how, **form.behind(dropped).arguments()}
    states = None if forward.states is None else floats(forward.states)
    found = session.attend(
        module.layer_idx, query, key, value, out=out, hidden_states=states, **how
    )  # fmt: skip
    if found is not out:
        out[...] = found


def _form(
    forward: Forward,
    mask: Tensor | None,
    padding: Array | None,
    window: int | None,
    causal: bool,
    query: Tensor,
    length: int,
    dropped: int,
) -> Form:
    """Give the words of a mask; a forward passes the same one to many layers."""
    if mask is None:
        if dropped and (window is None or query.shape[2] > 1):
            raise NotImplementedError(
                f"the cache dropped {dropped} keys and no mask came with those that are left"
            )
        return Form(causal)
    for seen, of, form in forward.forms:
        if seen is mask and of == window:
            return form
    batch, _, rows, _ = query.shape
    _check_mask(mask, query, length)
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
    if dropped and form.window is None and window is not None and length <= window:
        form = form._replace(window=window)  # a step sees all that is left, for the rest is far
    forward.forms.append((mask, window, form))
    return form


def _shown(mask: Tensor) -> Tensor:
    return mask > HIDDEN if mask.is_floating_point() else mask


def _check_mask(mask: Tensor, query: Tensor, length: int) -> None:
    """Refuse a mask that has not a number for each pair of row and key."""
    batch, heads, rows, _ = query.shape
    shape = tuple(getattr(mask, "shape", ()))
    fits = len(shape) == 4 and shape[0] in (1, batch) and shape[1] in (1, heads)
    if not fits or shape[2] not in (1, rows) or shape[3] < length:
        raise NotImplementedError(
            f"an attention mask must be a tensor [B, 1 or H, N, M] = {(batch, heads, rows, length)}"
            f", got {type(mask).__name__} {shape}"
        )


def _chosen(
    module: AttentionModule,
    mask: Tensor | None,
    indices: Tensor | None,
    query: Tensor,
    slots: int,
    causal: bool,
) -> Tensor | None:
    """Hide the keys that an indexer has not chosen; ``indices`` are those it has, [B, N, k]."""
    if indices is None:
        return mask
    torch = demand("torch")
    batch, _, rows, _ = query.shape
    if (
        tuple(indices.shape[:-1]) != (batch, rows)
        or not 0 <= indices.min() <= indices.max() < slots
    ):
        raise NotImplementedError(
            f"{type(module).__name__} passes indices {tuple(indices.shape)} to its attention; "
            f"reattend supports [B, N, k] = {(batch, rows, 'k')}, from 0 to {slots - 1}"
        )
    none = torch.zeros(batch, rows, slots, dtype=torch.bool)
    chosen: Tensor = none.scatter(-1, indices.long(), True)
    if mask is None:
        seen: Tensor = torch.ones(rows, slots, dtype=torch.bool)
        return chosen[:, None] & (seen.tril(slots - rows) if causal else seen)
    if mask.dtype == torch.bool:
        return mask & chosen[:, None]
    return mask.masked_fill(~chosen[:, None], torch.finfo(mask.dtype).min)


def _behind(array: Array, dropped: int) -> Array:
    """Give keys their places since the prompt began: a session counts from there.

    The first are left 0, which is memory nobody touches; no row sees them.
    """
    batch, heads, length, size = array.shape
    full = np.zeros((batch, heads, dropped + length, size), dtype=array.dtype)
    full[:, :, dropped:] = array
    return full


def _sink(module: AttentionModule, options: AttentionOptions, query: Tensor) -> Array | None:
    """Give the score of a learned sink, of each head [H, 1] or of each row too [B, H, N]."""
    of_head, of_row = options.get("s_aux"), options.get("sinks")
    sink = of_row if of_head is None else of_head
    if sink is None:
        return None
    shape, rows = tuple(sink.shape), (*query.shape[:3], 1)
    if of_head is not None and of_row is None and shape == tuple(query.shape[1:2]):
        return floats(sink)[:, None]
    if of_head is None and shape == rows:
        return floats(sink)[..., 0]
    raise NotImplementedError(
        f"{type(module).__name__} passes a sink {shape} to its attention; reattend supports s_aux "
        f"[H] = {rows[1:2]} or sinks [B, H, N, 1] = {rows}"
    )


def _left_by(sink: Array, logsumexp: Array) -> Array:
    """Give what a learned sink leaves of each row [B, H, N] for the keys."""
    left: Array = np.exp(logsumexp - np.logaddexp(logsumexp, sink))
    return left
