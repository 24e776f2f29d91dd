"""Masks as transformers makes them, said again in the words of `reattend.attention`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypedDict

import numpy as np

from reattend.policy import Array

HIDDEN = float(np.finfo(np.float16).min) / 2  # what a float mask adds to hide a key is below this


class MaskArguments(TypedDict):
    """What `reattend.attention` takes of a mask, by name."""

    causal: bool
    key_mask: Array | None
    window: int | None
    bias: Array | None


class Form(NamedTuple):
    """One layer's mask: arguments of `reattend.attention`."""

    causal: bool
    key_mask: Array | None = None  # bool [B, M]
    window: int | None = None
    bias: Array | None = None  # float32, broadcasts to [B, H, N, M]

    @property
    def dense(self) -> bool:
        """Whether it takes a number for each pair of row and key to say which keys a row sees."""
        return self.bias is not None

    def arguments(self) -> MaskArguments:
        """Give the arguments by name.

        Examples
        --------
        >>> Form(causal=True, window=4).arguments()
        {'causal': True, 'key_mask': None, 'window': 4, 'bias': None}
        """
        return {
            "causal": self.causal, "key_mask": self.key_mask, "window": self.window,
            "bias": self.bias,
        }  # fmt: skip

    def biased(self, bias: Array) -> Form:
        """Give the form with a bias added to the scores.

        Parameters
        ----------
        bias : array of float
            Broadcasts to [B, H, N, M].

        Examples
        --------
        >>> Form(True).biased(np.ones((1, 1, 1, 1), np.float32)).bias.shape
        (1, 1, 1, 1)
        """
        return self._replace(bias=bias if self.bias is None else self.bias + bias)

    def behind(self, dropped: int) -> Form:
        """Give the form over all keys, where a sliding cache has dropped the first ones.

        Parameters
        ----------
        dropped : int
            How many keys there were before those of this form.

        Examples
        --------
        >>> Form(True, np.array([[True]]), window=1).behind(2).key_mask.tolist()
        [[True, True, True]]
        """
        key_mask, bias = self.key_mask, self.bias
        if key_mask is not None:  # the window hides them: they are no padding
            key_mask = np.pad(key_mask, ((0, 0), (dropped, 0)), constant_values=True)
        if bias is not None:
            bias = np.pad(bias, ((0, 0),) * 3 + ((dropped, 0),), constant_values=-np.inf)
        return Form(self.causal, key_mask, self.window, bias)


def recognised(mask: Array, *, padding: Array | None = None, window: int | None = None) -> Form:
    """Find the words for a mask, so that the pass can skip what is hidden.

    Rows are the last N keys.

    Parameters
    ----------
    mask : array [B or 1, H or 1, N, M]
        Bool, True where a row sees a key; or float, added to the scores.
    padding : array of bool [B, M], optional
        False at padding, where it is known.
    window : int, optional
        The layer's sliding window, if it has one.

    Returns
    -------
    Form
        Which says the same as the mask, exactly.

    Examples
    --------
    >>> recognised(np.tri(3, dtype=bool)[None, None])
    Form(causal=True, key_mask=None, window=None, bias=None)
    >>> recognised(np.array([[[[False, True, True]]]])).key_mask.tolist()
    [[False, True, True]]
    """
    seen = visible(mask)
    if mask.dtype != bool and (np.where(seen, mask, 0) != 0).any():
        return Form(False, padding, None, np.where(seen, mask, -np.inf).astype(np.float32))
    if seen.shape[1] == 1:
        # A window before a guess at padding: to a single row both look the same.
        for keys in _key_masks(seen, padding):
            for size in (None, window) if window is not None else (None,):
                causal = _causal(seen.shape[2], seen.shape[3], size)
                said = causal[None] if keys is None else causal[None] & keys[:, None]
                if np.array_equal(np.broadcast_to(said, seen[:, 0].shape), seen[:, 0]):
                    return Form(True, keys, size)
    return Form(False, padding, None, np.where(seen, np.float32(0), np.float32(-np.inf)))


def visible(mask: Array) -> Array:
    """Give which keys each row sees, of a mask of bool or of what is added to scores."""
    return mask if mask.dtype == bool else np.asarray(mask > HIDDEN)


def _causal(num_rows: int, num_keys: int, window: int | None) -> Array:
    row, key = np.arange(num_keys - num_rows, num_keys)[:, None], np.arange(num_keys)
    seen: Array = key <= row
    return seen if window is None else seen & (key > row - window)


def _key_masks(seen: Array, padding: Array | None) -> Iterator[Array | None]:
    """Give what may be the keys that are no padding, the likeliest first."""
    if padding is not None:
        yield padding
        return
    yield None
    yield np.asarray(seen[:, 0].any(1))
