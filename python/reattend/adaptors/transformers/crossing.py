"""One layer's cross-attention to a picture: the call whose keys are not the rows' own past."""

from __future__ import annotations

import numpy as np

from reattend.adaptors.transformers.attending import Forward, Settings
from reattend.adaptors.transformers.keywords import refuse_unknown
from reattend.adaptors.transformers.masks import HIDDEN, Form
from reattend.adaptors.transformers.protocols import AttentionModule, AttentionOptions, Tensor
from reattend.adaptors.transformers.tensors import floats, numbers, output_like
from reattend.adaptors.transformers.verify import Asked
from reattend.attention import attention
from reattend.optional import demand
from reattend.policy import Array


def attend_across(
    forward: Forward,
    module: AttentionModule,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    padding: Array | None,
    options: AttentionOptions,
) -> Tensor:
    """Compute a layer's attention to a picture as a forward wants it.

    Parameters
    ----------
    forward : Forward
    module : torch.nn.Module
        The attention module.
    query, key, value : torch.Tensor
        [B, H, N, D], [B, H_kv, M, D], [B, H_kv, M, Dv].
    mask : torch.Tensor, optional
        [B, 1, N, M], bool or added to the scores. None: every row sees every key.
    padding : array of bool [B, at least all rows], optional
        The forward's 2-D attention mask: rows at padding are none.
    options : dict
        What else the model passes to its attention.

    Returns
    -------
    torch.Tensor [B, N, H, Dv]
    """
    refuse_unknown(module, query, key, value, options)
    batch, _, rows, _ = query.shape
    if rows != forward.rows:
        raise NotImplementedError(
            f"{type(module).__name__} attends to a picture from {rows} rows in a forward of "
            f"{forward.rows} tokens, which reattend does not support"
        )
    bias = _bias(mask)
    (query_, key_, value_), dtype = numbers(query, key, value)
    form = Form(False, bias=bias)
    how: Settings = {
        "scale": options.get("scaling"), "softcap": options.get("softcap"), "dtype": dtype,
        "num_threads": demand("torch").get_num_threads(), **form.arguments(),
    }  # fmt: skip
    session = forward.prompt.session if forward.prompt is not None else None
    checked = forward.check is not None and forward.check.due(module, query, value, options, form)
    tensor, out = output_like(query, value, exact=query_.dtype == np.float32)
    if session is None or checked:
        attention(query_, key_, value_, out=out, **how)
    if checked and forward.check is not None:
        asked = Asked(module, query, key, value, mask, options, causal=False)
        forward.check.compare(asked, form, forward.before, tensor)
    if session is None:
        return tensor.to(query.dtype)
    if padding is not None and not padding.all():
        real = padding[:, forward.past : forward.past + rows]
        unreal = np.where(real, np.float32(0), np.float32(-np.inf))[:, None, :, None]
        bias = unreal if bias is None else bias + unreal
        bias = np.broadcast_to(bias, (batch, 1, rows, key.shape[2]))
    states: Array | None = None
    if forward.key_states is not None:  # of each tile of a picture; keys are those of all its tiles
        states = floats(forward.key_states)
        states = states.reshape(batch, -1, states.shape[-1])
    how["bias"] = bias
    found = session.attend(
        module.layer_idx, query_, key_, value_, out=out, hidden_states=states, **how
    )
    if found is not out:
        out[...] = found
    return tensor.to(query.dtype)


def _bias(mask: Tensor | None) -> Array | None:
    """Give a mask as a bias that hides by -inf; None: it hides nothing."""
    if mask is None:
        return None
    if not mask.is_floating_point():
        return np.where(mask.numpy(), np.float32(0), np.float32(-np.inf))
    array = floats(mask)
    bias = np.where(array > HIDDEN, array, np.float32(-np.inf))
    return bias if bias.any() else None
