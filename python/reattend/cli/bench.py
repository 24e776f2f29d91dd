"""The command `reattend bench`: attention on this machine, checked first and then timed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import click
import numpy as np

from reattend.attention import attention
from reattend.border.config import read_config
from reattend.cli.arguments import at_least
from reattend.cli.command import Command
from reattend.optional import demand
from reattend.policy import Array, Reweight
from reattend.reference import attention as full_matrix
from reattend.terminal import CommandError, progress

_TOLERANCE = 1e-4  # of float32 against the full matrix in float64
_POLICY = Reweight(weight=(1, 0.6, 1, 1), to=(2,))


class Shape(NamedTuple):
    """Heads and lengths of a model's attention."""

    heads: int
    key_heads: int
    rows: int
    keys: int
    size: int


_CASES = {
    "smollm2-135m prefill 512": Shape(9, 3, 512, 512, 64),
    "smollm2-135m decode 4096": Shape(9, 3, 1, 4096, 64),
    "llava-1.5-7b prefill 640": Shape(32, 32, 640, 640, 128),
    "llava-1.5-7b decode 4096": Shape(32, 32, 1, 4096, 128),
}


@click.command(
    "bench",
    cls=Command,
    runs_models=True,
    examples=(
        "reattend bench",
        "reattend bench --case decode --repeat 20",
        "REATTEND_MAX_ISA=v3 reattend bench --json",
    ),
    short_help="time attention on this machine, beside torch's if that is installed",
)
@click.option("--case", default="", metavar="WORD", help="only cases whose name contains this")
@click.option("--repeat", type=at_least(int, 1), default=9, metavar="N", help="how many rounds")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def command(case: str, repeat: int, as_json: bool) -> None:
    """Time attention on this machine: plain, with a policy, and torch's SDPA if it is installed.

    Each result is compared with the full matrix in float64 before it is timed; candidates take
    turns, and medians are shown. benchmarks/run.py of the repository measures more.
    """
    chosen = {name: shape for name, shape in _CASES.items() if case in name}
    if not chosen:
        raise CommandError(f"--case must be part of one of {', '.join(_CASES)}, got {case}")
    found = {}
    for name in progress(list(chosen), "Measuring", quiet=as_json):
        found[name] = _measure(name, chosen[name], repeat)
    if as_json:
        print(json.dumps({"machine": read_config(), "cases": found}, indent=1))
        return
    config = read_config()
    print(f"{config['instruction_set']}, {config['threads']} threads, median of {repeat}, ms")
    for name, times in found.items():
        shown = ", ".join(f"{who} {1000 * each['median']:.3g}" for who, each in times.items())
        print(f"{name}: {shown}")


def _measure(name: str, shape: Shape, repeat: int) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)
    query = rng.standard_normal((1, shape.heads, shape.rows, shape.size), dtype=np.float32)
    key, value = (
        rng.standard_normal((1, shape.key_heads, shape.keys, shape.size), dtype=np.float32)
        for _ in range(2)
    )
    labels = (np.arange(shape.keys) * len(_POLICY.weight) // shape.keys).astype(np.uint8)
    given: dict[str, Any] = {"segments": labels[None, None], "policy": _POLICY}
    candidates: dict[str, tuple[Callable[[], Array], dict[str, Any]]] = {
        "plain": (lambda: attention(query, key, value, causal=True), {}),
        "policy": (lambda: attention(query, key, value, causal=True, **given), given),
    }
    if (sdpa := _sdpa(query, key, value)) is not None:
        candidates["torch SDPA"] = (sdpa, {})
    times: dict[str, list[float]] = {who: [] for who in candidates}
    errors = {}
    heads = range(0, shape.heads, max(shape.heads // shape.key_heads, shape.heads // 3))
    for who, (call, what) in candidates.items():
        errors[who] = _error(call(), query, key, value, what, heads)
        if not errors[who] <= _TOLERANCE:
            raise CommandError(f"{who} is off by {errors[who]:.2g} in {name}")
    for _ in range(repeat):
        for who, (call, _) in candidates.items():
            begun = time.perf_counter()
            call()
            times[who].append(time.perf_counter() - begun)
    return {
        who: {"median": float(np.median(all_)), "least": min(all_), "error": errors[who]}
        for who, all_ in times.items()
    }


def _error(
    out: Array, query: Array, key: Array, value: Array, what: dict[str, Any], heads: Any
) -> float:
    """Give the largest difference from the full matrix, in some heads."""
    group = query.shape[1] // key.shape[1]
    worst = 0.0
    for head in heads:
        some, of_keys = slice(head, head + 1), slice(head // group, head // group + 1)
        right: Any = full_matrix(
            query[:, some], key[:, of_keys], value[:, of_keys], causal=True, **what
        )
        worst = max(worst, float(np.abs(out[:, some] - right).max()))
    return worst


def _sdpa(query: Array, key: Array, value: Array) -> Callable[[], Array] | None:
    """Give torch's attention on the same arrays; None where torch is not installed."""
    try:
        torch = demand("torch")
    except ImportError:
        return None
    arrays = [torch.from_numpy(each) for each in (query, key, value)]
    call = torch.nn.functional.scaled_dot_product_attention
    options = {"is_causal": query.shape[2] > 1, "enable_gqa": query.shape[1] != key.shape[1]}

    def run() -> Array:
        with torch.no_grad():
            out: Array = call(*arrays, **options).numpy()
        return out

    return run
