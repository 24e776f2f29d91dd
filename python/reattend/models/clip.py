"""CLIP's vision tower in NumPy: from pixels to a state for each patch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reattend.attention import attention
from reattend.models.vision import Linear
from reattend.policy import Array

_erf = np.frompyfunc(math.erf, 1, 1)


def exact_gelu(x: Array) -> Array:
    """Compute x Phi(x).

    Examples
    --------
    >>> exact_gelu(np.array([-1.0, 0.0, 1.0], dtype=np.float32)).round(4)
    array([-0.1587,  0.    ,  0.8413], dtype=float32)
    """
    twice_phi = 1 + np.asarray(_erf(x / math.sqrt(2)), np.float32)
    return np.asarray(x * twice_phi / 2)


def quick_gelu(x: Array) -> Array:
    """Compute x / (1 + exp(-1.702 x)), as CLIP does.

    Examples
    --------
    >>> quick_gelu(np.array([-1.0, 0.0, 1.0], dtype=np.float32)).round(4)
    array([-0.1542,  0.    ,  0.8458], dtype=float32)
    """
    with np.errstate(over="ignore"):  # a very negative one: exp is inf and the quotient -0
        return np.asarray(x / (1 + np.exp(np.float32(-1.702) * x)))


@dataclass(frozen=True)
class Norm:
    """A layer norm.

    Examples
    --------
    >>> norm = Norm(np.ones(2, np.float32), np.zeros(2, np.float32))
    >>> norm(np.array([1.0, 3.0], np.float32)).round(3)
    array([-1.,  1.], dtype=float32)
    """

    weight: Array  # [C]
    bias: Array  # [C]
    eps: float = 1e-5

    def __call__(self, x: Array) -> Array:
        """Normalise [..., C]."""
        x = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.eps))
        return np.asarray(x / scale * self.weight + self.bias)


@dataclass(frozen=True)
class ClipLayer:
    """One layer of a tower."""

    attention_norm: Norm
    query_key_value: Linear  # [C, 3 C]
    attention_output: Linear  # [C, C]
    mlp_norm: Norm
    inner: Linear  # [C, F]
    outer: Linear  # [F, C]

    def __call__(self, x: Array, num_heads: int, activation: Callable[[Array], Array]) -> Array:
        """Read [B, N, C] and give as many."""
        batch, count, size = x.shape
        heads = self.query_key_value(self.attention_norm(x)).reshape(batch, count, 3, num_heads, -1)
        query, key, value = heads.transpose(2, 0, 3, 1, 4)
        out = attention(query, key, value, causal=False)
        x = x + self.attention_output(out.transpose(0, 2, 1, 3).reshape(batch, count, size))
        return x + self.outer(activation(self.inner(self.mlp_norm(x))))


@dataclass(frozen=True)
class ClipTower:
    """A vision transformer, run as far as the layer whose states are asked for.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> def weight(*shape):
    ...     return rng.standard_normal(shape, dtype=np.float32)
    >>> norm = Norm(weight(8), weight(8))
    >>> tower = ClipTower(weight(3 * 7 * 7, 8), weight(8), weight(17, 8), norm, [], 2, 7)
    >>> tower(np.zeros((1, 3, 28, 28), np.float32)).shape
    (1, 17, 8)
    """

    patches: Array  # [channels P P, C]
    class_state: Array  # [C], of a token before the patches
    positions: Array  # [1 + patches, C]
    norm: Norm  # before the first layer
    layers: list[ClipLayer]
    num_heads: int
    patch: int  # P, side of a patch
    activation: Callable[[Array], Array] = quick_gelu

    def __call__(self, pixels: Array) -> Array:
        """Read pictures [B, channels, S, S] and give states [B, 1 + patches, C]."""
        batch, channels, height, width = pixels.shape
        side = self.patch
        rows = pixels.reshape(batch, channels, height // side, side, width // side, side)
        rows = rows.transpose(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * side * side)
        first = np.broadcast_to(self.class_state, (batch, 1, len(self.class_state)))
        x = self.norm(np.concatenate([first, rows @ self.patches], axis=1) + self.positions)
        for layer in self.layers:
            x = layer(x, self.num_heads, self.activation)
        return x
