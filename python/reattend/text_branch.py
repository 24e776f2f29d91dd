"""The same prompt without its image: what is kept of its run, to compare with."""

from __future__ import annotations

import numpy as np

from reattend.border.dtypes import to_float32
from reattend.policy import Array


def store_last_rows(
    outputs: dict[int, Array],
    layer: int,
    out: Array,
    key_mask: Array | None,
    first_row: int,
    dtype: str | None,
) -> None:
    """Keep the outputs of each item's last row that is no padding."""
    batch, num_rows = out.shape[0], out.shape[2]
    valid: Array = np.ones((batch, num_rows), bool)
    if key_mask is not None:
        valid = key_mask[:, first_row:]
    last = num_rows - 1 - valid[:, ::-1].argmax(-1)
    new = to_float32(out[np.arange(batch), :, last], dtype)  # [B, H, Dv]
    old = outputs.get(layer)
    if old is not None:  # a chunk in which an item has padding only tells nothing of it
        new = np.where(np.any(valid, axis=-1)[:, None, None], new, old)
    outputs[layer] = new
