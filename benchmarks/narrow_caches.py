"""A step over caches of 8 and 4 bits: ours, ONNX Runtime's and llama.cpp's, on the same numbers.

    python benchmarks/narrow_caches.py [--keys 4096] [--rounds 20] [--threads 2]

Ours has a scale for each token and head as int8, and as int4 what `KVCache(dtype="int4")` holds;
ONNX Runtime's `GroupQueryAttention` one for each head and column (its finest), llama.cpp one for
each 32 numbers (q8_0, q4_0), which we read as well. Rounds go in turns and the shortest counts; the
error is the largest against NumPy's full matrix in float64 on the numbers before they were rounded.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import peers_ggml
import reattend as ra

SHAPES = {"llava-1.5-7b": (32, 32, 128), "llama3-8b": (32, 8, 128), "smollm2-135m": (9, 3, 64)}
GGML = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}


def onnxruntime(
    query: Any, key: Any, value: Any, bits: int, threads: int
) -> tuple[Callable[[], Any], Any]:
    """Give a step and where its output goes; its cache stands in place, as in a model."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    (_, heads, _, dim), (_, kv_heads, length, _) = query.shape, key.shape
    most = np.float32(2 ** (bits - 1) - 1)
    scales = [np.abs(each).max(2, keepdims=True) / most for each in (key, value)]
    caches = [
        np.rint(each / scale).astype(np.int8)
        for each, scale in zip((key, value), scales, strict=True)
    ]
    if bits == 4:  # two numbers to a byte, each 8 more than it is
        caches = [(each + 8).astype(np.uint8) for each in caches]
        caches = [each[..., ::2] | each[..., 1::2] << 4 for each in caches]
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
    kinds = {
        "float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8,
        "int32": TensorProto.INT32,
    }  # fmt: skip
    described = {
        name: helper.make_tensor_value_info(name, kinds[str(each.dtype)], each.shape)
        for name, each in given.items()
    }
    names = list(given)
    node = helper.make_node(
        "GroupQueryAttention", [*names[:7], *[""] * 5, *names[7:]], ["out", "keys", "values"],
        domain="com.microsoft", num_heads=heads, kv_num_heads=kv_heads, kv_cache_bit_width=bits,
        k_quant_type="PER_CHANNEL", v_quant_type="PER_CHANNEL",
    )  # fmt: skip
    stored = kinds[str(caches[0].dtype)]
    results = {"out": TensorProto.FLOAT, "keys": stored, "values": stored}
    shapes = {"out": (1, 1, heads * dim), "keys": caches[0].shape, "values": caches[1].shape}
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


def ours(query: Any, threads: int, *stored: Any) -> Callable[[], Any]:
    """Give a step over keys and values."""
    return functools.partial(ra.attention, query, *stored, num_threads=threads)


def candidates(query: Any, key: Any, value: Any, threads: int) -> dict[str, Callable[[], Any]]:
    """Give the steps by name; each gives its output [1, H, 1, D] or [1, 1, H, D]."""
    steps: dict[str, Callable[[], Any]] = {
        "float32": ours(query, threads, key, value),
        "int8": ours(query, threads, ra.quantize(key), ra.quantize(value)),
        "int4": ours(query, threads, *ra.KVCache(1, dtype="int4").append(0, key, value)),
    }
    for bits in (8, 4):
        run, out = onnxruntime(query, key, value, bits, threads)

        def step(run: Callable[[], Any] = run, out: Any = out) -> Any:
            run()
            return out

        steps[f"ONNX Runtime int{bits}"] = step
    for name, kind in GGML.items():
        blocks = [gguf.quants.quantize(each, kind) for each in (key, value)]
        stored = [ra.QuantizedBlocks.from_ggml(each, name) for each in blocks]
        steps[name] = ours(query, threads, *stored)
        if importlib.util.find_spec(peers_ggml.PACKAGE):
            kinds = [("float32", query.shape), *((name, each.shape) for each in (key, value))]
            steps[f"llama.cpp {name}"] = peers_ggml.flash_attention(
                [query, *blocks], kinds, threads
            )
    return steps


def main() -> None:
    """Measure each shape, and print a row of a table for each step."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--keys", type=int, default=4096)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args()
    print("| shape | cache | ms | float32 takes | int8 takes | error |")
    print("| --- | --- | --- | --- | --- | --- |")
    for shape, (heads, kv_heads, dim) in SHAPES.items():
        rng = np.random.default_rng(0)
        query = rng.standard_normal((1, heads, 1, dim), np.float32)
        key, value = rng.standard_normal((2, 1, kv_heads, given.keys, dim), np.float32)
        expected = ra.reference.attention(query, key, value)
        steps = candidates(query, key, value, given.threads)
        least, errors = dict.fromkeys(steps, np.inf), {}
        for name, step in steps.items():
            out = step()
            out = out.numpy() if hasattr(out, "numpy") else out
            errors[name] = np.abs(out.reshape(expected.shape) - expected).max()
        for _ in range(given.rounds):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                least[name] = min(least[name], time.perf_counter() - start)
        for name, time_ in least.items():
            ratios = " | ".join(f"{least[of] / time_:.2f}x" for of in ("float32", "int8"))
            print(f"| {shape} | {name} | {time_ * 1e3:.2f} | {ratios} | {errors[name]:.0e} |")


if __name__ == "__main__":
    main()
