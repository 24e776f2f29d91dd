"""Peers that compile a graph first: ONNX Runtime and OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import Arrays, Candidate, Case
from numpy.typing import NDArray


def onnxruntime(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time the contributed operator GroupQueryAttention, inputs and outputs bound.

    It beat MultiHeadAttention, the standard's Attention and plain matrix products in every case.
    Queries are [1, N, H D], its own layout. A decode step appends its key and value to a cache
    that stands in place, as it does in a model. On CPUs it has no bfloat16.
    """
    if method != "plain" or case.dtype == "bfloat16":
        return None
    import onnxruntime as ort
    from onnx import TensorProto, helper

    def joined(array: NDArray[Any]) -> NDArray[Any]:
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
        kinds = {
            "float32": TensorProto.FLOAT,
            "float16": TensorProto.FLOAT16,
            "int32": TensorProto.INT32,
        }
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

    At decode the latter took half as long; the heads of a group are rows of one head there. Its
    float16 is no more exact than its bfloat16 on CPUs without float16 products: left out.
    """
    if method != "plain" or case.dtype == "float16":
        return None
    import openvino as ov
    from openvino import opset13 as ops

    query, key, value = arrays[:3]
    group = case.num_heads // case.num_kv_heads
    if case.decode:
        query = query.reshape(1, case.num_kv_heads, group, case.head_dim)
    kind = {"float32": ov.Type.f32, "bfloat16": ov.Type.bf16}[case.dtype]
    inputs = [ops.parameter(list(each.shape), kind) for each in (query, key, value)]
    if case.decode:
        scale = ops.convert(ops.constant(np.float32(case.head_dim**-0.5)), kind)
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
        "INFERENCE_PRECISION_HINT": kind.to_string(),  # else bfloat16 where the CPU has it
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = ov.Core().compile_model(ov.Model([node], inputs), "CPU", settings)
    request = request.create_infer_request()
    for index, array in enumerate((query, key, value)):
        # ov.Tensor wants a type that NumPy has itself: bfloat16 goes as its bits.
        bits = array.view(np.uint16) if case.dtype == "bfloat16" else array
        request.set_input_tensor(index, ov.Tensor(bits, array.shape, kind))

    def run() -> Any:
        request.infer()
        return request.get_output_tensor(0).data.view(
            arrays.query.dtype
        )  # bfloat16 comes as float16

    return Candidate(run)
