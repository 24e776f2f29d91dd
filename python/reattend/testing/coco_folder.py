"""A folder in COCO's form, drawn: pictures of coloured shapes that stand for things of COCO."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reattend.optional import demand

__all__ = ["write_annotations", "write_coco_folder"]

SIDE = 64  # px of a picture
_THINGS = {  # COCO's id and name: colour
    (1, "person"): "#d62728",
    (3, "car"): "#1f77b4",
    (17, "cat"): "#2ca02c",
    (18, "dog"): "#ff7f0e",
    (13, "stop sign"): "#9467bd",
    (44, "bottle"): "#8c564b",
    (46, "wine glass"): "#e377c2",
    (62, "chair"): "#7f7f7f",
    (67, "dining table"): "#bcbd22",
    (58, "hot dog"): "#17becf",
}


def write_coco_folder(folder: Path, pictures: int = 50, seed: int = 0) -> Path:
    """Draw pictures and write ``instances_val2014.json`` and ``captions_val2014.json`` beside them.

    Parameters
    ----------
    folder : path
        Where; it is made. Pictures are in its ``val2014``.
    pictures : int, optional
        How many.
    seed : int, optional
        Which things they show, and where.

    Returns
    -------
    path
        The folder.
    """
    image, draw = demand("PIL.Image"), demand("PIL.ImageDraw")
    rng = np.random.default_rng(seed)
    (folder / "val2014").mkdir(parents=True)
    things, colours = [*_THINGS], [*_THINGS.values()]
    entries: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    captions: list[dict[str, object]] = []
    for number in range(1, pictures + 1):
        name = f"COCO_val2014_{number:012d}.jpg"
        shown = rng.choice(len(things), size=int(rng.integers(2, 6)), replace=False)
        picture = image.new("RGB", (SIDE, SIDE), "white")
        pen = draw.Draw(picture)
        for place in shown:
            x, y = rng.integers(0, SIDE - 16, 2).tolist()
            pen.ellipse((x, y, x + 14, y + 14), fill=colours[place])
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number,
                 "category_id": things[place][0], "bbox": [x, y, 14, 14]}
            )  # fmt: skip
        picture.save(folder / "val2014" / name)
        entries.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        said = [things[place][1] for place in shown[:2]]
        for text in (f"A {said[0]} and a {said[1]}.", f"There is a {said[1]} here."):
            captions.append({"id": len(captions) + 1, "image_id": number, "caption": text})
    categories: list[dict[str, object]] = [{"id": number, "name": name} for number, name in things]
    write_annotations(folder, entries, annotations, categories, captions)
    return folder


def write_annotations(
    folder: Path,
    images: Sequence[dict[str, object]],
    annotations: Sequence[dict[str, object]],
    categories: Sequence[dict[str, object]],
    captions: Sequence[dict[str, object]],
) -> None:
    """Write COCO's two files: what pictures show, and captions of them.

    Parameters
    ----------
    folder : path
        Where; it is there.
    images, annotations, categories, captions : sequence of dict
        As COCO has them.
    """
    for kind, content in (
        ("instances", {"images": images, "annotations": annotations, "categories": categories}),
        ("captions", {"images": images, "annotations": captions}),
    ):
        (folder / f"{kind}_val2014.json").write_text(json.dumps(content), "utf-8")
