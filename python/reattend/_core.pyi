from typing import Any

import numpy as np
from numpy.typing import NDArray

from reattend.border.request import MaskSpec, Request

_Float = NDArray[np.float32]
_Bytes = NDArray[np.uint8] | NDArray[np.bool_]

__version__: str
MAX_SEGMENTS: int
MAX_WHEN: int

def attention(
    query: object,
    key: object,
    value: object,
    mask: MaskSpec,
    request: Request,
    num_threads: int,
    /,
) -> Any: ...  # None: refused
def column_sums(
    query: object,
    key: object,
    logsumexp: object,
    mask: MaskSpec,
    heads: object,
    num_threads: int,
    /,
) -> Any: ...  # None: refused
def narrow(numbers: _Float, out: _Float, bfloat16: bool, /) -> None: ...
def arrays_of(type: type, tensors: tuple[object, ...], /) -> list[Any] | None: ...
def sink_tokens(
    states: _Float, dims: NDArray[np.bool_], tau: float, epsilon: float, found: NDArray[np.bool_], /
) -> None: ...
def column_sinks(
    sums: object,
    counts: object,
    chosen: object,
    first: object,
    before: object,
    theta: float,
    known: object,
    /,
) -> tuple[_Float, NDArray[np.uint8] | None] | None: ...  # None: refused
def explain(
    query: object,
    key: object,
    value: object,
    mask: MaskSpec,
    request: Request,
    num_threads: int,
    /,
) -> dict[str, Any]: ...
def matmul_rate(rows: int, cols: int, depth: int, bfloat16: bool, seconds: float, /) -> float: ...
def read_bandwidth(num_bytes: int, seconds: float, /) -> float: ...
def max_threads() -> int: ...
def end_waiting_threads() -> None: ...
def isa() -> str: ...
def onednn_version() -> str: ...
