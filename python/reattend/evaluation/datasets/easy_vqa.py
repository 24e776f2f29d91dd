"""Pictures that nobody here made: easy-VQA's coloured shapes, and its questions about them.

The pictures and questions are Victor Zhou's, MIT licence, of the package ``easy-vqa``. The
demonstration's model knows neither shapes nor colours unless it was trained on them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reattend.evaluation.datasets.dataset import Answer, Case, Dataset, register
from reattend.evaluation.datasets.emoji_world.world import SIDE
from reattend.evaluation.metrics.pope import POPE_MEASURES, check_rule, count_yes_no, read_yes_no
from reattend.optional import demand
from reattend.policy import Array

_WORD = re.compile(r"[a-z]+")


class Question(NamedTuple):
    """A question about a picture."""

    picture: int
    text: str
    answer: str


def read_questions(pictures: int, split: str = "test") -> list[Question]:
    """Read the questions about the first pictures of a split.

    Parameters
    ----------
    pictures : int
        How many pictures, at most.
    split : {"train", "test"}, optional
        Which split.

    Raises
    ------
    MissingPackageError
        If easy-vqa is not installed.
    """
    found = getattr(demand("easy_vqa"), f"get_{split}_questions")()
    return [
        Question(picture, text[0].upper() + text[1:], answer.capitalize())
        for text, answer, picture in zip(*found, strict=True)
        if picture < pictures
    ]


def read_pictures(questions: Sequence[Question], split: str = "test") -> Array:
    """Read the picture of each question, as large as the model reads it.

    Parameters
    ----------
    questions : sequence of B Question
        What is asked.
    split : {"train", "test"}, optional
        Which split they are of.

    Returns
    -------
    uint8 array [B, 120, 120, 3]
    """
    paths = getattr(demand("easy_vqa"), f"get_{split}_image_paths")()
    image = demand("PIL.Image")

    def read(picture: int) -> Array:
        with image.open(paths[picture]) as file:
            size, how = (SIDE, SIDE), image.Resampling.LANCZOS
            return np.asarray(file.convert("RGB").resize(size, how), np.uint8)

    read_once = {number: read(number) for number in {each.picture for each in questions}}
    return np.stack([read_once[each.picture] for each in questions])


@register("easy-vqa")
def load_easy_vqa(*, pictures: int = 200, split: str = "test", rule: str = "first") -> Dataset:
    """Load easy-VQA's questions about coloured shapes, from the package ``easy-vqa``.

    Parameters
    ----------
    pictures : int, optional
        About the first so many.
    split : {"train", "test"}, optional
        Which split.
    rule : str, optional
        Of `read_yes_no`, for questions that ask for yes or no. Others have one of eleven answers:
        shapes and colours. The first of them that is named is what was answered.

    Raises
    ------
    MissingPackageError
        If easy-vqa is not installed.
    ValueError
        If there is no such split or rule, or ``pictures`` is below 1.
    """
    check_rule(rule)
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if pictures < 1:
        raise ValueError(f"pictures must be at least 1, got {pictures}")
    known = {answer.lower() for answer in demand("easy_vqa").get_answers()} - {"yes", "no"}
    paths = getattr(demand("easy_vqa"), f"get_{split}_image_paths")()
    cases = [
        Case(str(number), each.text, Path(paths[each.picture]), str(each.picture),
             each.answer in ("Yes", "No"), 8, each.answer)
        for number, each in enumerate(read_questions(pictures, split), 1)
    ]  # fmt: skip

    def count(case: Case, answer: Answer) -> dict[str, float]:
        if case.yes_or_no:
            counts = count_yes_no(
                case.truth == "Yes", read_yes_no(answer.text, rule, answer.margin)
            )
            return {**counts, "named": 0.0, "named_right": 0.0, "named_unparsed": 0.0}
        said = next((w for w in _WORD.findall(answer.text.lower()) if w in known), None)
        nothing = dict.fromkeys(count_yes_no(True, True), 0.0)
        right, unparsed = float(said == case.truth.lower()), float(said is None)
        return {**nothing, "named": 1.0, "named_right": right, "named_unparsed": unparsed}

    measures = {
        **POPE_MEASURES,
        "shape_or_colour": ("named_right", "named"),
        "shape_or_colour_unparsed": ("named_unparsed", "named"),
    }
    return Dataset("easy-vqa", cases, count, measures, {"rule": rule, "split": split})
