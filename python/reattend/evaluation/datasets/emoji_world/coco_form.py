"""Scenes as a folder in COCO's form: what the shipped model knows, asked as COCO's pictures are."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from reattend.evaluation.datasets.emoji_world.sentences import describe
from reattend.evaluation.datasets.emoji_world.world import NOUNS, SIDE, Difficulty, World
from reattend.evaluation.metrics.coco_words import coco_vocabulary
from reattend.optional import demand
from reattend.testing.coco_folder import write_annotations


def write_coco_scenes(
    folder: str | Path, pictures: int = 50, *, split: str = "test", seed: int = 0,
    difficulty: str | Difficulty = "dim",
) -> Path:  # fmt: skip
    """Draw scenes, and write ``instances_val2014.json`` and ``captions_val2014.json`` beside them.

    Things that COCO has a class for are annotated with it ('ship' as boat, 'phone' as cell phone),
    others are not, as in COCO; scenes without any are passed over.

    Parameters
    ----------
    folder : path
        Where; it is made. Pictures are in its ``val2014``.
    pictures : int, optional
        How many.
    split, seed, difficulty
        Of the scenes: see `World`.

    Returns
    -------
    path
        The folder.

    Raises
    ------
    FileExistsError
        If the folder has pictures already.

    Examples
    --------
    >>> import tempfile
    >>> from reattend.evaluation.datasets import load_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     coco = write_coco_scenes(Path(folder, "coco"), pictures=3)
    ...     data = load_dataset("pope-from-instances", data=coco / "instances_val2014.json",
    ...                         images=coco / "val2014")
    >>> data.cases[0].prompt
    'Is there a bird in the image?'
    """
    image, folder = demand("PIL.Image"), Path(folder)
    vocabulary = coco_vocabulary()
    class_of = {NOUNS.index(noun): found[0].noun + 1
                for noun in NOUNS if (found := [*vocabulary.mentions(noun)])}  # fmt: skip
    world = World(seed, split)
    (folder / "val2014").mkdir(parents=True)
    entries: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    captions: list[dict[str, object]] = []
    for number in count():
        if len(entries) == pictures:
            break
        scene = world.scene(number, difficulty=difficulty)
        if not class_of.keys() & {*scene.nouns}:
            continue
        key = len(entries) + 1
        name = f"COCO_val2014_{key:012d}.png"
        image.fromarray(scene.pixels).save(folder / "val2014" / name)
        entries.append({"id": key, "file_name": name, "width": SIDE, "height": SIDE})
        for noun, (x0, y0, x1, y1) in zip(scene.nouns, scene.boxes.tolist(), strict=True):
            if noun in class_of:
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": key, "category_id": class_of[noun],
                     "bbox": [x0, y0, x1 - x0, y1 - y0]}
                )  # fmt: skip
        said = describe(scene.nouns)
        captions.append({"id": len(captions) + 1, "image_id": key, "caption": said})
    used = sorted({*class_of.values()})
    categories: list[dict[str, object]] = [
        {"id": each, "name": vocabulary.names[each - 1]} for each in used
    ]
    write_annotations(folder, entries, annotations, categories, captions)
    return folder
