"""Peers that are torch: SDPA, with one-hot columns, FlexAttention, and eager with the matrix."""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np
from cases import TEXT_SINK, VISUAL, VISUAL_SINK, Arrays, Candidate, Case

SEGMENTS = 4  # of VAR, and so many columns tell their masses
# The width that these columns are padded to: of 4, 8, 16 and 32 the fastest, or as fast.
COLUMNS = 8


def torch_sdpa(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time `scaled_dot_product_attention`; at decode the heads of a group are rows of one head.

    That is twice as fast as its `enable_gqa`, and exact since a decode row sees all keys.
    """
    if method != "plain" or case.window:
        return None
    query, key, value = tensors(case, arrays, threads)
    return Candidate(_sdpa(case, query, key, value))


def torch_one_hot(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time SDPA whose value has a one-hot column for each segment: masses without the matrix.

    Query and key are padded too, off the clock: with heads of two sizes torch falls back to the
    matrix. Masses are not yet an intervention: that needs each segment's part of the output.
    """
    if method != "masses":
        return None
    import torch

    query, key, value = tensors(case, arrays, threads)
    width = case.head_dim
    query, key, value = (torch.nn.functional.pad(x, (0, COLUMNS)) for x in (query, key, value))
    labels = np.pad(arrays.labels, (0, case.key_len - len(arrays.labels)))
    columns = torch.from_numpy(np.eye(COLUMNS, dtype=np.float32)[labels])  # [M, COLUMNS]
    value[..., width:] = columns.to(value.dtype)
    call = _sdpa(case, query, key, value)

    def run() -> Any:
        both = call()
        return both[..., :width], both[..., width : width + SEGMENTS]

    return Candidate(run, own_bytes=sum(x.nbytes for x in (query, key, value)))


def torch_flex(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time FlexAttention, compiled for the case; at decode the heads of a group are rows of one.

    A block mask tells it which tiles to leave out at prefill.
    """
    if method != "plain" or case.window:
        return None
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query, key, value = tensors(case, arrays, threads)
    torch._dynamo.reset()  # else the ninth shape of a process is left uncompiled
    mask = None
    if not case.decode:
        size = case.query_len, case.key_len
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, *size, device="cpu")
    call = functools.partial(
        torch.compile(flex_attention, dynamic=False), query, key, value,
        block_mask=mask, scale=case.head_dim**-0.5, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    try:
        with torch.inference_mode():
            call()
    except Exception as error:  # no compiler, or a shape or type that it has no kernel for
        reason = str(error).strip().splitlines()[0]
        print(f"torch-flex is skipped in {case.name}: {reason}", file=sys.stderr)
        return None
    return Candidate(torch.inference_mode()(call))


def torch_eager(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time eager torch, as models write it; with VAR on the matrix, the sinks given to it.

    At decode the heads of a group are rows of one head, which saves the copies of keys and values;
    a single row in float32 is faster as a column, key query^T.
    """
    if method not in ("plain", "VAR", "column_sums") or case.window:
        return None
    import torch

    query, key, value = tensors(case, arrays, threads)
    repeated = query.shape[1] // key.shape[1]
    scale, turned = case.head_dim**-0.5, query.shape[2] == 1 and case.dtype == "float32"
    mask = None
    if not case.decode:
        mask = torch.full((case.query_len, case.key_len), -torch.inf, dtype=query.dtype).triu(1)
    sinks, visual_sinks, visual = (
        torch.from_numpy(np.flatnonzero(np.isin(arrays.labels, labels)))
        for labels in ((TEXT_SINK, VISUAL_SINK), (VISUAL_SINK,), (VISUAL,))
    )
    first_row = 0 if case.decode or case.image is None else case.image[1]

    def redistribute(weights: Any) -> None:
        rows = weights[:, :, first_row:]  # a view: changed in place
        given, wasted = rows[..., sinks].sum(-1), rows[..., visual_sinks].sum(-1)
        kept = rows[..., visual].sum(-1)
        image = wasted + kept
        chosen = (image >= 0.2) & (kept >= 0.5 * image) & (kept > 0)
        keep = torch.where(chosen, 0.6, 1.0).to(rows.dtype)
        gain = torch.where(chosen, 1 + 0.4 * given / kept, 1.0).to(rows.dtype)
        rows[..., sinks] *= keep[..., None]
        rows[..., visual] *= gain[..., None]

    @torch.inference_mode()
    def run() -> Any:
        keys, values = key, value
        if repeated > 1:
            keys, values = (each.repeat_interleave(repeated, dim=1) for each in (key, value))
        if turned:
            scores = (keys @ query.transpose(-1, -2)).transpose(-1, -2) * scale
        else:
            scores = query @ keys.transpose(-1, -2) * scale
        if mask is not None:
            scores = scores + mask
        weights = torch.softmax(scores, dim=-1)
        if method == "VAR":
            redistribute(weights)
        if method == "column_sums":
            return weights @ values, weights if case.decode else weights.sum(-2)
        return weights @ values

    return Candidate(run)


def _sdpa(case: Case, query: Any, key: Any, value: Any) -> Any:
    import torch

    call = functools.partial(
        torch.nn.functional.scaled_dot_product_attention, query, key, value,
        is_causal=not case.decode, scale=case.head_dim**-0.5,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return torch.inference_mode()(call)


def tensors(case: Case, arrays: Arrays, threads: int) -> tuple[Any, Any, Any]:
    """Give query, key and value to torch; a decode's query as [B, H_kv, H / H_kv, D]."""
    import torch

    torch.set_num_threads(threads)

    def tensor(array: Any) -> Any:
        if case.dtype == "bfloat16":  # NumPy's is no type that torch knows
            return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    query, key, value = (tensor(each) for each in arrays[:3])
    if case.decode:
        query = query.view(case.batch, case.num_kv_heads, -1, case.head_dim)
    return query, key, value
