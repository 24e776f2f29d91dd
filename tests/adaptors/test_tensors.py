"""Tensors cross to NumPy as they lie, or are refused."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reattend.adaptors.transformers.tensors import numbers, output_like  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_tensors_cross_without_a_copy(dtype):
    heads_inside = torch.randn(2, 7, 4, 8).to(dtype).transpose(1, 2)  # as models hand them over
    (array,), _ = numbers(heads_inside)
    assert array.shape == (2, 4, 7, 8)
    assert array.ctypes.data == heads_inside.data_ptr()
    tensor, out = output_like(heads_inside, heads_inside, exact=False)
    assert tensor.dtype == dtype
    assert out.ctypes.data == tensor.data_ptr()


LAYOUTS = {
    "whole": lambda x: x,
    "of one head": lambda x: x[:, 1:2],
    "expanded": lambda x: x[:1].expand(5, -1, -1, -1),
    "of a larger one": lambda x: x[:, :, 2:5, 1:],
    "no rows": lambda x: x[:, :, :0],
    "of one axis": lambda x: x[0, 0, 0],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("wrap", [torch.Tensor.detach, torch.nn.Parameter], ids=["", "Parameter"])
def test_tensors_cross_as_they_lie(dtype, layout, wrap):
    """A Parameter goes the framework's own way: it is a subclass."""
    tensor = wrap(layout(torch.randn(2, 4, 7, 8).to(dtype)))
    (array,), bits = numbers(tensor)
    expected = tensor.detach()
    if dtype == torch.bfloat16:
        expected = expected.view(torch.uint16)
    expected = expected.numpy()
    assert bits == ("bfloat16" if dtype == torch.bfloat16 else None)
    assert array.dtype == expected.dtype
    assert array.strides == expected.strides
    np.testing.assert_array_equal(array, expected)
    assert not array.size or array.ctypes.data == tensor.data_ptr()


def test_arrays_keep_their_tensors():
    (array,), _ = numbers(torch.arange(1000.0))
    [torch.zeros(1000) for _ in range(100)]  # would take its place
    np.testing.assert_array_equal(array, np.arange(1000))


def test_tensors_without_memory_of_their_own_are_refused():
    """As torch's own way into NumPy refuses them: their memory says something else."""
    with pytest.raises(RuntimeError, match="negative bit"):
        numbers(torch.randn(2, 3, dtype=torch.complex64).conj().imag)
    with pytest.raises(TypeError, match="meta"):
        numbers(torch.ones(3, device="meta"))
    with pytest.raises(RuntimeError, match="storage"):
        torch.vmap(lambda x: numbers(x) and x)(torch.ones(2, 3))
    with FakeTensorMode(), pytest.raises(RuntimeError, match="subclasses"):
        numbers(torch.ones(3))


def test_a_torch_without_the_exchange_api(monkeypatch):
    monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__")
    (array,), bits = numbers(torch.ones(2, 3).bfloat16())
    assert bits == "bfloat16"
    np.testing.assert_array_equal(array, np.full((2, 3), 0x3F80, np.uint16))


def test_tensors_of_several_types_cross_as_float32():
    arrays, dtype = numbers(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4).bfloat16())
    assert dtype is None
    assert [array.dtype for array in arrays] == [np.float32, np.float32]
