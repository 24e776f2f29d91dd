"""From pixels to image tokens: convolutions as matrix products, and a projector.

A picture is [S, S, channels] throughout: of a window each row is one piece of memory, and what the
last convolution gives has a row for each image token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from reattend.policy import Array

IMAGE_SIZE = 120  # height and width of a picture
PATCH = 12  # an image token stands for a square of so many pixels
IMAGE_TOKENS = (IMAGE_SIZE // PATCH) ** 2

GROUPS = 8  # of channels, normalised together
_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Convolution:
    """A convolution with its group norm, GELU and average pool, weights in float32.

    Parameters
    ----------
    weight : float32 array [k, k, in, out]
        Of windows of k x k; outside of the picture is 0.
    bias, norm_weight, norm_bias : float32 array [out]
        Added to the products; the norm's factor and what it adds.
    pool : int, optional
        Side of the squares that are averaged.

    Examples
    --------
    >>> weight, ones = np.ones((3, 3, 3, 8), dtype=np.float32), np.ones(8, dtype=np.float32)
    >>> convolution = Convolution(weight, ones, ones, ones, pool=2)
    >>> convolution(np.zeros((120, 120, 3), dtype=np.float32)).shape
    (60, 60, 8)
    """

    weight: Array
    bias: Array
    norm_weight: Array
    norm_bias: Array
    pool: int = 1

    def __call__(self, x: Array) -> Array:
        """Read a picture [S, S, in] and give [S / pool, S / pool, out]."""
        size, channels = len(x), self.weight.shape[-1]
        x = _windows(x, len(self.weight)) @ self.weight.reshape(-1, channels)
        x += self.bias
        x = gelu(self._normalised(x))
        return _pooled(x.reshape(size, size, channels), self.pool)

    def _normalised(self, x: Array) -> Array:
        """Normalise groups of channels of [places, C] over all places, in place."""
        x -= _of_groups(x.mean(0))
        variance = _of_groups(np.einsum("pc,pc->c", x, x) / len(x))
        x *= self.norm_weight / np.sqrt(variance + _NORM_EPS)
        x += self.norm_bias
        return x


class Encoder:
    """Convolutions that turn pixels into features, a row for each image token.

    Parameters
    ----------
    convolutions : sequence of Convolution
        One after the other; their pools take 12 pixels together to one.

    Examples
    --------
    >>> ones = np.ones(8, dtype=np.float32)
    >>> encoder = Encoder([Convolution(np.ones((1, 1, 3, 8), np.float32), ones, ones, ones, 12)])
    >>> encoder(np.zeros((2, 120, 120, 3), dtype=np.uint8)).shape
    (2, 100, 8)
    """

    def __init__(self, convolutions: Sequence[Convolution]) -> None:
        self.convolutions = tuple(convolutions)
        pooled = int(np.prod([each.pool for each in self.convolutions]))
        if pooled != PATCH:
            raise ValueError(f"convolutions must pool {PATCH} pixels to one, got {pooled}")

    def __call__(self, pixels: Array) -> Array:
        """Turn pixels into features.

        Parameters
        ----------
        pixels : uint8 array [B, 120, 120, 3]
            Pictures, red, green and blue from 0 to 255.

        Returns
        -------
        float32 array [B, 100, channels]
            Patches row by row.

        Raises
        ------
        TypeError, ValueError
            If pixels are of another type or shape.

        """
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8:
            raise TypeError(f"pixels must be uint8, from 0 to 255, got {pixels.dtype}")
        if pixels.ndim != 4 or pixels.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
            raise ValueError(
                f"pixels must be [B, {IMAGE_SIZE}, {IMAGE_SIZE}, 3], got shape {pixels.shape}"
            )
        channels = self.convolutions[-1].weight.shape[-1]
        features = np.empty((len(pixels), IMAGE_TOKENS, channels), dtype=np.float32)
        for picture, tokens in zip(pixels, features, strict=True):
            # One at a time: its windows, 4 MiB, are still in a cache when they are multiplied.
            x = picture / np.float32(127.5)
            x -= 1
            for convolution in self.convolutions:
                x = convolution(x)
            tokens[...] = x.reshape(IMAGE_TOKENS, channels)
        return features


@dataclass(frozen=True)
class Linear:
    """A matrix and what is added to its products, in float32.

    Examples
    --------
    >>> Linear(np.ones((2, 3), np.float32), np.zeros(3, np.float32))(np.ones(2, np.float32))
    array([2., 2., 2.], dtype=float32)
    """

    weight: Array  # [in, out]
    bias: Array  # [out]

    def __call__(self, x: Array) -> Array:
        """Multiply [..., in] and give [..., out]."""
        out: Array = x @ self.weight
        out += self.bias
        return out


@dataclass(frozen=True)
class Projector:
    """Two matrices with GELU between them: from features to embeddings of the language model.

    Examples
    --------
    >>> matrix = Linear(np.ones((3, 3), np.float32), np.zeros(3, np.float32))
    >>> Projector(matrix, matrix)(np.zeros((1, 100, 3), np.float32)).shape
    (1, 100, 3)
    """

    inner: Linear
    outer: Linear

    def __call__(self, features: Array) -> Array:
        """Project [..., in] and give [..., out]."""
        return self.outer(gelu(self.inner(features)))


@dataclass(frozen=True)
class Registers:
    """Learnt vectors in the place of a picture's blankest tokens, for what is to be kept nowhere.

    Large vision models keep global notes in tokens of blank background, which then draw attention
    as the first key does: visual sinks. Here such tokens are given, one vector each.

    Paper: Vision Transformers Need Registers (ICLR 2024), arXiv 2309.16588, which adds tokens.

    Examples
    --------
    >>> pixels = np.random.default_rng(0).integers(0, 256, (1, 120, 120, 3), dtype=np.uint8)
    >>> pixels[0, 12:24, 24:36] = 200
    >>> tokens = Registers(np.ones((1, 4), np.float32)).fill(pixels, np.zeros((1, 100, 4)))
    >>> np.flatnonzero(tokens[0, :, 0])
    array([12])
    """

    vectors: Array  # float32 [K, C]

    def fill(self, pixels: Array, tokens: Array) -> Array:
        """Put the vectors into tokens [B, 100, C], in place: the first at the blankest patch."""
        patches = blankest_patches(pixels, len(self.vectors))
        tokens[np.arange(len(tokens))[:, None], patches] = self.vectors
        return tokens


def blankest_patches(pixels: Array, count: int) -> Array:
    """Find the patches whose pixels vary least.

    Parameters
    ----------
    pixels : uint8 array [B, 120, 120, 3]
        Pictures.
    count : int
        How many patches of each.

    Returns
    -------
    int array [B, count]
        Places among the image's tokens, the blankest first.

    Examples
    --------
    >>> blankest_patches(np.zeros((1, 120, 120, 3), np.uint8), 3)
    array([[0, 1, 2]])
    """
    side = IMAGE_SIZE // PATCH
    patches = pixels.reshape(-1, side, PATCH, side, PATCH, 3).astype(np.int64)
    # The variance times the number of pixels squared: in integers it is the same everywhere.
    sums, squares = patches.sum((2, 4)), (patches * patches).sum((2, 4))
    variance = (PATCH * PATCH * squares - sums * sums).sum(-1).reshape(-1, side * side)
    return np.argsort(variance, axis=-1, kind="stable")[:, :count]


def gelu(x: Array) -> Array:
    """Compute x Phi(x) in its tanh form, x / (1 + exp(-2 u)).

    There u = sqrt(2 / pi) (x + 0.044715 x^3).

    Examples
    --------
    >>> gelu(np.array([-1.0, 0.0, 1.0], dtype=np.float32)).round(4)
    array([-0.1588,  0.    ,  0.8412], dtype=float32)
    """
    factor = -2 * np.sqrt(2 / np.pi)
    y = x * x
    y *= np.float32(0.044715 * factor)
    y += np.float32(factor)
    y *= x
    with np.errstate(over="ignore"):  # a very negative x: exp is inf and the quotient -0
        np.exp(y, out=y)
        y += 1
        np.divide(x, y, out=y)
    return y


def _of_groups(means: Array) -> Array:
    """Turn the means of channels [C] into those of the groups that they are in."""
    each = len(means) // GROUPS
    return np.repeat(means.reshape(GROUPS, each).mean(-1), each)


def _windows(x: Array, side: int) -> Array:
    """Give the window around each place of [S, S, C] as a row, [S S, side side C]."""
    size, _, channels = x.shape
    margin = side // 2
    padded = np.zeros((size + 2 * margin, size + 2 * margin, channels), dtype=np.float32)
    padded[margin : margin + size, margin : margin + size] = x
    row, column, channel = padded.strides
    shape = (size, size, side, side * channels)  # the columns of a window's row are not told apart
    windows = as_strided(padded, shape, (row, column, row, channel), writeable=False)
    return windows.reshape(size * size, -1)


def _pooled(x: Array, side: int) -> Array:
    """Average squares of [S, S, C]."""
    if side == 1:
        return x
    rows = sum((x[at::side] for at in range(1, side)), start=x[::side])
    out: Array = sum((rows[:, at::side] for at in range(1, side)), start=rows[:, ::side])
    out *= np.float32(1 / side**2)
    return out
