"""GGUF files read as the package gguf reads them."""

import numpy as np
import pytest
import tiny_llama as tiny
from reattend.models import gguf_file

gguf = pytest.importorskip("gguf")
BLOCKS = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}


def hold_against_the_package(path):
    found, wanted = gguf_file.read(path, BLOCKS), gguf.GGUFReader(path)
    fields = {key: each for key, each in wanted.fields.items() if not key.startswith("GGUF.")}
    assert list(found.fields) == list(fields)
    for key, each in fields.items():
        content = each.contents()
        assert found.fields[key] == content, key
        assert type(found.fields[key]) is type(content), key
    assert list(found.tensors) == [tensor.name for tensor in wanted.tensors]
    for tensor in wanted.tensors:
        ours = found.tensors[tensor.name]
        assert ours.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert ours.kind == tensor.tensor_type
        assert ours.data.tobytes() == tensor.data.tobytes()


@pytest.mark.parametrize("alignment", [32, 64])
def test_every_type_of_value(tmp_path, alignment):
    writer = gguf.GGUFWriter(tmp_path / "all.gguf", "llama")
    writer.add_custom_alignment(alignment)
    for kind, value in (
        ("uint8", 255), ("int8", -128), ("uint16", 65535), ("int16", -32768),
        ("uint32", 2**32 - 1), ("int32", -(2**31)), ("float32", 0.1), ("bool", True),
        ("uint64", 2**64 - 1), ("int64", -(2**63)), ("float64", 0.1), ("string", "ü, \0"),
    ):  # fmt: skip
        getattr(writer, f"add_{kind}")(kind, value)
    for name, values in (("texts", ["a", "", "ü"]), ("numbers", [1, 2]), ("reals", [0.5, -1.0])):
        writer.add_array(name, values)
    writer.add_array("flags", [True, False])
    for name, shape in (("vector", (3,)), ("matrix", (2, 3)), ("four", (2, 1, 3, 4))):
        writer.add_tensor(name, np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    hold_against_the_package(tmp_path / "all.gguf")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_every_kind_of_tensor(rng, tmp_path, kind):
    hold_against_the_package(tiny.write(tmp_path / "tiny.gguf", tiny.weights(rng), kind=kind))
