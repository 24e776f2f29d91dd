"""Pictures that nobody here made: easy-VQA's coloured shapes, and its questions about them.

The pictures and questions are Victor Zhou's, MIT licence, of the package ``easy-vqa``. The
demonstration's model knows neither shapes nor colours unless it was trained on them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reattend.evaluation.datasets.dataset import Answer, Case, Dataset, register
from reattend.evaluation.datasets.emoji_world.world import SIDE
from reattend.evaluation.metrics.counts import columns, difference, estimate, resample
from reattend.evaluation.metrics.pope import POPE_MEASURES, check_rule, count_yes_no, read_yes_no
from reattend.evaluation.runner.answers import new_session
from reattend.evaluation.runner.journal import Journal
from reattend.evaluation.settings import PLAIN, SETTINGS
from reattend.method import Method
from reattend.optional import demand
from reattend.policy import Array

if TYPE_CHECKING:
    from reattend.evaluation.loading import Loaded

KINDS = ("all", "yes or no", "shape or colour")  # of questions
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


def answer_questions(
    loaded: Loaded, methods: Sequence[Method], questions: Sequence[Question], pictures: Array
) -> list[str]:
    """Answer questions side by side: of all answers there are, the one whose first token leads.

    Parameters
    ----------
    loaded : Loaded
        The model.
    methods : sequence of Method
        At work in its attention.
    questions : sequence of B Question
        What is asked.
    pictures : uint8 array [B, 120, 120, 3], or float32 array [B, 100, C]
        About what; or what ``model.encode`` gave of it.
    """
    model = loaded.model
    answers = [answer.capitalize() for answer in demand("easy_vqa").get_answers()]
    first = [model.tokenizer.encode(answer, prefix=False)[0] for answer in answers]
    prompts = [model.prompt(question.text) for question in questions]
    logits = model.next_logits(new_session(model, methods), prompts, pictures)
    return [answers[place] for place in logits[:, first].argmax(-1)]


def run_questions(
    loaded: Loaded,
    settings: Mapping[str, Sequence[Method]],
    questions: Sequence[Question],
    together: int,
    journal: Journal,
    progress: Callable[[int, int], None] = lambda done, whole: None,
) -> dict[str, Any]:
    """Let every setting answer every question, and sum up; what the journal has is not done again.

    Parameters
    ----------
    loaded : Loaded
        The model.
    settings : mapping of str to sequence of Method
        `PLAIN` and others.
    questions : sequence of Question
        What is asked.
    together : int
        How many questions side by side.
    journal : Journal
        Where answers go.
    progress : callable, optional
        Called with how many of how many pieces are done.

    Returns
    -------
    dict
        By kind of question: how many, and of each setting ``accuracy``, its ``difference`` from
        plain, each as [value, low, high] by a bootstrap over pictures, and ``time``, plain = 1.
    """
    names, starts = [*settings], range(0, len(questions), together)
    for place, start in enumerate(starts):
        left = [name for name in names if [name, start] not in journal]
        if not left:
            continue
        some = questions[start : start + together]
        pictures = loaded.model.encode(read_pictures(some))
        for name in left:
            began = time.perf_counter()
            answers = answer_questions(loaded, settings[name], some, pictures)
            took = time.perf_counter() - began
            journal.add([name, start], {"answers": answers, "seconds": took})
            progress(
                place * len(settings) + [*settings].index(name) + 1, len(starts) * len(settings)
            )
    entries = {name: [journal.get([name, start]) for start in starts] for name in settings}
    said = {name: [a for each in found for a in each["answers"]] for name, found in entries.items()}
    seconds = {name: sum(each["seconds"] for each in found) for name, found in entries.items()}
    return {kind: _sum_up(kind, questions, said, seconds) for kind in KINDS}


def write_table(summary: Mapping[str, Any], kind: str) -> str:
    """Write a kind of question as a table.

    Parameters
    ----------
    summary : mapping
        Of `run_questions`.
    kind : str
        Of `KINDS`.

    Returns
    -------
    str
        Markdown.

    Examples
    --------
    >>> entry = {"accuracy": [0.5, 0.4, 0.6], "difference": [0, 0, 0], "time": 1.0}
    >>> print(write_table({"all": {"questions": 9, "settings": {"plain": entry}}}, "all"))
    **all**: 9 questions
    <BLANKLINE>
    | setting | accuracy | against plain | time |
    | --- | --- | --- | --- |
    | plain | 50.0 [40.0, 60.0] | +0.0 [+0.0, +0.0] | 1.00 |
    """
    found = summary[kind]
    lines = [f"**{kind}**: {found['questions']} questions", ""]
    lines += ["| setting | accuracy | against plain | time |", "| --- | --- | --- | --- |"]
    for name, entry in found["settings"].items():
        value, low, high = (100 * each for each in entry["accuracy"])
        more, least, most = (100 * each for each in entry["difference"])
        lines.append(
            f"| {SETTINGS[name].label} | {value:.1f} [{low:.1f}, {high:.1f}] "
            f"| {more:+.1f} [{least:+.1f}, {most:+.1f}] | {entry['time']:.2f} |"
        )
    return "\n".join(lines)


def _sum_up(
    kind: str,
    questions: Sequence[Question],
    said: Mapping[str, Sequence[str]],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    wanted = [
        kind == "all" or (each.answer in ("Yes", "No")) == (kind == "yes or no")
        for each in questions
    ]
    pictures = sorted({each.picture for each, some in zip(questions, wanted, strict=True) if some})
    row_of = {picture: row for row, picture in enumerate(pictures)}
    counts = {}
    for name, answers in said.items():
        rows = [{"right": 0.0, "asked": 0.0} for _ in pictures]
        for question, answer, some in zip(questions, answers, wanted, strict=True):
            if some:
                row = rows[row_of[question.picture]]
                row["asked"] += 1
                row["right"] += answer == question.answer
        counts[name] = columns(rows)
    weights = resample(len(pictures))
    plain = counts[PLAIN]
    settings = {}
    for name, found in counts.items():
        right, asked = found["right"], found["asked"]
        change = difference(right, asked, plain["right"], plain["asked"], weights)
        settings[name] = {
            "accuracy": [round(each, 5) for each in estimate(right, asked, weights)],
            "difference": [round(each, 5) for each in change],
            "time": round(seconds[name] / seconds[PLAIN], 3),
        }
    return {"questions": sum(wanted), "pictures": len(pictures), "settings": settings}
