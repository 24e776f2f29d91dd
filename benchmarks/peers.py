"""The peers: one function each, all of the same signature, on the same arrays.

A peer is given a case, its arrays, a method and the number of threads. It prepares what can be
prepared once (graphs, bindings, masks), and gives a `Candidate`, or None if it has not got the
method. Each is in the fastest form we found for it, which its docstring names.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from cases import TEXT_SINK, VISUAL, VISUAL_SINK, Arrays, Candidate, Case
from numpy.typing import NDArray
from ours import reattend


class Peer(NamedTuple):
    make: Callable[[Case, Arrays, str, int], Candidate | None]
    packages: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed."""
        return tuple(name for name in self.packages if find_spec(name) is None)


def torch_sdpa(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time `scaled_dot_product_attention`; at decode the heads of a group are rows of one head.

    That is twice as fast as its `enable_gqa`, and exact since a decode row sees all keys.
    """
    if method != "plain":
        return None
    import torch

    torch.set_num_threads(threads)
    query, key, value = (torch.from_numpy(each) for each in arrays[:3])
    if case.decode:
        query = query.view(1, case.num_kv_heads, -1, case.head_dim)
    grouped = query.shape[1] != key.shape[1]

    @torch.inference_mode()
    def run() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=not case.decode, enable_gqa=grouped
        )

    return Candidate(run)


def torch_eager(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time eager torch, as models write it; with VAR on the matrix, the sinks given to it."""
    if method not in ("plain", "VAR"):
        return None
    import torch

    torch.set_num_threads(threads)
    query, key, value = (torch.from_numpy(each) for each in arrays[:3])
    group, scale = case.num_heads // case.num_kv_heads, case.head_dim**-0.5
    mask = None
    if not case.decode:
        mask = torch.full((case.query_len, case.key_len), -torch.inf).triu(1)
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
        keep = torch.where(chosen, 0.6, 1.0)
        gain = torch.where(chosen, 1 + 0.4 * given / kept, 1.0)
        rows[..., sinks] *= keep[..., None]
        rows[..., visual] *= gain[..., None]

    @torch.inference_mode()
    def run() -> Any:
        keys, values = key, value
        if group > 1:
            keys, values = (each.repeat_interleave(group, dim=1) for each in (key, value))
        scores = query @ keys.transpose(-1, -2) * scale
        if mask is not None:
            scores = scores + mask
        weights = torch.softmax(scores, dim=-1)
        if method == "VAR":
            redistribute(weights)
        return weights @ values

    return Candidate(run)


def onnxruntime(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time the contributed operator GroupQueryAttention, inputs and outputs bound.

    It beat MultiHeadAttention, the standard's Attention and plain matrix products in every case.
    Queries are [1, N, H D], its own layout. A decode step appends its key and value to a cache
    that stands in place, as it does in a model.
    """
    if method != "plain":
        return None
    import onnxruntime as ort
    from onnx import TensorProto, helper

    def joined(array: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(array.swapaxes(1, 2)).reshape(1, array.shape[2], -1)

    past = case.key_len - 1 if case.decode else 0
    inputs = {
        "query": joined(arrays.query),
        "key": joined(arrays.key[:, :, past:]),
        "value": joined(arrays.value[:, :, past:]),
        "length_less_one": np.array([case.key_len - 1], np.int32),
        "length": np.array(case.key_len, np.int32),
    }
    caches = {"keys": arrays.key, "values": arrays.value}
    if not case.decode:
        caches = {name: np.empty_like(cache) for name, cache in caches.items()}
    outputs = {"out": np.empty_like(inputs["query"])}

    def described(arrays: dict[str, Any], prefix: str = "") -> list[Any]:
        kinds = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
        return [
            helper.make_tensor_value_info(prefix + name, kinds[str(each.dtype)], each.shape)
            for name, each in arrays.items()
        ]

    names = ["query", "key", "value", "", "", "length_less_one", "length"]
    if case.decode:
        names[3:5] = ["past_keys", "past_values"]
    node = helper.make_node(
        "GroupQueryAttention", names, ["out", "keys", "values"], domain="com.microsoft",
        num_heads=case.num_heads, kv_num_heads=case.num_kv_heads,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "attention",
        described(inputs) + (described(caches, "past_") if case.decode else []),
        described(outputs) + described(caches),
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Its threads spin while a call runs, and stop then, so that they are in nobody's way.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for name, array in (caches | outputs).items():
        place = ort.OrtValue.ortvalue_from_numpy(array)
        binding.bind_ortvalue_output(name, place)
        if case.decode and name in caches:
            binding.bind_ortvalue_input(f"past_{name}", place)

    def run() -> Any:
        session.run_with_iobinding(binding)
        return outputs["out"].reshape(case.query_len, case.num_heads, -1).swapaxes(0, 1)

    own = [*inputs.values()] + ([] if case.decode else [*caches.values()])
    return Candidate(run, own_bytes=sum(each.nbytes for each in own))


def openvino(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time its ScaledDotProductAttention at prefill, and two matrix products at decode.

    At decode the latter took half as long; the heads of a group are rows of one head there.
    """
    if method != "plain":
        return None
    import openvino as ov
    from openvino import opset13 as ops

    query, key, value = arrays[:3]
    group = case.num_heads // case.num_kv_heads
    if case.decode:
        query = query.reshape(1, case.num_kv_heads, group, case.head_dim)
    inputs = [ops.parameter(list(each.shape), np.float32) for each in (query, key, value)]
    if case.decode:
        scale = np.float32(case.head_dim**-0.5)
        scores = ops.multiply(ops.matmul(inputs[0], inputs[1], False, True), scale)
        node = ops.matmul(ops.softmax(scores, -1), inputs[2], False, False)
    else:
        every = [inputs[0]]  # heads of a group share a key head: repeated, since it has no groups
        shape = np.array([1, case.num_kv_heads, group, case.key_len, case.head_dim])
        flat = np.array([1, case.num_heads, case.key_len, case.head_dim])
        for each in inputs[1:]:
            repeated = ops.broadcast(
                ops.unsqueeze(each, np.array(2)), shape, broadcast_spec="BIDIRECTIONAL"
            )
            every.append(ops.reshape(repeated, flat, False) if group > 1 else each)
        node = ops.scaled_dot_product_attention(*every, causal=True)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # else it takes bfloat16 where the CPU has it
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = ov.Core().compile_model(ov.Model([node], inputs), "CPU", settings)
    request = request.create_infer_request()
    for index, array in enumerate((query, key, value)):
        request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))

    def run() -> Any:
        request.infer()
        return request.get_output_tensor(0).data

    return Candidate(run)


PEERS = {
    "reattend": Peer(reattend, ("reattend",)),
    "torch-sdpa": Peer(torch_sdpa, ("torch",)),
    "torch-eager": Peer(torch_eager, ("torch",)),
    "onnxruntime": Peer(onnxruntime, ("onnxruntime", "onnx")),
    "openvino": Peer(openvino, ("openvino",)),
}
