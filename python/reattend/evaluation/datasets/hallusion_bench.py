"""HallusionBench: verdicts of a judge that was asked elsewhere.

Paper: HallusionBench: An Advanced Diagnostic Suite for Entangled Language Hallucination and Visual
Illusion in Large Vision-Language Models (CVPR 2024), arXiv 2310.14566.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reattend.evaluation.datasets.dataset import Answer, Case, Dataset, Problem, register
from reattend.evaluation.datasets.records import field_of, read_records, settle

VERDICTS = {"1": "correct", "0": "incorrect", "2": "unclear"}
_FIELDS = ("category", "subcategory", "set_id", "figure_id", "question_id", "question")
_VERDICT = ("verdict", "gpt4v_output_gpt_check", "correctness", "correct")


@register("hallusion-bench")
def load_hallusion_bench(
    data: str | Path, *, verdict: str | None = None, skip_problems: bool = False
) -> Dataset:
    """Load HallusionBench's rows with what a judge said of the answers.

    Parameters
    ----------
    data : path
        Rows with category, subcategory, set_id, figure_id, question_id and question, as an array
        or one a line, each with a verdict: 1 or correct, 0 or incorrect, 2 or unclear.
    verdict : str, optional
        The field of it; by default verdict, gpt4v_output_gpt_check, correctness or correct.
    skip_problems : bool, optional
        Whether rows with a problem are left out, and reported, instead of raised.

    Returns
    -------
    Dataset
        ``aAcc`` is of questions, ``qAcc`` of questions right with all their figures, ``fAcc`` of
        figures with all their questions right. Unclear is right where a question has no figure
        (category VS, figure 0), as in the public scorer; such figures are none of ``fAcc``. No
        judge is called: verdicts are in ``made``.

    Raises
    ------
    DataError
        Naming file and row: a missing field, another verdict, a row that was there before.
    """
    path, problems = Path(data), list[Problem]()
    cases: list[Case] = []
    made: dict[str, Answer] = {}
    lines: dict[str, int] = {}
    names = _VERDICT if verdict is None else (verdict,)
    for record in read_records(path, problems):
        values = {name: field_of(record, (name,), path, problems) for name in _FIELDS}
        said = field_of(record, names, path, problems)
        if said is None or None in values.values():
            continue
        key = "_".join(str(values[name]) for name in _FIELDS[:-1])
        read = VERDICTS.get(str(said), str(said).strip().lower())
        wrong = []
        if read not in VERDICTS.values():
            wrong.append(f"the verdict must be one of {', '.join(VERDICTS.values())}, got {said!r}")
        if key in lines:
            wrong.append(f"{key} was there in row {lines[key]}")
        if values["category"] not in ("VD", "VS"):
            wrong.append(f"category must be VD or VS, got {values['category']!r}")
        lines.setdefault(key, record.line)
        problems += [Problem(str(path), record.line, what) for what in wrong]
        if not wrong:
            group = "_".join(str(values[name]) for name in _FIELDS[:3])
            cases.append(Case(key, str(values["question"]), None, group, truth=values))
            made[key] = Answer(read)
    return Dataset(
        "hallusion-bench", cases, _count,
        {"aAcc": ("right", "asked"), "qAcc": ("questions right", "questions"),
         "fAcc": ("figures right", "figures"), "unclear": ("unclear", "asked"),
         "unparsed": ("unparsed", "asked")},
        {"verdicts": "a judge's, imported"}, [path], settle(problems, skip_problems),
        count_group=_count_set, made=made,
    )  # fmt: skip


def _count(case: Case, answer: Answer) -> dict[str, float]:
    unclear = answer.text == "unclear"
    right = answer.text == "correct" or (unclear and not _has_figure(case.truth))
    known = answer.text in VERDICTS.values()
    return {"asked": 1.0, "right": float(right), "unclear": float(unclear),
            "unparsed": float(not known)}  # fmt: skip


def _count_set(cases: Sequence[Case], answers: Sequence[Answer]) -> dict[str, float]:
    questions: dict[Any, bool] = {}
    figures: dict[Any, bool] = {}
    for case, answer in zip(cases, answers, strict=True):
        right = bool(_count(case, answer)["right"])
        question, figure = str(case.truth["question_id"]), str(case.truth["figure_id"])
        questions[question] = questions.get(question, True) and right
        if _has_figure(case.truth):
            figures[figure] = figures.get(figure, True) and right
    return {
        "questions": float(len(questions)), "questions right": float(sum(questions.values())),
        "figures": float(len(figures)), "figures right": float(sum(figures.values())),
    }  # fmt: skip


def _has_figure(values: dict[str, Any]) -> bool:
    return not (values["category"] == "VS" and str(values["figure_id"]) == "0")
