"""What a call says of its pictures: whether there are some, and where, if it says that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np

from reattend.adaptors.transformers.protocols import Model, Tensor
from reattend.adaptors.transformers.tensors import bools, floats
from reattend.optional import demand
from reattend.policy import Array

_GIVEN = ("pixel_values", "image_pixel_values", "image_patches", "input_image_embeds")
_WHERE = "image_embeds_position_mask"  # Kosmos
_SEPARATORS = ("image_newline", "view_separator", "image_begin", "image_end")
_ROUNDING = {2: 2e-2, 4: 1e-5}  # by a number's bytes, of the largest: a product has its shape's


def pictures_given(values: Mapping[str, object]) -> str | None:
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


def places_given(values: Mapping[str, object]) -> Array | None:
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
    return None if places is None else bools(cast("Tensor | Array", places))


def separators_of(model: Model) -> list[Tensor]:
    """Give the vectors [C] that a model puts around a picture, and between its rows or views.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    """
    torch, found = demand("torch"), []
    for _, module in model.named_modules():
        for name, vector in module.named_parameters(recurse=False):
            if name in _SEPARATORS:
                norm = getattr(module, "after_rms", None)  # HunYuan-VL's: its merger goes on
                with torch.no_grad():
                    if norm is not None:
                        newline = name == "image_newline"
                        vector = norm(module.mlp(vector) if newline else vector)  # type: ignore[attr-defined]
                found.append(vector)
    return found


def features_of(image: Array, states: Tensor, values: Mapping[str, object]) -> Tensor:
    """Give what stands at a picture's tokens [n, C], in the order of its tokens.

    Parameters
    ----------
    image : array of bool [B, P]
        Every token of a picture.
    states : torch.Tensor [B, P, C]
        What enters the decoder.
    values : mapping of str
        Arguments of the decoder: some add features in later layers, to nothing in the first.
    """
    later = values.get("deepstack_features")
    found = iter(later.values()) if isinstance(later, Mapping) else iter(())
    first: Tensor | None = next(found, None)
    if first is not None and first.shape[0] == image.sum():
        return first
    return states[demand("torch").from_numpy(image)]


def without_separators(image: Array, features: Tensor, separators: list[Tensor]) -> Array:
    """Leave out of image tokens those that separate its rows or views: they show nothing of it.

    Parameters
    ----------
    image : array of bool [B, P]
        Every token of a picture.
    features : torch.Tensor [n, C]
        What stands at these tokens.
    separators : list of torch.Tensor
        Their vectors.

    Returns
    -------
    array of bool [B, P]
    """
    shown, given = image.copy(), floats(features)
    for vector in separators:
        if vector.shape == features.shape[-1:]:
            one = floats(vector.to(features.dtype))
            most = _ROUNDING.get(features.element_size(), 0) * np.abs(one).max()
            shown[image] &= (np.abs(given - one) > most).any(-1)
    return shown
