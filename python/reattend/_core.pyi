from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Float = NDArray[np.float32]
_Bytes = NDArray[np.uint8] | NDArray[np.bool_]
_Share = tuple[int, float, int | None]
_Policy = tuple[_Float, int, Sequence[_Share], _Bytes | None]

__version__: str
MAX_SEGMENTS: int
MAX_WHEN: int

def attention(
    query: _Float,
    key: _Float,
    value: _Float,
    out: _Float | None,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    key_mask: _Bytes | None,
    bias: _Float | None,
    labels: _Bytes | None,
    num_segments: int,
    policies: Sequence[_Policy],
    masses: _Float | None,
    logsumexp: _Float | None,
    factors: _Float | None,
    changed: NDArray[np.bool_] | None,
    partials: _Float | None,
    num_threads: int,
    plain_logsumexp: _Float | None,
    bfloat16: bool,
    scales: tuple[_Float | None, _Float | None],
    column_sums: _Float | None,
    summed: _Bytes | None,
    decided: _Float | None,
    transform: tuple[_Float, NDArray[np.int64], NDArray[np.int64]] | None,
    null_logit: _Float | None,
    /,
) -> None: ...
def plain(
    query: object,
    key: object,
    value: object,
    scale: float | None,
    causal: bool,
    num_threads: int,
    /,
) -> NDArray[Any] | None: ...
def attention_if_fit(
    query: object,
    key: object,
    value: object,
    scale: float | None,
    causal: bool,
    num_threads: int,
    labels: object,
    policies: Sequence[_Policy],
    weighed: bool,
    summed: bool,
    plain: tuple[NDArray[Any], _Float] | None,
    /,
) -> tuple[NDArray[Any], _Float | None, _Float | None, _Float | None] | None: ...
def type_if_fit(query: object, key: object, value: object, /) -> str | None: ...
def column_sums(
    query: _Float,
    key: _Float,
    logsumexp: _Float,
    sums: _Float,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    key_mask: _Bytes | None,
    bias: _Float | None,
    heads: _Bytes | None,
    num_threads: int,
    bfloat16: bool,
    key_scale: _Float | None,
    /,
) -> None: ...
def narrow(numbers: _Float, out: _Float, bfloat16: bool, /) -> None: ...
def sink_tokens(
    states: _Float, dims: NDArray[np.bool_], tau: float, epsilon: float, found: NDArray[np.bool_], /
) -> None: ...
def column_sinks(
    sums: _Float,
    counts: NDArray[np.int64],
    chosen: _Bytes | None,
    first: NDArray[np.int64],
    before: _Float | None,
    theta: float,
    known: _Bytes | None,
    /,
) -> tuple[_Float, NDArray[np.uint8] | None]: ...
def explain(
    query: _Float,
    key: _Float,
    value: _Float,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    key_mask: _Bytes | None,
    bias: _Float | None,
    labels: _Bytes | None,
    num_segments: int,
    num_threads: int,
    bfloat16: bool,
    /,
) -> dict[str, int]: ...
def matmul_rate(rows: int, cols: int, depth: int, bfloat16: bool, seconds: float, /) -> float: ...
def read_bandwidth(num_bytes: int, seconds: float, /) -> float: ...
def max_threads() -> int: ...
def end_waiting_threads() -> None: ...
def isa() -> str: ...
def onednn_version() -> str: ...
