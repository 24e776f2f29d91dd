"""POPE: its files in both forms, and questions drawn from COCO instances as its authors drew them.

Paper: Evaluating Object Hallucination in Large Vision-Language Models (EMNLP 2023).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reattend.evaluation.datasets.dataset import Answer, Case, Dataset, Problem, register
from reattend.evaluation.datasets.records import (
    Pictures,
    by_id,
    field_of,
    read_object,
    read_records,
    settle,
)
from reattend.evaluation.metrics.pope import POPE_MEASURES, check_rule, count_yes_no, read_yes_no
from reattend.whole_file import whole_file

SAMPLING = ("random", "popular", "adversarial")
_FIELDS = {
    "text": ("text", "question", "query"),
    "image": ("image", "image_name", "image_source", "image_id"),
    "label": ("label", "answer"),
}
_IDS = ("question_id", "id")
_LEAST_OBJECTS = 3  # of a picture that is asked about
_VOWELS = "aeiou"


@register("pope")
def load_pope(
    data: str | Path,
    images: str | Path | None = None,
    *,
    rule: str = "official",
    suffix: str = "",
    skip_problems: bool = False,
) -> Dataset:
    """Load a POPE file: JSON Lines or an array, with the official field names or the hub's.

    Parameters
    ----------
    data : path
        The file.
    images : path, optional
        The folder of its pictures; without it nothing can be shown to a model, but answers of a
        file can be scored.
    rule : str, optional
        Of `read_yes_no`.
    suffix : str, optional
        What is added to each question, such as " Please answer yes or no.".
    skip_problems : bool, optional
        Whether lines with a problem are left out, and reported, instead of raised.

    Raises
    ------
    DataError
        Naming file and line: no JSON, a missing field, a label that is neither yes nor no, a
        question id or, in a file without ids, a question that was there before, a picture that is
        not there.
    ValueError
        If there is no such rule.
    """
    check_rule(rule)
    path, problems = Path(data), list[Problem]()
    pictures = None if images is None else Pictures(Path(images))
    cases: list[Case] = []
    lines: dict[tuple[str, ...], int] = {}
    for record in read_records(path, problems):
        values = {
            name: field_of(record, fields, path, problems) for name, fields in _FIELDS.items()
        }
        if None in values.values():
            continue
        own = next((record.values[n] for n in _IDS if record.values.get(n) is not None), None)
        key = str(record.line if own is None else own)
        same = (str(values["image"]), str(values["text"])) if own is None else (key,)
        there = {"yes": True, "no": False}.get(str(values["label"]).strip().lower())
        file = None if pictures is None else pictures.find(values["image"])
        wrong = []
        if there is None:
            wrong.append(f"label must be yes or no, got {values['label']!r}")
        if same in lines:
            what = repr(values["text"]) if own is None else key
            wrong.append(f"question {what} was there in line {lines[same]}")
        if pictures is not None and file is None:
            wrong.append(f"picture {values['image']} is not in {images}")
        lines.setdefault(same, record.line)
        problems += [Problem(str(path), record.line, what) for what in wrong]
        if not wrong:
            prompt = f"{values['text']}{suffix}"
            group = str(values["image"])
            cases.append(Case(key, prompt, file, group, True, 16, there))
    return _dataset(cases, rule, [path], settle(problems, skip_problems))


@register("pope-from-instances")
def build_pope(
    data: str | Path,
    images: str | Path | None = None,
    *,
    sampling: str = "random",
    pictures: int = 500,
    seed: int = 0,
    rule: str = "official",
    skip_problems: bool = False,
) -> Dataset:
    """Draw POPE's questions from a COCO instances file.

    Of pictures with three things or more, three things that are there and three that are not are
    asked for. Absent ones are drawn at random, or are the most frequent ones (popular), or the ones
    that most often stand beside the thing that is there (adversarial).

    Parameters
    ----------
    data : path
        ``instances_*.json``.
    images : path, optional
        The folder of the pictures.
    sampling : {"random", "popular", "adversarial"}, optional
        How absent things are drawn.
    pictures : int, optional
        How many pictures, at most.
    seed : int, optional
        Which pictures and, of random ones, which things.
    rule : str, optional
        Of `read_yes_no`.
    skip_problems : bool, optional
        As for `load_pope`.

    Raises
    ------
    DataError
        Naming what is wrong with the file, or which pictures are missing.
    ValueError
        If there is no such sampling or rule, or ``pictures`` is below 1.
    """
    if sampling not in SAMPLING:
        raise ValueError(f"sampling must be one of {', '.join(SAMPLING)}, got {sampling!r}")
    check_rule(rule)
    if pictures < 1:
        raise ValueError(f"pictures must be at least 1, got {pictures}")
    path, problems = Path(data), list[Problem]()
    folder = None if images is None else Pictures(Path(images))
    names, _, objects = read_instances(path, problems)
    able = sorted(name for name, there in objects.items() if len(there) >= _LEAST_OBJECTS)
    rng = np.random.default_rng(seed)
    chosen = [able[place] for place in rng.permutation(len(able))[:pictures]]
    often = Counter(thing for there in objects.values() for thing in there)
    beside = _counted_beside(objects)
    cases: list[Case] = []
    for name in chosen:
        file = None if folder is None else folder.find(name)
        if folder is not None and file is None:
            problems.append(Problem(str(path), None, f"picture {name} is not in {images}"))
            continue
        for thing, there in _questions(objects[name], sampling, names, often, beside, rng):
            article = "an" if thing[0] in _VOWELS else "a"
            prompt = f"Is there {article} {thing} in the image?"
            cases.append(Case(f"{len(cases) + 1}", prompt, file, name, True, 16, there))
    return _dataset(cases, rule, [path], settle(problems, skip_problems))


def write_pope(dataset: Dataset, path: str | Path) -> None:
    """Write a POPE data set as JSON Lines with the official field names.

    Parameters
    ----------
    dataset : Dataset
        Of `load_pope` or `build_pope`.
    path : path
        The file.
    """
    lines = [
        json.dumps(
            {
                "question_id": int(case.key),
                "image": case.group,
                "text": case.prompt,
                "label": "yes" if case.truth else "no",
            }
        )
        for case in dataset.cases
    ]
    with whole_file(path) as partial:
        partial.write_text("\n".join(lines) + "\n", "utf-8")


def read_instances(
    path: Path, problems: list[Problem]
) -> tuple[list[str], dict[int, str], dict[str, list[str]]]:
    """Read a COCO instances file.

    Parameters
    ----------
    path : path
        The file.
    problems : list of Problem
        Annotations that join no picture or category are added here.

    Returns
    -------
    list of str
        The categories.
    dict of int to str
        By number of the picture: its file name.
    dict of str to list of str
        By file name: the things that are there, each once, in the order of their annotations.

    Raises
    ------
    DataError
        If the file is no instances file.
    """
    found = read_object(path)
    try:
        categories = by_id(found["categories"], "name")
        names = by_id(found["images"], "file_name")
        annotations = [(each["image_id"], each["category_id"]) for each in found["annotations"]]
    except (KeyError, TypeError, ValueError) as error:
        what = f"must be a COCO instances file: {error!r}"
        settle([Problem(str(path), None, what)], False)
        raise
    there: dict[str, list[str]] = {name: [] for name in names.values()}
    for place, (image, category) in enumerate(annotations, 1):
        if image not in names or category not in categories:
            what = f"joins no picture or category: image {image}, category {category}"
            problems.append(Problem(str(path), place, what))
        elif categories[category] not in there[names[image]]:
            there[names[image]].append(categories[category])
    return list(categories.values()), names, there


def _dataset(
    cases: Sequence[Case], rule: str, files: Sequence[Path], problems: Sequence[Problem]
) -> Dataset:
    def count(case: Case, answer: Answer) -> dict[str, float]:
        return count_yes_no(case.truth, read_yes_no(answer.text, rule, answer.margin))

    return Dataset("pope", cases, count, POPE_MEASURES, {"rule": rule}, files, problems)


def _counted_beside(objects: Mapping[str, Sequence[str]]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for there in objects.values():
        for thing in there:
            found.setdefault(thing, Counter()).update(other for other in there if other != thing)
    return found


def _questions(
    there: Sequence[str], sampling: str, names: Sequence[str], often: Counter[str],
    beside: Mapping[str, Counter[str]], rng: Any,
) -> list[tuple[str, bool]]:  # fmt: skip
    """Give three things that are there, after each one that is not."""
    asked: list[tuple[str, bool]] = []
    used = set(there)
    for thing in there[:_LEAST_OBJECTS]:
        asked.append((thing, True))
        absent = [name for name in names if name not in used]
        if not absent:
            continue
        counts = often if sampling == "popular" else beside.get(thing, Counter())
        ranked = sorted((n for n in absent if counts[n]), key=lambda n: -counts[n])
        if sampling == "random" or not ranked:
            drawn = absent[int(rng.integers(len(absent)))]
        else:
            drawn = ranked[0]
        used.add(drawn)
        asked.append((drawn, False))
    return asked
