"""Scores of an evaluation with intervals, against plain and run against run, as tables."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reattend.evaluation.datasets.dataset import Answer, Dataset
from reattend.evaluation.metrics.counts import Estimate, columns, difference, estimate, resample
from reattend.evaluation.runner.evaluate import Evaluation
from reattend.policy import Array

FORMS = ("markdown", "latex", "html")
NO_DIFFERENCE = "no difference shown"


def score(evaluation: Evaluation, *, baseline: str = "plain", seed: int = 0) -> dict[str, Any]:
    """Score every setting, with 95% intervals by a bootstrap over pictures.

    Parameters
    ----------
    evaluation : Evaluation
        Of `evaluate`.
    baseline : str, optional
        The setting that others are compared with, pair by pair, if it is there.
    seed : int, optional
        Of the bootstrap.

    Returns
    -------
    dict
        As JSON can hold it: ``data``, ``rules``, ``cases``, ``pictures``, ``problems``, ``run``,
        ``measures`` with their ``counts`` by setting and picture, and ``settings``; of each
        ``methods``, its ``measures`` and their ``difference`` from the baseline, each
        [value, low, high].
    """
    data = evaluation.dataset
    sums = {name: summed(data, answers) for name, answers in evaluation.answers.items()}
    pictures = len({case.group for case in data.cases})
    weights = resample(pictures, seed)
    settings: dict[str, Any] = {}
    for name, own in sums.items():
        entry: dict[str, Any] = {"methods": evaluation.methods[name], "measures": {}}
        for measure, (part, whole) in data.measures.items():
            found = estimate(own[part], own[whole], weights)
            entry["measures"][measure] = _plain(found)
        if name != baseline and baseline in sums:
            entry["difference"] = _differences(data.measures, own, sums[baseline], weights)
        settings[name] = entry
    return {
        "data": data.name,
        "rules": dict(data.rules),
        "cases": len(data.cases),
        "pictures": pictures,
        "problems": [str(problem) for problem in data.problems],
        "run": evaluation.run,
        "baseline": baseline,
        "settings": settings,
        "measures": {name: list(pair) for name, pair in data.measures.items()},
        "numbers": sorted(data.numbers),
        "counts": {
            name: {count: values.tolist() for count, values in own.items()}
            for name, own in sums.items()
        },
    }


def compare(
    first: Mapping[str, Any], second: Mapping[str, Any], setting: str = "plain", *, seed: int = 0
) -> dict[str, Any]:
    """Compare a setting of two runs on the same cases, pair by pair.

    Parameters
    ----------
    first, second : mapping
        Of `score`, or read from the JSON of it.
    setting : str, optional
        Which, of both.
    seed : int, optional
        Of the bootstrap.

    Returns
    -------
    dict
        By measure: ``difference``, second - first as [value, low, high], and ``verdict``:
        "higher", "lower" or "no difference shown".

    Raises
    ------
    ValueError
        If they are no scores, the runs are of different data or rules, or one of them lacks the
        setting.
    """
    try:
        data = [(run["run"]["data"], run["rules"]) for run in (first, second)]
        counts = [run["counts"] for run in (first, second)]
        measures, pictures = first["measures"], first["pictures"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"runs must be scores of an evaluation, got none: {error!r}") from error
    if data[0] != data[1]:
        raise ValueError(f"runs must be of the same data and rules, got {data[0]} and {data[1]}")
    for found in counts:
        if setting not in found:
            raise ValueError(f"setting must be one of {', '.join(found)}, got {setting!r}")
    base, own = (
        {name: np.array(values) for name, values in found[setting].items()} for found in counts
    )
    changes = _differences(measures, own, base, resample(pictures, seed))
    return {
        measure: {"difference": values, "verdict": verdict(values)}
        for measure, values in changes.items()
    }


def verdict(values: Sequence[float | None]) -> str:
    """Say what a difference shows.

    Parameters
    ----------
    values : (value, low, high)
        With its interval.

    Examples
    --------
    >>> verdict([0.1, 0.05, 0.2]), verdict([0.1, -0.1, 0.2]), verdict([None, None, None])
    ('higher', 'no difference shown', 'no difference shown')
    """
    _, low, high = values
    if low is None or high is None or low <= 0 <= high:
        return NO_DIFFERENCE
    return "higher" if low > 0 else "lower"


def summed(data: Dataset, answers: Sequence[Answer]) -> dict[str, Array]:
    """Sum the counts of each picture's cases, by name.

    Parameters
    ----------
    data : Dataset
        What was asked.
    answers : sequence of Answer
        One for each case, in their order.
    """
    rows: dict[str, dict[str, float]] = {}
    for case, answer in zip(data.cases, answers, strict=True):
        row = rows.setdefault(case.group, {})
        for name, value in data.count(case, answer).items():
            row[name] = row.get(name, 0.0) + value
    return columns([*rows.values()])


def write_scores(scores: Mapping[str, Any], form: str = "markdown") -> str:
    """Write scores as a table, with the rules by which answers were read.

    Parameters
    ----------
    scores : mapping
        Of `score`.
    form : {"markdown", "latex", "html"}, optional
        In which language.

    Raises
    ------
    ValueError
        If there is no such form.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    settings = scores["settings"]
    measures = [*next(iter(settings.values()))["measures"]]
    headings = ["setting", *measures]
    units = {each: 1 if each in scores["numbers"] else 100 for each in measures}
    rows = []
    for name, entry in settings.items():
        rows.append([name, *(_level(units[each], entry["measures"][each]) for each in measures)])
        if "difference" in entry:
            points = [_points(units[each], entry["difference"][each]) for each in measures]
            rows.append([f"{name} - {scores['baseline']}", *points])
    rules = ", ".join(f"{name}: {value}" for name, value in scores["rules"].items())
    left_out = len(scores["problems"])
    caption = f"{scores['data']}: {scores['cases']} cases, {scores['pictures']} pictures; {rules}"
    caption += f"; {left_out} left out" if left_out else ""
    return _FORMS[form](caption, headings, rows)


