"""MME: files of answers, a subtask each, with two questions about every picture.

Paper: MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models, arXiv
2306.13394.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reattend.evaluation.datasets.dataset import Answer, Case, DataError, Dataset, Problem, register
from reattend.evaluation.datasets.records import Pictures, coco_number, settle, unreadable
from reattend.evaluation.metrics.measures import Combined
from reattend.evaluation.metrics.pope import check_rule, read_yes_no

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
    "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
HALLUCINATION = ("existence", "count", "position", "color")
_QUESTIONS = 2  # about each picture


@register("mme")
def load_mme(
    data: str | Path,
    images: str | Path | None = None,
    *,
    rule: str = "official",
    skip_problems: bool = False,
) -> Dataset:
    """Load MME's files: a line has picture, question, right answer and, if it was made, the answer.

    Parameters
    ----------
    data : path
        The folder of ``existence.txt`` and so on; those that it holds are scored.
    images : path, optional
        The folder of the pictures, or of a folder for each subtask.
    rule : {"official", "first", "exact", "logits"}, optional
        ``"official"`` is MME's: yes or no, y or n, or yes or no within the first four letters;
        others are those of `read_yes_no`.
    skip_problems : bool, optional
        Whether lines with a problem are left out, and reported, instead of raised.

    Returns
    -------
    Dataset
        A subtask's score is 100 times the share of right answers and 100 times the share of
        pictures with both right. Answers of the files are in ``made``.

    Raises
    ------
    DataError
        Naming file and line: another number of fields, a right answer that is neither yes nor no,
        a picture that is not there or has not two questions, a file that is no subtask.
    ValueError
        If there is no such rule.
    """
    if rule != "official":
        check_rule(rule)
    folder, problems = Path(data), list[Problem]()
    if not folder.is_dir():
        raise DataError([Problem(str(folder), None, "is not a folder")])
    files = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    known = [name for name in (*PERCEPTION, *COGNITION) if name in files]
    problems += [Problem(str(files[name]), None, "is no subtask of MME")
                 for name in files if name not in known]  # fmt: skip
    cases: list[Case] = []
    made: dict[str, Answer] = {}
    for name in known:
        cases += _read(name, files[name], images, made, problems)

    def count(case: Case, answer: Answer) -> dict[str, float]:
        name, there = case.truth
        yes = read_mme(answer.text) if rule == "official" else read_yes_no(
            answer.text, rule, answer.margin
        )  # fmt: skip
        right = float(yes is not None and yes == there)
        nothing = {f"{each} {what}": 0.0 for each in known for what in ("asked", "right")}
        own = {f"{name} asked": 1.0, f"{name} right": right}
        unparsed = float(yes is None)
        return {**nothing, **own, "asked": 1.0, "right": right, "yes": float(yes is True),
                "unparsed": unparsed}  # fmt: skip

    def count_group(some: Sequence[Case], answers: Sequence[Answer]) -> dict[str, float]:
        both: dict[str, bool] = {}  # by subtask: more than one may ask about a picture
        for case, answer in zip(some, answers, strict=True):
            name = case.truth[0]
            both[name] = both.get(name, True) and bool(count(case, answer)["right"])
        found = {f"{each} pictures": float(each in both) for each in known}
        return found | {f"{each} both": float(both.get(each, False)) for each in known}

    measures = {"accuracy": ("right", "asked"), "yes": ("yes", "asked"),
                "unparsed": ("unparsed", "asked")}  # fmt: skip
    combined = {}
    for name in known:
        measures[f"{name}_accuracy"] = f"{name} right", f"{name} asked"
        measures[f"{name}_accuracy+"] = f"{name} both", f"{name} pictures"
        combined[name] = Combined({f"{name}_accuracy": 100, f"{name}_accuracy+": 100})
    totals = {"perception": PERCEPTION, "cognition": COGNITION, "hallucination": HALLUCINATION}
    for total, names in totals.items():
        if set(names) <= {*known}:
            combined[total] = Combined(dict.fromkeys(names, 1.0))
    rules = {"rule": "official (MME's)" if rule == "official" else rule}
    return Dataset(
        "mme", cases, count, measures, rules, [files[name] for name in known],
        settle(problems, skip_problems), combined=combined, numbers=tuple(combined),
        count_group=count_group, made=made,
    )  # fmt: skip


def read_mme(text: str) -> bool | None:
    """Read an answer as MME's scorer does; None if it is neither yes nor no.

    Parameters
    ----------
    text : str
        The answer.

    Examples
    --------
    >>> [read_mme(text) for text in ("Yes.", "n", "It is not", "a no, sir")]
    [True, False, None, False]
    """
    said = text.lower().strip().replace(".", "")
    if len(said) == 1:
        return {"y": True, "n": False}.get(said)
    start = said[:4]
    return True if "yes" in start else False if "no" in start else None


def _read(
    name: str, path: Path, images: str | Path | None, made: dict[str, Answer],
    problems: list[Problem],
) -> list[Case]:  # fmt: skip
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    pictures = None
    if images is not None:
        own = Path(images) / name
        pictures = Pictures(own if own.is_dir() else Path(images))
    by_picture: dict[str, list[tuple[int, Case, str | None]]] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        if not line.strip():
            continue
        if len(fields) not in (3, 4):
            what = f"must have 3 or 4 fields between tabs, got {len(fields)}"
            problems.append(Problem(str(path), number, what))
            continue
        image, question, right = (each.strip() for each in fields[:3])
        there = {"yes": True, "no": False}.get(right.lower().rstrip("."))
        file = None if pictures is None else pictures.find(image)
        if there is None:
            what = f"the right answer must be yes or no, got {right!r}"
        elif pictures is not None and file is None:
            what = f"picture {image} is not in {images}"
        else:
            place = f"{name}/{image}"
            same = by_picture.setdefault(place, [])
            # COCO's pictures are in several subtasks; other names mean another picture in each.
            group = image if coco_number(image) is not None else place
            case = Case(f"{place} {len(same) + 1}", question, file, group, True, 16, (name, there))
            same.append((number, case, fields[3] if len(fields) == 4 else None))
            continue
        problems.append(Problem(str(path), number, what))
    found = []
    for place, some in by_picture.items():
        if len(some) != _QUESTIONS or len({case.prompt for _, case, _ in some}) != _QUESTIONS:
            what = f"{place} must have {_QUESTIONS} different questions, got {len(some)}"
            problems.append(Problem(str(path), some[0][0], what))
            continue
        found += [case for _, case, _ in some]
        made |= {case.key: Answer(said) for _, case, said in some if said is not None}
    return found
