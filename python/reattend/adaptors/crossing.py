"""How tensors of torch cross to NumPy and back: the one place that knows their types."""

from __future__ import annotations

from typing import Any

import numpy as np

from reattend.extras import demand
from reattend.policy import Array


def floats(tensor: Any) -> Array:
    """Give a float tensor as a float32 array, without a copy where it is float32 already.

    Parameters
    ----------
    tensor : torch.Tensor
        On the CPU.
    """
    # The core computes in float32 only, so float16 and bfloat16 cost a copy here.
    array: Array = tensor.detach().float().numpy()
    return array


def bools(tensor: Any) -> Array:
    """Give a tensor or array of zeros and ones as an array of bool.

    Parameters
    ----------
    tensor : torch.Tensor or array
    """
    array = tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)
    return np.asarray(array).astype(bool, copy=False)


def output_like(query: Any, value: Any) -> tuple[Any, Array]:
    """Make room for an output: the tensor [B, N, H, Dv] that models want, and [B, H, N, Dv] of it.

    Parameters
    ----------
    query, value : torch.Tensor
        [B, H, N, D] and [B, H_kv, M, Dv].
    """
    torch = demand("torch")
    batch, heads, rows, _ = query.shape
    tensor = torch.empty((batch, rows, heads, value.shape[-1]), dtype=torch.float32)
    return tensor, tensor.numpy().transpose(0, 2, 1, 3)