def _differences(
    measures: Mapping[str, Sequence[str]],
    own: Mapping[str, Array],
    base: Mapping[str, Array],
    weights: Array,
) -> dict[str, list[float | None]]:
    return {
        measure: _plain(difference(own[part], own[whole], base[part], base[whole], weights))
        for measure, (part, whole) in measures.items()
    }


def _plain(found: Estimate) -> list[float | None]:
    return [None if np.isnan(number) else round(number, 6) for number in found]


def _level(unit: int, values: Sequence[float | None]) -> str:
    value, low, high = values
    if value is None or low is None or high is None:
        return "-"
    digits = 2 if unit == 1 else 1
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(unit * n for n in (value, low, high)), d=digits)


def _points(unit: int, values: Sequence[float | None]) -> str:
    value, low, high = values
    if value is None or low is None or high is None:
        return "-"
    text = f"{unit * value:+.1f} [{unit * low:+.1f}, {unit * high:+.1f}]"
    return text if verdict(values) != NO_DIFFERENCE else f"{text} ({NO_DIFFERENCE})"


def _markdown(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join([f"**{caption}**", "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def _latex(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(_escaped(cell) for cell in cells) + r" \\"

    body = [line(headings), r"\hline", *map(line, rows)]
    columns_ = "l" + "r" * (len(headings) - 1)
    return "\n".join(
        [f"% {caption}", rf"\begin{{tabular}}{{{columns_}}}", *body, r"\end{tabular}", ""]
    )


def _escaped(cell: str) -> str:
    return "".join(f"\\{each}" if each in "_%&#$" else each for each in cell)


def _html(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = [line(headings, "th"), *(line(row, "td") for row in rows)]
    start = f"<table>\n<caption>{html.escape(caption)}</caption>"
    return "\n".join([start, *lines, "</table>", ""])


_FORMS = {"markdown": _markdown, "latex": _latex, "html": _html}
