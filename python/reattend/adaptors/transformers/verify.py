"""The first attention of each kind in a model, held against the model's own on some of its rows."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from reattend.adaptors.transformers.masks import HIDDEN, Form
from reattend.adaptors.transformers.own import own_attention
from reattend.adaptors.transformers.protocols import (
    AttentionModule,
    AttentionOptions,
    OwnAttention,
    Tensor,
)
from reattend.adaptors.transformers.tensors import floats
from reattend.optional import demand
from reattend.policy import Array

_ROWS = 8  # that are compared, from the first to the last
_BITS = {"float32": 23, "float16": 10, "bfloat16": 7}


class Asked(NamedTuple):
    """What a model passes to its attention."""

    module: AttentionModule
    query: Tensor  # [B, H, N, D]
    key: Tensor  # [B, H_kv, M, D]
    value: Tensor  # [B, H_kv, M, Dv]
    mask: Tensor | None  # [B, 1, N, M], bool or added to the scores; None: plain causal
    options: AttentionOptions  # by keyword
    causal: bool  # what no mask means
    first_row: int = 0  # of the tokens that the decoder reads


@dataclass(eq=False)
class Check:
    """Compares one layer of each kind of attention, when the kind first occurs."""

    model: str  # name of its class
    _seen: set[Hashable] = field(default_factory=set)

    def due(
        self,
        module: AttentionModule,
        query: Tensor,
        value: Tensor,
        options: AttentionOptions,
        form: Form,
    ) -> bool:
        """Whether no layer of this kind was compared yet.

        Parameters
        ----------
        module, query, value, options
            As of `Asked`.
        form : Form
            What reattend takes its mask for.
        """
        return _kind(module, query, value, options, form) not in self._seen

    def compare(self, asked: Asked, form: Form, before: str, ours: Tensor) -> None:
        """Compare a layer, and note its kind.

        Parameters
        ----------
        asked : Asked
        form : Form
            What reattend takes its mask for.
        before : str
            The implementation that the model used before it was attached.
        ours : torch.Tensor [B, N, H, Dv]
            Attention without a method.

        Raises
        ------
        RuntimeError
            If they differ beyond rounding; it names the layer.
        """
        attend = own_attention(asked.module, before)
        if attend is not None:
            rows = np.unique(np.linspace(0, asked.query.shape[2] - 1, _ROWS).astype(int))
            expected, visible = _own_rows(attend, asked, rows)
            found = floats(ours[:, rows].transpose(1, 2))
            off = np.where(visible[..., None], np.abs(found - expected), 0)
            most, allowed = float(off.max(initial=0)), _rounding(asked)
            if not most <= allowed:
                raise RuntimeError(
                    f"layer {asked.module.layer_idx} of {self.model} "
                    f"({type(asked.module).__name__}): reattend's attention differs from the "
                    f"model's own ({before}) by {most:.1e}, of which rounding explains "
                    f"{allowed:.1e}. Please report it with the model's config; "
                    "attached(..., verify=False) goes on without this check"
                )
        self._seen.add(_kind(asked.module, asked.query, asked.value, asked.options, form))


def _kind(
    module: AttentionModule, query: Tensor, value: Tensor, options: AttentionOptions, form: Form
) -> Hashable:
    # Each layer of each step asks: written out, for loops and slices of shapes take longer.
    given = options.get
    _, heads, rows, head_dim = query.shape
    _, kv_heads, _, value_dim = value.shape
    return (
        type(module), given("sliding_window"), given("softcap"), given("s_aux") is None,
        given("sinks") is None, given("indices") is None, given("position_bias") is None,
        form.causal, form.window, form.bias is None, form.key_mask is None,
        rows > 1, heads, head_dim, kv_heads, value_dim, query.dtype,
    )  # fmt: skip


def _own_rows(attend: OwnAttention, asked: Asked, rows: Array) -> tuple[Array, Array]:
    """Give the model's own attention of some rows [B, H, r, Dv], and which of them see a key."""
    torch = demand("torch")
    query, key, value = asked.query.float()[:, :, rows], asked.key.float(), asked.value.float()
    options: AttentionOptions = {**asked.options, "is_causal": False}
    mask = asked.mask
    if mask is None and asked.causal and asked.query.shape[2] > 1:
        # What no mask means: the first row sees the first key, whatever room there is behind.
        places = torch.from_numpy(rows + asked.first_row)
        seen: Tensor = torch.arange(key.shape[2]) <= places[:, None]
        mask = seen[None, None]
    elif mask is not None:
        mask = mask[:, :, rows] if mask.shape[2] > 1 else mask
    bias, sinks = options.get("position_bias"), options.get("sinks")
    if bias is not None and bias.shape[2] > 1:
        options["position_bias"] = bias[:, :, rows]
    if sinks is not None:
        options["sinks"] = sinks[:, :, rows]
    visible: Array = np.ones((1, 1, 1), bool)
    if mask is not None:
        shown = mask > HIDDEN if mask.is_floating_point() else mask
        visible = np.asarray(shown.numpy().any(-1))
        mask = mask.float() if mask.is_floating_point() else mask
    with torch.autocast("cpu", enabled=False):  # it would round what is compared
        result, _ = attend(asked.module, query, key, value, mask, **options)
    return floats(result.transpose(1, 2)), visible


def _rounding(asked: Asked) -> float:
    """Give the difference that rounding explains: a score is off by its own size in units."""
    query, key, value = asked.query, asked.key, asked.value
    scale = asked.options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    largest = float(value.abs().max())
    bits = _BITS[str(query.dtype).rpartition(".")[2]]
    if bits < 23:  # the output, and the weights before it, are rounded to a few bits
        return float(4 * 2.0**-bits * largest)
    score = abs(scale) * float(query.norm(dim=-1).max()) * float(key.norm(dim=-1).max())
    return float(2.0**-bits * (32 + 4 * score) * largest)
