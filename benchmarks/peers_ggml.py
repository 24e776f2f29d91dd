"""llama.cpp as a peer: its flash attention, through ctypes, from a wheel that carries libggml."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.metadata import files
from typing import Any

import numpy as np
from cases import Arrays, Candidate, Case
from numpy.typing import NDArray

PACKAGE = "pywhispercpp"
KINDS = {"float32": 0, "float16": 1, "q4_0": 2, "q8_0": 8, "bfloat16": 30}  # enum ggml_type
_Pointer, _Size = ctypes.c_void_p, ctypes.c_int64


class _Room(ctypes.Structure):  # ggml_init_params
    _fields_ = (("size", ctypes.c_size_t), ("buffer", _Pointer), ("no_alloc", ctypes.c_bool))


class _Plan(ctypes.Structure):  # ggml_cplan; the rest is given back as it came
    _fields_ = (
        ("work_size", ctypes.c_size_t),
        ("work_data", _Pointer),
        ("num_threads", ctypes.c_int),
        ("rest", _Pointer * 8),
    )


def llama_cpp(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time `ggml_flash_attn_ext`; keys and values in the case's type, queries in float32.

    The causal mask is a float16 matrix, as llama.cpp makes it, off the clock. The wheel is built
    for AVX2.
    """
    if method != "plain" or case.window:
        return None
    inputs = [arrays.query.astype(np.float32), arrays.key, arrays.value]
    if not case.decode:
        shape = (1, 1, case.query_len, case.key_len)
        inputs.append(np.triu(np.full(shape, -np.inf, np.float16), 1))
    run = flash_attention(inputs, [(str(each.dtype), each.shape) for each in inputs], threads)
    return Candidate(run, own_bytes=sum(each.nbytes for each in inputs))


def flash_attention(
    inputs: list[NDArray[Any]], kinds: list[tuple[str, tuple[int, ...]]], threads: int
) -> Callable[[], Any]:
    """Give a call on query, key, value and a mask, if any, of these types and shapes."""
    base, cpu = _libraries()
    own = sum(each.nbytes for each in inputs)
    context = base.ggml_init(_Room(own + inputs[0].nbytes + 2**20, None, False))

    def tensor(array: NDArray[Any], kind: str, shape: tuple[int, ...]) -> int:
        made: int = base.ggml_new_tensor_4d(context, KINDS[kind], *shape[::-1])
        ctypes.memmove(base.ggml_get_data(made), array.ctypes.data, array.nbytes)
        return made

    made = [tensor(each, *kind) for each, kind in zip(inputs, kinds, strict=True)]
    batch, heads, rows, dim = kinds[0][1]
    made += [None] * (4 - len(made))
    node = base.ggml_flash_attn_ext(context, *made, dim**-0.5, 0, 0)
    graph = base.ggml_new_graph(context)
    base.ggml_build_forward_expand(graph, node)
    plan = cpu.ggml_graph_plan(graph, threads, None)
    work = ctypes.create_string_buffer(plan.work_size + 1)
    plan.work_data = ctypes.addressof(work)
    place = ctypes.cast(base.ggml_get_data(node), ctypes.POINTER(ctypes.c_float))
    shape = (batch, rows, heads, dim)  # its own order
    out = np.ctypeslib.as_array(place, shape).swapaxes(1, 2)

    def run() -> Any:
        _ = work, inputs  # what the plan points to
        cpu.ggml_graph_compute(graph, plan)
        return out

    return run


@cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """Load libggml-base and libggml-cpu, and name the types of what is called."""
    found = [f.locate() for f in files(PACKAGE) or () if f"{PACKAGE}.libs" in f.parts]
    paths = [
        next(str(path) for path in found if name in path.name) for name in ("ggml-base", "ggml-cpu")
    ]
    base = ctypes.CDLL(paths[0], ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(paths[1])
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ggml_init": (_Pointer, [_Room]),
        "ggml_new_tensor_4d": (_Pointer, [_Pointer, ctypes.c_int, *[_Size] * 4]),
        "ggml_get_data": (_Pointer, [_Pointer]),
        "ggml_flash_attn_ext": (_Pointer, [*[_Pointer] * 5, *[ctypes.c_float] * 3]),
        "ggml_new_graph": (_Pointer, [_Pointer]),
        "ggml_build_forward_expand": (None, [_Pointer] * 2),
        "ggml_graph_plan": (_Plan, [_Pointer, ctypes.c_int, _Pointer]),
        "ggml_graph_compute": (ctypes.c_int, [_Pointer, ctypes.POINTER(_Plan)]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(cpu if name.startswith("ggml_graph_") else base, name)
        function.restype, function.argtypes = result, arguments
    cpu.ggml_cpu_init()
    return base, cpu
