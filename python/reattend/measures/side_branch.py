"""The side branch of ONLY: what heads give when each row's outlying weights are taken away."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reattend.checks import marks, numbers
from reattend.policy import Array


class SideBranch(NamedTuple):
    """What `side_branch` gives."""

    outputs: Array  # [B, H, Dv], 0 for heads that are left out
    ratio: Array  # [B, H], entropy on the text over entropy on the image
    kept: Array  # bool [B, H], heads whose ratio is not below their mean


def side_branch(
    weights: Array, value: Array, image: Array, key_mask: Array | None = None
) -> SideBranch:
    r"""Compute ONLY's text-enhanced head outputs of one row, from its attention in one layer.

    .. code-block:: text

        a'_j = 0 where a_j > mean + std, within the text but its first key, and within the image
        r_h  = H(a' on the text) / H(a' on the image), each made to sum to 1
        o'_h = sum_j a'_j v_j where r_h >= mean r, else 0

    The std has one degree of freedom less, and logarithms are of a + 1e-6, as published. A second
    branch's logits come from these by W_O, then, in the published code, by the last layer: its norm
    of W_O o', plus 0.2 of the residual there, through its MLP, the final norm and the head. Mix
    them by `reattend.decoding.ONLY`.

    ONLY: One-Layer Intervention Sufficiently Mitigates Hallucinations in Large Vision-Language
    Models (ICCV 2025), arXiv 2507.00898.

    Parameters
    ----------
    weights : array [B, H, M]
        Of the row, in the paper's case of layer 0; see `attention_rows`.
    value : array [B, H_kv, M, Dv]
        The layer's values.
    image : array of bool [B, M]
        The image's keys.
    key_mask : array of bool [B, M], optional
        False at padding.

    Returns
    -------
    SideBranch
        In float64.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, or an item has no image, or fewer than two keys of either kind.

    Examples
    --------
    >>> weights = np.array([[[0.2, 0.1, 0.1, 0.3, 0.1, 0.1, 0.1]]])
    >>> image = np.array([[False, False, False, True, True, True, True]])
    >>> side_branch(weights, np.eye(7)[None, None], image).outputs.ravel().round(1)
    array([0.2, 0.1, 0.1, 0. , 0.1, 0.1, 0.1])
    """
    weights = numbers("weights", weights, "[B, H, M]").astype(np.float64)
    value = numbers("value", value, "[B, H_kv, M, Dv]")
    batch, heads, num_keys = weights.shape
    if value.shape[::2] != (batch, num_keys) or not value.shape[1] or heads % value.shape[1]:
        raise ValueError(
            f"value must be [B, H_kv, M, Dv] with B, M = {(batch, num_keys)} and heads that divide "
            f"{heads}, got shape {value.shape}"
        )
    image = marks("image", image, "[B, M]", (batch, num_keys))
    seen = np.ones(image.shape, bool)
    if key_mask is not None:
        seen = marks("key_mask", key_mask, "[B, M]", (batch, num_keys))
    first = np.arange(num_keys) == seen.argmax(-1)[:, None]
    text = seen & ~image & ~first
    image = image & seen
    for name, part in (("text", text), ("image", image)):
        if (part.sum(-1) < 2).any():
            raise ValueError(
                f"image must leave at least two keys of {name}, the first key aside, got "
                f"{part.sum(-1).tolist()}"
            )
    left = weights.copy()
    entropies = []
    for part in (text, image):
        for item in range(batch):
            some = left[item][:, part[item]]  # [H, K]
            limit = some.mean(-1, keepdims=True) + some.std(-1, ddof=1, keepdims=True)
            left[item][:, part[item]] = np.where(some > limit, 0, some)
        share = np.where(part[:, None], left, 0)
        total = share.sum(-1, keepdims=True)
        share = share / np.where(total > 0, total, 1)
        entropy = -(share * np.log(share + 1e-6)).sum(-1)
        entropies.append(np.where(total[..., 0] > 0, entropy, np.nan))
    # Nothing on the text is an entropy of 0, nothing on the image one without end: as published.
    ratio = np.nan_to_num(entropies[0], nan=0.0) / np.nan_to_num(entropies[1], nan=np.inf)
    kept = ratio >= ratio.mean(-1, keepdims=True)
    whole = np.repeat(value.astype(np.float64), heads // value.shape[1], axis=1)
    outputs = np.einsum("bhm,bhmd->bhd", np.where(seen[:, None], left, 0), whole)
    return SideBranch(np.where(kept[..., None], outputs, 0), ratio, kept)
