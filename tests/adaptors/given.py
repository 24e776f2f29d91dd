"""What a family of tiny models is given: two prompts, and a picture in each by its convention."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from tiny import END, IMAGE, START

WORDS = [[1, 5, 9, 7, 11], [1, 6, 4]]
QUESTIONS = [[8, 3, 14, 21, 33, 12, 40, 28, 16, 41, 35], [17, 22, 2, 19, 13, 44, 24, 37]]


class Given(NamedTuple):
    """Arguments of generate(), and where its images are."""

    pictures: str  # the convention; empty: a prompt without pictures
    inputs: dict[str, Any]
    image: Any  # bool [B, P]; of a prompt without pictures some of its text, to be taken for one
    holders: Any  # image, and what separates the rows of one


class _Found(Exception):
    """Stops a forward when what was looked for is known."""


def given(model: Any) -> Given:
    """Give a model two prompts of unequal length, padded left, with pictures if it takes some."""
    for name, convention in CONVENTIONS.items():
        found = _tried(model, convention)
        if found is not None:
            inputs, holders = found
            return Given(name, inputs, _shown(name, model, holders), holders)
    inputs = prompts()
    image = np.zeros(inputs["input_ids"].shape, bool)
    image[:, -9:-2] = True
    return Given("", inputs, image, image)


def prompts() -> dict[str, Any]:
    """Give the two prompts without pictures."""
    ids = _ids([])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def _shown(name: str, model: Any, holders: Any) -> Any:
    """Leave out the newlines of two tiles of s x s tokens, side by side behind an overview."""
    if model.config.model_type == "hy_v4_vl":  # two rows of two tokens and a newline
        image = holders.copy()
        for row in image:
            row[np.flatnonzero(row)[2::3]] = False
        return image
    if model.config.model_type == "hunyuan_vl":  # the same, between a token before and one behind
        image = holders.copy()
        for row in image:
            row[np.flatnonzero(row)[[0, 3, 6, 7]]] = False
        return image
    if name != "tiles and an overview":
        return holders
    image, side = holders.copy(), round((holders.sum(1)[0] / 3) ** 0.5 - 0.1)
    for row, start in zip(image, holders.argmax(1), strict=True):
        row[start + side**2 + 2 * side :: 2 * side + 1][:side] = False
    return image


def _tried(model: Any, convention: Callable[[Any, int], Any]) -> tuple[Any, Any] | None:
    """Give the arguments and the image tokens, if the model takes pictures by a convention."""
    vision = getattr(model.config, "vision_config", None) or getattr(
        model.config, "vq_config", model.config
    )
    known = inspect.signature(model.forward).parameters
    try:
        pictures = convention(vision, 0)
        if not set(pictures) <= set(known):
            return None
        token = _token(model)
        inputs = _inputs(model, [token] * _count(model, pictures, token), token, pictures)
        others = convention(vision, 1)
        with torch.no_grad():
            first, second = model(**inputs).logits, model(**{**inputs, **others}).logits
    except Exception:  # not by this convention
        return None
    if torch.allclose(first, second):
        return None
    return inputs, (inputs["input_ids"] == token).numpy()


def _token(model: Any) -> int:
    for holder in (model.config, model.config.get_text_config(), model):
        for name in ("image_token_id", "image_token_index"):
            if isinstance(getattr(holder, name, None), int):
                return int(getattr(holder, name))
    return IMAGE


def _ids(image: list[int]) -> Any:
    rows = [a + image + b for a, b in zip(WORDS, QUESTIONS, strict=True)]
    length = max(map(len, rows))
    return torch.tensor([[0] * (length - len(row)) + row for row in rows])


def _inputs(model: Any, image: list[int], token: int, pictures: dict[str, Any]) -> dict[str, Any]:
    ids = _ids([START, *image, END])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long(), **pictures}
    known = inspect.signature(model.forward).parameters
    for name in ("mm_token_type_ids", "token_type_ids", "moe_mm_token_type_ids"):
        if name in known:
            inputs[name] = (ids == token).long()
    return inputs


def _count(model: Any, pictures: dict[str, Any], token: int) -> int:
    """Count the tokens of one of two pictures: a model says that when it looks for their places."""
    with _features_seen(model) as seen, torch.no_grad():
        try:
            model(**_inputs(model, [token], token, pictures))
        except Exception:
            if not seen:
                if not hasattr(model, "get_image_features"):
                    return 1
                features = model.get_image_features(**pictures, return_dict=True).pooler_output
                seen.append(features)
    if not seen:  # it does not look for them: one stands for a picture
        return 1
    features = seen[0]
    features = (
        torch.cat([f.flatten(0, -2) for f in features])
        if not hasattr(features, "shape")
        else features
    )
    return features.shape[:-1].numel() // 2


@contextmanager
def _features_seen(model: Any) -> Iterator[list[Any]]:
    seen: list[Any] = []

    def spy(*args: Any, **kwargs: Any) -> None:
        named = [v for k, v in kwargs.items() if k.endswith("features") and v is not None]
        seen.append((named or list(args[2:]))[0])
        raise _Found

    holders = [m for m in model.modules() if hasattr(m, "get_placeholder_mask")]
    for module in holders:
        module.get_placeholder_mask = spy
    try:
        yield seen
    finally:
        for module in holders:
            del module.get_placeholder_mask


def _noise(which: int, *shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(which))


def _size(vision: Any) -> tuple[int, int, int]:
    def number(*names: str, default: int) -> int:
        found = [getattr(vision, name) for name in names if getattr(vision, name, None)]
        first = found[0] if found else default
        return int(first if isinstance(first, int) else first[0])

    return (
        number("image_size", "resolution", "img_size", default=28),
        number("patch_size", default=7),
        number("in_channels", "num_channels", "in_chans", default=3),
    )


def _patches(vision: Any, which: int) -> dict[str, Any]:
    """Patches of both pictures in one row, and how many there are of each."""
    _, patch, channels = _size(vision)
    size = channels * patch * patch * int(getattr(vision, "temporal_patch_size", 1) or 1)
    grid = torch.tensor([[1, 4, 4]] * 2)
    return {"pixel_values": _noise(which, 32, size), "image_grid_thw": grid}


def _square(vision: Any, which: int) -> dict[str, Any]:
    size, _, channels = _size(vision)
    return {"pixel_values": _noise(which, 2, channels, size, size)}


def _tiles(vision: Any, which: int) -> dict[str, Any]:
    """An overview and two tiles."""
    size, _, channels = _size(vision)
    sizes = torch.tensor([[size, 2 * size]] * 2)
    return {"pixel_values": _noise(which, 2, 3, channels, size, size), "image_sizes": sizes}


def _sized(vision: Any, which: int) -> dict[str, Any]:
    size, _, channels = _size(vision)
    sizes = torch.tensor([[size, size]] * 2)
    return {"pixel_values": _noise(which, 2, channels, size, size), "image_sizes": sizes}


def _split(vision: Any, which: int) -> dict[str, Any]:
    """Each picture in two parts."""
    size, _, channels = _size(vision)
    return {"pixel_values": _noise(which, 2, 2, channels, size, size)}


def _natural(vision: Any, which: int) -> dict[str, Any]:
    """Patches of each picture, in their own shape, padded."""
    _, patch, channels = _size(vision)
    return {
        "pixel_values": _noise(which, 2, 16, channels * patch * patch),
        "spatial_shapes": torch.tensor([[4, 4]] * 2),
        "pixel_attention_mask": torch.ones(2, 16, dtype=torch.long),
    }


def _still(vision: Any, which: int) -> dict[str, Any]:
    """Patches of both pictures in one row, of one moment each."""
    _, patch, channels = _size(vision)
    grid = torch.tensor([[1, 4, 4]] * 2)
    return {"pixel_values": _noise(which, 32, channels * patch * patch), "image_grid_thw": grid}


def _small(vision: Any, which: int) -> dict[str, Any]:
    """Patches of both pictures in one row, each a small picture."""
    _, patch, channels = _size(vision)
    grid = torch.tensor([[1, 4, 4]] * 2)
    return {"pixel_values": _noise(which, 32, channels, patch, patch), "image_grid_thw": grid}


def _merged(vision: Any, which: int) -> dict[str, Any]:
    return {**_still(vision, which), "image_merge_sizes": torch.tensor([2, 2])}


def _placed(vision: Any, which: int) -> dict[str, Any]:
    """Patches of each picture, with the place of each."""
    _, patch, channels = _size(vision)
    places = torch.tensor([[x, y] for y in range(6) for x in range(6)])
    return {
        "pixel_values": _noise(which, 2, 36, channels * patch * patch).sigmoid(),
        "image_position_ids": places[None].repeat(2, 1, 1),
    }


def _strip(vision: Any, which: int) -> dict[str, Any]:
    """Patches of both pictures side by side."""
    _, patch, channels = _size(vision)
    sizes = torch.tensor([[8, 8]] * 2)
    return {"pixel_values": _noise(which, 1, channels, patch, patch * 128), "target_sizes": sizes}


def _pooled(vision: Any, which: int) -> dict[str, Any]:
    """Crops of 16 patches, of which four become a token."""
    _, patch, channels = _size(vision)
    return {
        "pixel_values": _noise(which, 2, 16, channels * patch * patch),
        "image_token_pooling": torch.arange(32).reshape(8, 4),
        "image_grids": torch.tensor([[2, 2, 0, 0]] * 2),
        "image_num_crops": torch.tensor([1, 1]),
    }


def _asked(vision: Any, which: int) -> dict[str, Any]:
    """A part of the model reads the question as well."""
    ids = torch.tensor([[3, 4, 5]] * 2)
    return {**_square(vision, which), "qformer_input_ids": ids,
            "qformer_attention_mask": torch.ones_like(ids)}  # fmt: skip


def _twice(vision: Any, which: int) -> dict[str, Any]:
    """Each picture small and large."""
    return {**_square(vision, which), "high_res_pixel_values": _noise(which, 2, 3, 64, 64)}


def _marked(vision: Any, which: int) -> dict[str, Any]:
    """Each picture in two parts, and which of them there are."""
    mask = torch.ones(2, 2, dtype=torch.long)
    return {**_split(vision, which), "pixel_attention_mask": mask}


def _crossed(vision: Any, which: int) -> dict[str, Any]:
    """Pictures that the text sees by layers of their own, and no token stands for."""
    size, _, channels = _size(vision)
    length = _LENGTH + 2 + 1
    seen = torch.zeros(2, length, 1, 4, dtype=torch.long)  # from its token on; no tile 4
    for row, question in zip(seen, QUESTIONS, strict=True):
        row[length - len(question) - 2 :, :, :3] = 1
    return {
        "pixel_values": _noise(which, 2, 1, 4, channels, size, size),
        "aspect_ratio_ids": torch.ones(2, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.tensor([[[1, 1, 1, 0]]] * 2),
        "cross_attention_mask": seen,
    }


def _gated(vision: Any, which: int) -> dict[str, Any]:
    """The same by gates, with a mask of rows and pictures."""
    size, _, channels = _size(vision)
    seen = torch.ones(2, _LENGTH + 2 + 1, 1, dtype=torch.long)
    return {"pixel_values": _noise(which, 2, 1, channels, size, size), "image_attention_mask": seen}


_LENGTH = max(len(a) + len(b) for a, b in zip(WORDS, QUESTIONS, strict=True))
CONVENTIONS: dict[str, Callable[[Any, int], dict[str, Any]]] = {
    "patches": _patches, "patches of one moment": _still, "small pictures": _small,
    "patches to merge": _merged, "patches with their places": _placed,
    "patches in their own shape": _natural, "patches in a strip": _strip,
    "crops, pooled": _pooled, "tiles and an overview": _tiles, "square, with its size": _sized,
    "cross-attention": _crossed, "gated cross-attention": _gated,
    "square, with the question": _asked, "small and large": _twice, "parts, marked": _marked,
    "square": _square, "parts": _split,
}  # fmt: skip
