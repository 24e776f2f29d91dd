"""How tensors of torch cross to NumPy and back: the one place that knows their types."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from reattend.adaptors.transformers.masks import visible
from reattend.adaptors.transformers.protocols import Tensor
from reattend.border.dtypes import arrays_of
from reattend.optional import demand
from reattend.policy import Array


def floats(tensor: Tensor) -> Array:
    """Give a float tensor as a float32 array, without a copy where it is float32 already.

    Parameters
    ----------
    tensor : torch.Tensor
        On the CPU.
    """
    return tensor.detach().float().numpy()


def numbers(*tensors: Tensor) -> tuple[list[Array], str | None]:
    """Give float tensors as the core reads them, without a copy where all have one type it knows.

    Parameters
    ----------
    *tensors : torch.Tensor
        On the CPU.

    Returns
    -------
    arrays : list of array
        float32, float16, or the bits of bfloat16 as uint16.
    dtype : "bfloat16" or None
        What bits are.
    """
    torch = demand("torch")
    kind = tensors[0].dtype
    if not any(map(torch.is_neg, tensors)):  # such a one's memory has the other sign
        arrays = arrays_of(torch.Tensor, tensors)  # in half the time, of bfloat16 in a quarter
        if arrays is not None:
            return arrays, "bfloat16" if kind == torch.bfloat16 else None
    same = all(tensor.dtype == kind for tensor in tensors)
    if same and kind == torch.bfloat16:
        return [tensor.detach().view(torch.uint16).numpy() for tensor in tensors], "bfloat16"
    if same and kind == torch.float16:
        return [tensor.detach().numpy() for tensor in tensors], None
    return [floats(tensor) for tensor in tensors], None


def bools(tensor: Tensor | Array) -> Array:
    """Give a tensor or array of zeros and ones as an array of bool.

    Parameters
    ----------
    tensor : torch.Tensor or array
    """
    array = tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)
    return np.asarray(array).astype(bool, copy=False)


def padding_of(mask: Tensor | Mapping[str, Tensor | None] | None) -> Array | None:
    """Give which keys are no padding, as far as what a decoder was given for a mask says that.

    Parameters
    ----------
    mask : torch.Tensor, dict of these, or None
        [B, M], [B, H or 1, N, M], or one of these for each kind of layer.

    Returns
    -------
    array of bool [B, M], or None
        None if it says nothing. Of a mask of rows and keys: what some row sees, as each key is seen
        by its own row at least.
    """
    given = mask.values() if isinstance(mask, Mapping) else [mask]
    masks = [each for each in given if each is not None]
    for each in masks:
        if each.ndim == 2:
            return bools(each)
    for each in masks:
        if each.ndim == 4:
            pairs = visible(floats(each)) if each.is_floating_point() else bools(each)
            return np.asarray(pairs[:, 0].any(1))
    return None


def output_like(query: Tensor, value: Tensor, *, exact: bool) -> tuple[Tensor, Array]:
    """Make room for an output: the tensor [B, N, H, Dv] that models want, and [B, H, N, Dv] of it.

    Parameters
    ----------
    query, value : torch.Tensor
        [B, H, N, D] and [B, H_kv, M, Dv].
    exact : bool
        Whether the output shall be float32, whatever type the inputs have.
    """
    torch = demand("torch")
    batch, heads, rows, _ = query.shape
    kind = torch.float32 if exact else query.dtype
    shape = (batch, rows, heads, value.shape[-1])
    if kind == torch.float32:  # in two thirds of the time
        array = np.empty(shape, np.float32)
        return torch.from_numpy(array), array.transpose(0, 2, 1, 3)
    tensor: Tensor = torch.empty(shape, dtype=kind)
    return tensor, numbers(tensor)[0][0].transpose(0, 2, 1, 3)
