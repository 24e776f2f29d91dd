"""What is left out is not forgotten whole: RazorAttention's compensation key; A-VL's tiers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reattend.cache.selection.scores import highest
from reattend.checks import count as counted
from reattend.checks import integers, numbers
from reattend.policy import Array


class Compensated(NamedTuple):
    """Kept keys and one for all that were left out, see `compensated`."""

    key: Array  # [B, H_kv, K + 1, D]
    value: Array  # [B, H_kv, K + 1, Dv]
    bias: Array  # [B, H_kv, 1, K + 1], 0, and log of how many were left out


def compensated(key: Array, value: Array, indices: Array) -> Compensated:
    r"""Put one key in the place of all that a head leaves out, as RazorAttention does.

    .. code-block:: text

        k = mean of the keys left out        v = mean of their values        its score + log count

    It stands for as many keys as it is the mean of. Heads that retrieve keep everything, others
    `streaming` keys; which is which is the model's fact. RazorAttention: Efficient KV Cache
    Compression Through Retrieval Heads (ICLR 2025), arXiv 2407.15891.

    Parameters
    ----------
    key, value : array [B, H_kv, M, D] and [B, H_kv, M, Dv]
        All there are.
    indices : array of int that broadcasts to [B, H_kv, K]
        The keys that are kept.

    Returns
    -------
    Compensated
        For `reattend.attention`, its bias repeated for the heads that share a key head. Where
        nothing was left out the last key is hidden.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, or they are no keys.

    Examples
    --------
    >>> key = np.array([0.0, 2.0, 4.0, 9.0]).reshape(1, 1, 4, 1)
    >>> found = compensated(key, key, np.array([0, 3]))
    >>> found.key.ravel(), np.exp(found.bias).ravel().round(3)
    (array([0., 9., 3.]), array([1., 1., 2.]))
    """
    key, value = numbers("key", key, "[B, H_kv, M, D]"), numbers("value", value, "[B, H_kv, M, Dv]")
    if key.shape[:3] != value.shape[:3]:
        raise ValueError(f"value must be as many as key, {key.shape[:3]}, got shape {value.shape}")
    indices = integers("indices", indices, "[K] or [H_kv, K] or [B, H_kv, K]")
    num_keys = key.shape[2]
    if not ((indices >= 0) & (indices < num_keys)).all():
        raise ValueError(f"indices must be keys from 0 to {num_keys - 1}, got {indices.tolist()}")
    try:
        kept = np.broadcast_to(indices, (*key.shape[:2], indices.shape[-1]))
    except ValueError:
        raise ValueError(
            f"indices must broadcast to [B, H_kv, K] with B, H_kv = {key.shape[:2]}, got shape "
            f"{indices.shape}"
        ) from None
    gone = np.ones(key.shape[:3], bool)
    np.put_along_axis(gone, kept, False, -1)
    count = gone.sum(-1)  # [B, H_kv]

    def joined(array: Array) -> Array:
        some = np.take_along_axis(array, kept[..., None], 2)
        total = (gone[..., None] * array.astype(np.float64)).sum(2)
        mean = total / np.maximum(count, 1)[..., None]
        return np.concatenate([some, mean[:, :, None].astype(array.dtype)], axis=2)

    bias = np.zeros((*kept.shape[:2], 1, kept.shape[-1] + 1))
    with np.errstate(divide="ignore"):
        bias[..., 0, -1] = np.log(count)
    return Compensated(joined(key), joined(value), bias)


class ImageTiers(NamedTuple):
    """What `image_tiers` gives, int [B, H_kv, ...] each, in the order in which they lie."""

    core: Array  # image keys that rows attend to until the next choice
    stored: Array  # those that stay in the cache, the core among them


def image_tiers(scores: Array, *, core: int, stored: int) -> ImageTiers:
    """Choose the image keys that are attended to and those that are kept in store, as A-VL does.

    The others are dropped. The core is chosen anew from what is stored every so many steps. Text
    keys have a rule of their own: `sinks_recent_middle` without sinks. A-VL: Adaptive Attention for
    Large Vision-Language Models (AAAI 2025), arXiv 2409.14846.

    Parameters
    ----------
    scores : array [B, H_kv, I]
        Of the image's keys, such as the attention that they get.
    core, stored : int
        How many of either; the core is part of what is stored.

    Returns
    -------
    ImageTiers

    Raises
    ------
    TypeError, ValueError
        If they are no such numbers.

    Examples
    --------
    >>> found = image_tiers(np.array([[[0.5, 0.1, 0.9, 0.2]]]), core=1, stored=3)
    >>> found.core.tolist(), found.stored.tolist()
    ([[[2]]], [[[0, 2, 3]]])
    """
    scores = numbers("scores", scores, "[B, H_kv, I]")
    stored = counted("stored", stored, 0, scores.shape[-1])
    core = counted("core", core, 0, stored)
    return ImageTiers(highest(scores, core), highest(scores, stored))
