"""Tables of scores and comparisons: Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from reattend.evaluation.report.comparison import NO_DIFFERENCE, verdict

FORMS = ("markdown", "latex", "html")
_WIDEST = 14  # columns; of more measures each has a line
_Found = Sequence[float | None]


def write_scores(scores: Mapping[str, Any], form: str = "markdown") -> str:
    """Write scores as a table, with the rules by which answers were read.

    Parameters
    ----------
    scores : mapping
        Of `score`.
    form : {"markdown", "latex", "html"}, optional
        In which language.

    Returns
    -------
    str
        A line for each setting; below it how far it is from the baseline, in percentage points or
        in numbers, and, where that is known, for hallucinated words at matched recall and length.
        Of many measures each has a line, and each setting a column.

    Raises
    ------
    ValueError
        If there is no such form.
    """
    _check(form)
    settings, base = scores["settings"], scores["baseline"]
    measures = [*next(iter(settings.values()))["measures"]]
    units = _units(measures, scores["numbers"])
    matched = [
        *dict.fromkeys(what for each in settings.values() for what in each.get("matched", ()))
    ]
    headings = ["setting", *measures, *(f"hallucinated at matched {what}" for what in matched)]
    rows = []
    for name, entry in settings.items():
        levels = [_level(units[each], entry["measures"][each]) for each in measures]
        rows.append([name, *levels, *[""] * len(matched)])
        if "difference" in entry:
            points = [_points(units[each], entry["difference"][each]) for each in measures]
            level = [
                _points(100, entry["matched"][w]) if "matched" in entry else "" for w in matched
            ]
            rows.append([f"{name} - {base}", *points, *level])
    rules = ", ".join(f"{name}: {value}" for name, value in scores["rules"].items())
    left_out = len(scores["problems"])
    caption = f"{scores['data']}: {scores['cases']} cases, {scores['pictures']} pictures; {rules}"
    caption += f"; {left_out} left out" if left_out else ""
    if len(headings) > _WIDEST:
        headings, *rows = (list(line) for line in zip(headings, *rows, strict=True))
    return _FORMS[form](caption, headings, rows)


def write_comparison(comparison: Mapping[str, Any], form: str = "markdown") -> str:
    """Write a comparison as a table.

    Parameters
    ----------
    comparison : mapping
        Of `compare`.
    form : {"markdown", "latex", "html"}, optional
        In which language.

    Returns
    -------
    str
        A line for each measure: how far the second run is above the first, and above each trivial
        baseline; the p values are of the first of these.

    Raises
    ------
    ValueError
        If there is no such form.
    """
    _check(form)
    first, second = comparison["compared"]
    baselines = comparison["baselines"]
    headings = ["measure", f"second ({second}) - first ({first})", "p", "verdict"]
    headings += [f"- {name}" for name in baselines]
    units = _units(comparison["measures"], comparison["numbers"])
    rows = []
    for name, each in comparison["measures"].items():
        p = "-" if each["p"] is None else f"{each['p']:.4f}"
        rows.append(
            [name, _points(units[name], each["difference"], said=False), p, each["verdict"]]
        )
        rows[-1] += [_points(units[name], b["measures"][name]["difference"])
                     for b in baselines.values()]  # fmt: skip
    for what, each in comparison["matched"].items():
        row = [f"hallucinated at matched {what}", _points(100, each["difference"], said=False), "",
               each["verdict"]]  # fmt: skip
        row += [_points(100, b["matched"][what]["difference"]) if b["matched"] else "-"
                for b in baselines.values()]  # fmt: skip
        rows.append(row)
    caption = "Differences with 95% intervals, by pictures; shares in percentage points"
    if comparison["missing"]:
        caption += f"; no run holds the baselines {', '.join(comparison['missing'])}"
    return _FORMS[form](caption, headings, rows)


def _check(form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")


def _units(measures: Sequence[str] | Mapping[str, Any], numbers: Collection[str]) -> dict[str, int]:
    return {each: 1 if each in numbers else 100 for each in measures}


def _level(unit: int, values: _Found) -> str:
    value, low, high = values
    if value is None:
        return "-"
    digits = 2 if unit == 1 else 1
    if low is None or high is None:
        return f"{unit * value:.{digits}f}"
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*(unit * n for n in (value, low, high)), d=digits)


def _points(unit: int, values: _Found, *, said: bool = True) -> str:
    """Write a difference, and ``said`` if it shows nothing."""
    value, low, high = values
    if value is None or low is None or high is None:
        return "-" if value is None else f"{unit * value:+.1f}"
    text = f"{unit * value:+.1f} [{unit * low:+.1f}, {unit * high:+.1f}]"
    return f"{text} ({NO_DIFFERENCE})" if said and verdict(values) == NO_DIFFERENCE else text


def _markdown(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join([f"**{caption}**", "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def _latex(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(_escaped(cell) for cell in cells) + r" \\"

    body = [line(headings), r"\hline", *map(line, rows)]
    columns = "l" + "r" * (len(headings) - 1)
    return "\n".join(
        [f"% {caption}", rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}", ""]
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
