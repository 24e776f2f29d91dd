"""AMBER: its queries, annotations, associated and safe words.

Paper: AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination Evaluation, arXiv
2311.07397.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reattend.evaluation.datasets.dataset import (
    Answer,
    Case,
    Dataset,
    Problem,
    register,
)
from reattend.evaluation.datasets.records import (
    Pictures,
    field_of,
    read_object,
    read_records,
    settle,
    unreadable,
)
from reattend.evaluation.metrics.amber import (
    GENERATIVE_MEASURES,
    AmberWords,
    Similar,
    amber_words,
    count_amber_description,
    count_amber_question,
)
from reattend.evaluation.metrics.chair import finished_part
from reattend.evaluation.metrics.measures import Combined
from reattend.evaluation.metrics.pope import check_rule, read_yes_no
from reattend.optional import demand

SIMILARITY = 0.8  # above it two words mean the same
_MODEL = "en_core_web_lg"
_DIMENSIONS = {  # the type of a question: what its scores are of
    "discriminative-hallucination": ("existence",),
    "discriminative-attribute-state": ("attribute", "state"),
    "discriminative-attribute-number": ("attribute", "number"),
    "discriminative-attribute-action": ("attribute", "action"),
    "relation": ("relation",),
    "discriminative-relation": ("relation",),
}
_QUESTION_MEASURES = {
    "accuracy": ("right", "asked"),
    "precision": ("right_no", "no"),
    "recall": ("right_no", "true_no"),
    "f1": ("twice_right_no", "no_and_true_no"),
    "yes": ("yes", "asked"),
    "unparsed": ("unparsed", "asked"),
}


@register("amber")
def load_amber(
    data: str | Path,
    images: str | Path | None = None,
    *,
    annotations: str | Path | None = None,
    rule: str = "official",
    similarity: str | Similar | None = "spacy",
    max_new_tokens: int = 512,
    drop_unfinished: bool = False,
    skip_problems: bool = False,
) -> Dataset:
    """Load AMBER's queries, with what is right by its annotations.

    Parameters
    ----------
    data : path
        A file of ``data/query``; all of it, or a part.
    images : path, optional
        The folder of its pictures; without it answers of a file can be scored.
    annotations : path, optional
        The folder with ``annotations.json``, ``relation.json`` and ``safe_words.txt``; by default
        the one that holds the folder of ``data``. What ``metrics.txt`` there starts sums at is
        read as well: a denominator of 0.001, which here is 0 and gives no score.
    rule : {"official", "first", "exact", "logits"}, optional
        ``"official"`` takes ``Yes`` and ``No`` in these letters alone, and nothing else; others
        are those of `read_yes_no`.
    similarity : "spacy", path, callable or None, optional
        What says that two words mean the same: spaCy's ``en_core_web_lg``, where it is installed,
        another model of spaCy, or a function of two words. The rules say if nothing did.
    max_new_tokens : int, optional
        Of descriptions.
    drop_unfinished : bool, optional
        Whether a last sentence without an end is left out.
    skip_problems : bool, optional
        Whether entries with a problem are left out, and reported, instead of raised.

    Raises
    ------
    DataError
        Naming file and entry: no JSON, a missing field, an id that joins no annotation or was
        there before, an annotation of a kind that is not known, a picture that is not there.
    ValueError
        If there is no such rule.
    """
    if rule != "official":
        check_rule(rule)
    path, problems = Path(data), list[Problem]()
    folder = path.parent.parent if annotations is None else Path(annotations)
    files = [folder / name for name in ("annotations.json", "relation.json", "safe_words.txt")]
    _check_start(folder / "metrics.txt", problems)
    pictures = None if images is None else Pictures(Path(images))
    truths = _annotations(files[0], problems)
    words = amber_words(_associated(files[1], problems), _lines(files[2]))
    similar, how = _similarity(similarity)
    cases: list[Case] = []
    lines: dict[str, int] = {}
    for record in read_records(path, problems):
        key, image, prompt = (
            field_of(record, names, path, problems) for names in (("id",), ("image",), ("query",))
        )
        if None in (key, image, prompt):
            continue
        key, file = str(key), None if pictures is None else pictures.find(image)
        wrong = [f"id {key} was there in entry {lines[key]}"] if key in lines else []
        wrong += [f"id {key} joins no annotation"] if key not in truths else []
        if pictures is not None and file is None:
            wrong.append(f"picture {image} is not in {images}")
        lines.setdefault(key, record.line)
        problems += [Problem(str(path), record.line, what) for what in wrong]
        if not wrong:
            truth = truths[key]
            asked = truth["type"] != "generative"
            tokens = 8 if asked else max_new_tokens
            cases.append(Case(key, str(prompt), file, str(image), asked, tokens, truth))
    kinds = {case.truth["type"] for case in cases}
    asked, described = kinds - {"generative"}, "generative" in kinds
    nothing = dict.fromkeys(_count_names(asked, words), 0.0)

    def count(case: Case, answer: Answer) -> dict[str, float]:
        finished = finished_part(answer.text)
        text = finished if drop_unfinished and finished else answer.text
        if case.truth["type"] == "generative":
            there, expected = case.truth["truth"], case.truth["hallu"]
            counts = count_amber_description(text, there, expected, words, similar)
            counts["unfinished"] = float(finished != answer.text.strip())
            return {**nothing, **counts}
        counts = count_amber_question(case.truth["truth"] == "yes", _read(answer, rule))
        of = {f"{dimension} {name}": value for dimension in _DIMENSIONS[case.truth["type"]]
              for name, value in counts.items()}  # fmt: skip
        return {**nothing, **counts, **of}

    measures = dict(GENERATIVE_MEASURES) if described else {}
    measures |= _QUESTION_MEASURES if asked else {}
    for dimension in dict.fromkeys(d for kind in _DIMENSIONS if kind in asked
                                   for d in _DIMENSIONS[kind]):  # fmt: skip
        for name in ("accuracy", "f1"):
            part, whole = _QUESTION_MEASURES[name]
            measures[f"{dimension}_{name}"] = f"{dimension} {part}", f"{dimension} {whole}"
    score = Combined({"chair": -0.5, "f1": 0.5}, 0.5)
    return Dataset(
        "amber", cases, count, measures, _rules(rule, how, drop_unfinished, asked, described),
        [path, *files], settle(problems, skip_problems), numbers=("words",),
        combined={"amber": score} if asked and described else {},
    )  # fmt: skip


def spacy_similarity(model: str | Path = _MODEL, least: float = SIMILARITY) -> Similar:
    """Give a function that asks a model of spaCy whether two words are similar.

    Parameters
    ----------
    model : str or path, optional
        An installed model with vectors, or a folder.
    least : float, optional
        Similarity that two words must exceed.

    Raises
    ------
    MissingPackageError
        If spaCy is not installed.
    OSError
        If it has no such model.
    """
    read = demand("spacy").load(model)
    words = functools.cache(read)

    @functools.cache
    def similar(first: str, second: str) -> bool:
        one, other = words(first), words(second)
        if not (one.vector_norm and other.vector_norm):  # a word without a vector is like no other
            return first == second
        return bool(one.similarity(other) > least)

    return similar


def _similarity(given: str | Path | Similar | None) -> tuple[Similar | None, str]:
    if given is None:
        return None, "not looked at"
    if not isinstance(given, (str, Path)):
        return given, f"by the function {getattr(given, '__qualname__', type(given).__name__)}"
    name = _MODEL if given == "spacy" else given
    if given == "spacy" and not (find_spec("spacy") and find_spec(_MODEL)):
        return None, f"not looked at, for want of spaCy's {_MODEL}"
    return spacy_similarity(name), f"by spaCy's {Path(name).name}, above {SIMILARITY}"


def _rules(
    rule: str, how: str, drop_unfinished: bool, asked: Collection[str], described: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if asked:
        found["rule"] = "official (Yes or No in these letters)" if rule == "official" else rule
        found["positive class"] = "no"
    if described:
        found["similar words"] = how
        found["nouns"] = "words of relation.json, of any part of speech"
        found["unfinished last sentence"] = "dropped" if drop_unfinished else "kept"
    return found


def _read(answer: Answer, rule: str) -> bool | None:
    if rule == "official":
        return {"Yes": True, "No": False}.get(answer.text)
    return read_yes_no(answer.text, rule, answer.margin)


def _count_names(asked: Collection[str], words: AmberWords) -> list[str]:
    question = [*count_amber_question(True, False)]
    dimensions = {dimension for kind in asked for dimension in _DIMENSIONS[kind]}
    of = [f"{dimension} {name}" for dimension in dimensions for name in question]
    return [*question, *of, "unfinished", *count_amber_description("", [], [], words)]


def _annotations(path: Path, problems: list[Problem]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for record in read_records(path, problems):
        values = record.values
        key, kind, truth = (values.get(name) for name in ("id", "type", "truth"))
        if kind == "generative":
            right = isinstance(truth, list) and isinstance(values.get("hallu"), list)
        else:
            right = kind in _DIMENSIONS and truth in ("yes", "no")
        if key is None or not right:
            what = f"must have an id, a known type and its truth, got {str(values)[:80]}"
            problems.append(Problem(str(path), record.line, what))
        elif str(key) in found:
            problems.append(Problem(str(path), record.line, f"id {key} was there before"))
        else:
            found[str(key)] = values
    return found


def _associated(path: Path, problems: list[Problem]) -> dict[str, list[str]]:
    found = {}
    for word, others in read_object(path).items():
        if isinstance(others, list) and all(isinstance(each, str) for each in others):
            found[word] = others
        else:
            problems.append(Problem(str(path), None, f"{word!r} must have a list of words"))
    return found


def _lines(path: Path) -> Sequence[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def _check_start(path: Path, problems: list[Problem]) -> None:
    """Name what is wrong with the values at which the public scorer starts its sums, if any."""
    if not path.exists():
        return
    for number, line in enumerate(_lines(path), 1):
        name, _, value = line.partition("=")
        if value.strip() not in ("0", "0.001"):
            what = f"must start at 0 or 0.001, got {name.strip()} = {value.strip()!r}"
            problems.append(Problem(str(path), number, what))
