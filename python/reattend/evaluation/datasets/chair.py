"""CHAIR on COCO: pictures to describe, what is in them by instances and by reference captions.

Paper: Object Hallucination in Image Captioning (EMNLP 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reattend.evaluation.datasets.dataset import (
    Answer,
    Case,
    DataError,
    Dataset,
    Naming,
    Problem,
    register,
)
from reattend.evaluation.datasets.pope import read_instances
from reattend.evaluation.datasets.records import Pictures, read_object, settle
from reattend.evaluation.metrics.chair import CHAIR_MEASURES, count_caption
from reattend.evaluation.metrics.coco_words import coco_vocabulary
from reattend.evaluation.metrics.vocabulary import Vocabulary

PROMPT = "Please describe this image in detail."


@register("chair")
def load_chair(
    data: str | Path | Sequence[str | Path],
    images: str | Path | None = None,
    *,
    captions: str | Path | Sequence[str | Path] = (),
    pictures: int | None = None,
    seed: int = 0,
    prompt: str = PROMPT,
    max_new_tokens: int = 64,
    drop_unfinished: bool = False,
    vocabulary: Vocabulary | None = None,
    skip_problems: bool = False,
) -> Dataset:
    """Load pictures with what is in them: instances, and all that reference captions name.

    Parameters
    ----------
    data : path or sequence of paths
        ``instances_*.json`` of COCO, one or several.
    images : path, optional
        The folder of the pictures; without it answers of a file can be scored.
    captions : path or sequence of paths, optional
        ``captions_*.json``, which the protocol asks for as well.
    pictures : int, optional
        How many, drawn with ``seed``; all by default.
    seed : int, optional
        Which of them.
    prompt : str, optional
        What is asked.
    max_new_tokens : int, optional
        Papers report 64 and 512.
    drop_unfinished : bool, optional
        Whether a last sentence without an end is left out.
    vocabulary : Vocabulary, optional
        `coco_vocabulary` by default. Categories that it does not know are problems.
    skip_problems : bool, optional
        Whether what has a problem is left out, and reported, instead of raised.

    Raises
    ------
    DataError
        Naming file and entry: no COCO file, an annotation that joins nothing, a category that the
        vocabulary does not know, a picture that is not there, one that is there twice.
    """
    words = coco_vocabulary() if vocabulary is None else vocabulary
    problems: list[Problem] = []
    folder = None if images is None else Pictures(Path(images))
    instance_files, caption_files = _paths(data), _paths(captions)
    there: dict[str, set[int]] = {}
    by_number: dict[int, str] = {}
    for path in instance_files:
        names, files_of, objects = read_instances(path, problems)
        unknown = [name for name in names if name not in words.noun_of]
        problems += [Problem(str(path), None, f"category {n!r} is unknown") for n in unknown]
        for number, name in files_of.items():
            if name in there or number in by_number:
                what = f"picture {name}, image {number}, was there before"
                problems.append(Problem(str(path), None, what))
                continue
            by_number[number] = name
            there[name] = {words.noun_of[each] for each in objects[name] if each not in unknown}
    for path in caption_files:
        for place, number, text in _captions(path):
            if number in by_number:
                there[by_number[number]] |= words.nouns(text)
            elif len(instance_files) == len(caption_files):
                problems.append(Problem(str(path), place, f"joins no picture: image {number}"))
    numbers = {name: number for number, name in by_number.items()}
    chosen = sorted(there)
    if pictures is not None:
        order = np.random.default_rng(seed).permutation(len(chosen))[:pictures]
        chosen = [chosen[place] for place in sorted(order)]
    cases = []
    for name in chosen:
        file = None if folder is None else folder.find(name)
        if folder is not None and file is None:
            what = f"picture {name} is not in {images}"
            problems.append(Problem(str(instance_files[0]), None, what))
        else:
            key, truth = str(numbers[name]), frozenset(there[name])
            cases.append(Case(key, prompt, file, name, False, max_new_tokens, truth))

    def count(case: Case, answer: Answer) -> dict[str, float]:
        return count_caption(answer.text, case.truth, words, drop_unfinished=drop_unfinished)

    rules: dict[str, Any] = {
        "reference captions": bool(caption_files),
        "unfinished last sentence": "dropped" if drop_unfinished else "kept",
    }
    if vocabulary is not None:
        rules["vocabulary"] = f"given, {words.checksum()}"
    files = [*instance_files, *caption_files]
    return Dataset(
        "chair", cases, count, CHAIR_MEASURES, rules, files, settle(problems, skip_problems),
        numbers=("mentions", "words"), naming=Naming(words.mentions, lambda case: case.truth),
    )  # fmt: skip


def _paths(given: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(given)] if isinstance(given, (str, Path)) else [Path(each) for each in given]


def _captions(path: Path) -> list[tuple[int, int, str]]:
    try:
        return [
            (place, int(each["image_id"]), str(each["caption"]))
            for place, each in enumerate(read_object(path)["annotations"], 1)
        ]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        what = f"must be a COCO captions file: {error!r}"
        raise DataError([Problem(str(path), None, what)]) from error
