"""A step over a cache of 8 bits: ours beside ONNX Runtime's, on the same numbers.

    python benchmarks/narrow_caches.py [--keys 4096] [--rounds 20] [--threads 2]

Ours has a scale for each token and head, ONNX Runtime's `GroupQueryAttention` one for each head and
column (its finest). Rounds go in turns and the shortest counts; the error is the largest against
NumPy's full matrix in float64 on the numbers before they were rounded.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import reattend as ra

SHAPES = {"llava-1.5-7b": (32, 32, 128), "llama3-8b": (32, 8, 128), "smollm2-135m": (9, 3, 64)}


def onnxruntime(query: Any, key: Any, value: Any, threads: int) -> tuple[Callable[[], Any], Any]:
    """Give a step and where its output goes; its cache stands in place, as in a model."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    (_, heads, _, dim), (_, kv_heads, length, _) = query.shape, key.shape
    scales = [np.abs(each).max(2, keepdims=True) / np.float32(127) for each in (key, value)]
    caches = [
        np.rint(each / scale).astype(np.int8)
        for each, scale in zip((key, value), scales, strict=True)
    ]
    given = {
        "query": query.reshape(1, 1, -1),
        "key": np.ascontiguousarray(key[:, :, -1]).reshape(1, 1, -1),
        "value": np.ascontiguousarray(value[:, :, -1]).reshape(1, 1, -1),
        "past_keys": caches[0],
        "past_values": caches[1],
        "length_less_one": np.array([length - 1], np.int32),
        "length": np.array([length], np.int32),
        "key_scale": scales[0],
        "value_scale": scales[1],
    }
    kinds = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "int32": TensorProto.INT32}
    described = {
        name: helper.make_tensor_value_info(name, kinds[str(each.dtype)], each.shape)
        for name, each in given.items()
    }
    names = list(given)
    node = helper.make_node(
        "GroupQueryAttention", [*names[:7], *[""] * 5, *names[7:]], ["out", "keys", "values"],
        domain="com.microsoft", num_heads=heads, kv_num_heads=kv_heads, kv_cache_bit_width=8,
        k_quant_type="PER_CHANNEL", v_quant_type="PER_CHANNEL",
    )  # fmt: skip
    results = {"out": TensorProto.FLOAT, "keys": TensorProto.INT8, "values": TensorProto.INT8}
    shapes = {"out": (1, 1, heads * dim), "keys": key.shape, "values": value.shape}
    graph = helper.make_graph(
        [node], "step", list(described.values()),
        [helper.make_tensor_value_info(name, results[name], shapes[name]) for name in results],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    places = {name: ort.OrtValue.ortvalue_from_numpy(each) for name, each in given.items()}
    for name, place in places.items():
        binding.bind_ortvalue_input(name, place)
    out = ort.OrtValue.ortvalue_from_numpy(np.zeros(shapes["out"], np.float32))
    binding.bind_ortvalue_output("out", out)
    for name in ("keys", "values"):
        binding.bind_ortvalue_output(name, places[f"past_{name}"])
    return functools.partial(session.run_with_iobinding, binding), out


def main() -> None:
    """Measure each shape, and print a row of a table for it."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--keys", type=int, default=4096)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args()
    print("| shape | float32, ms | int8 | ONNX Runtime int8 | error of int8 | of ONNX Runtime's |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (heads, kv_heads, dim) in SHAPES.items():
        rng = np.random.default_rng(0)
        query = rng.standard_normal((1, heads, 1, dim), np.float32)
        key, value = rng.standard_normal((2, 1, kv_heads, given.keys, dim), np.float32)
        step = functools.partial(ra.attention, query, num_threads=given.threads)
        peer, out = onnxruntime(query, key, value, given.threads)
        narrow = functools.partial(step, ra.quantize(key), ra.quantize(value))
        expected = ra.reference.attention(query, key, value)
        peer()
        errors = [np.abs(narrow() - expected).max()]
        errors.append(np.abs(out.numpy().reshape(expected.shape) - expected).max())
        calls = functools.partial(step, key, value), narrow, peer
        least = [np.inf] * len(calls)
        for _ in range(given.rounds):
            for i, call in enumerate(calls):
                start = time.perf_counter()
                call()
                least[i] = min(least[i], time.perf_counter() - start)
        times = " | ".join(f"{each * 1e3:.2f}" for each in least)
        print(f"| {name} | {times} | {errors[0]:.0e} | {errors[1]:.0e} |")


if __name__ == "__main__":
    main()
