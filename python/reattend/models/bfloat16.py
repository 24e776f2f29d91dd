"""A model's matrices in bfloat16: two to five times float32's rate on CPUs with AMX.

For work that is bound by matrices, many prompts or long ones. Everything between two matrices, the
last one and attention stay float32.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from reattend.models.llama import Llama
from reattend.optional import demand
from reattend.policy import Array


class Bfloat16Matrix:
    """A matrix kept in bfloat16, for ``x @ matrix``; torch multiplies.

    Parameters
    ----------
    matrix : float32 array [in, out]
        Is rounded.

    Raises
    ------
    MissingPackageError
        If torch is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> matrix = Bfloat16Matrix(np.array([[1.0, 1 / 3]], dtype=np.float32))
    >>> np.ones((2, 1), dtype=np.float32) @ matrix
    array([[1.        , 0.33398438],
           [1.        , 0.33398438]], dtype=float32)
    """

    __array_ufunc__ = None  # NumPy leaves `x @ matrix` to this class

    def __init__(self, matrix: Array) -> None:
        self._torch = demand("torch")
        self._matrix = self._torch.from_numpy(matrix).bfloat16()

    def __rmatmul__(self, x: Array) -> Array:
        product = self._torch.from_numpy(x).bfloat16() @ self._matrix
        result: Array = product.float().numpy()
        return result


def round_matrices(llama: Llama) -> None:
    """Keep the matrices of a model's layers in bfloat16 from now on.

    Parameters
    ----------
    llama : Llama
        Is changed. Its embedding and its last matrix stay as they are: logits rounded to bfloat16
        would tie.

    Raises
    ------
    MissingPackageError
        If torch is not installed.
    """
    for index, layer in enumerate(llama.layers):
        matrices: dict[str, Any] = {
            field.name: Bfloat16Matrix(weight)
            for field in fields(layer)
            if (weight := getattr(layer, field.name)) is not None and weight.ndim == 2
        }
        llama.layers[index] = replace(layer, **matrices)
