"""What a call says of its pictures: whether there are some, and where, if it says that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reattend.adaptors.transformers.tensors import bools
from reattend.policy import Array

_GIVEN = ("pixel_values", "image_pixel_values", "image_patches", "input_image_embeds")
_WHERE = "image_embeds_position_mask"  # Kosmos


def pictures_given(values: Mapping[str, Any]) -> str | None:
    """Give the name of the argument that holds pictures; None: there is none.

    Parameters
    ----------
    values : mapping of str
        Arguments of a forward or of generate().

    Examples
    --------
    >>> pictures_given({"pixel_values_videos": 1}), pictures_given({"pixel_values": None})
    ('pixel_values_videos', None)
    """
    named = (n for n, value in values.items() if n.startswith(_GIVEN) and value is not None)
    return next(named, None)


def places_given(values: Mapping[str, Any]) -> Array | None:
    """Give where a call itself says that its images are, bool [B, P].

    Parameters
    ----------
    values : mapping of str
        Arguments of a forward or of generate().

    Examples
    --------
    >>> import numpy as np
    >>> places_given({"image_embeds_position_mask": np.array([[0, 1]])})
    array([[False,  True]])
    """
    places = values.get(_WHERE)
    return None if places is None else bools(places)
