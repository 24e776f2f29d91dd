"""The peers: one function each, all of the same signature, on the same arrays.

A peer is given a case, its arrays, a method and the number of threads. It prepares what can be
prepared once (graphs, bindings, masks), and gives a `Candidate`, or None if it has not got the
method or the type. Each is in the fastest form we found for it, which its docstring names.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import peers_ggml
from cases import Arrays, Candidate, Case
from ours import reattend
from peers_ggml import llama_cpp
from peers_graph import onnxruntime, openvino
from peers_serving import vllm, zentorch
from peers_torch import torch_eager, torch_flex, torch_one_hot, torch_sdpa

TYPES = ("float32", "bfloat16", "float16")


class Peer(NamedTuple):
    make: Callable[[Case, Arrays, str, int], Candidate | None]
    packages: tuple[str, ...]
    compiles: bool = False  # seconds, for each case, with memory of its own
    held: tuple[str, ...] = ("float32",)  # the types in which variables hold it to AVX2

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed."""
        return tuple(name for name in self.packages if find_spec(name) is None)


def numpy_eager(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time the full matrix in NumPy, float32: what float32 attention is measured against.

    Heads of a group are rows of one head at decode, and repeated by broadcasting at prefill.
    """
    if method != "plain" or case.dtype != "float32" or case.window:
        return None
    group = case.num_heads // case.num_kv_heads
    grouped = (case.batch, case.num_kv_heads, group, case.query_len, case.head_dim)
    query = arrays.query.reshape(grouped)
    key, value = arrays.key[:, :, None], arrays.value[:, :, None]
    if case.decode:
        query = query.swapaxes(2, 3)
    scale = np.float32(case.head_dim**-0.5)
    mask = None
    if not case.decode:
        mask = np.triu(np.full((case.query_len, case.key_len), -np.inf, np.float32), 1)

    def run() -> Any:
        weights = query @ key.swapaxes(-1, -2)
        weights *= scale
        if mask is not None:
            weights += mask
        weights -= weights.max(-1, keepdims=True)
        np.exp(weights, out=weights)
        weights /= weights.sum(-1, keepdims=True)
        return weights @ value

    return Candidate(run)


PEERS = {
    "reattend": Peer(reattend, ("reattend",), held=TYPES),
    "torch-sdpa": Peer(torch_sdpa, ("torch",)),
    "torch-one-hot": Peer(torch_one_hot, ("torch",)),
    "torch-flex": Peer(torch_flex, ("torch",), compiles=True),
    "torch-eager": Peer(torch_eager, ("torch",)),
    "numpy-eager": Peer(numpy_eager, ("numpy",)),
    "onnxruntime": Peer(onnxruntime, ("onnxruntime", "onnx"), held=()),
    "openvino": Peer(openvino, ("openvino",), held=()),
    "vllm": Peer(vllm, ("torch", "vllm")),
    "zentorch": Peer(zentorch, ("torch", "zentorch")),
    "llama.cpp": Peer(llama_cpp, (peers_ggml.PACKAGE,), held=TYPES),
}
