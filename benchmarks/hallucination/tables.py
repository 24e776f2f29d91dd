"""Writes what `summarise` found as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hallucination.journals import LABELS, PLAIN
from hallucination.summary import AGAINST, MATCHED

_Found = Sequence[float | None]
_HEADINGS = (
    "setting", "CHAIR_i", "CHAIR_s", "recall", "words", "POPE F1", "yes", "time",
)  # fmt: skip
_DIFFERENCES = (
    "setting", "CHAIR_i", "at matched recall", "at matched length", "CHAIR_s", "recall",
    "POPE F1", "POPE accuracy",
)  # fmt: skip
_IN_GROUPS = {
    "chair_i": "Hallucinated objects (CHAIR_i)",
    "recall": "Things found (recall)",
}


def write_tables(summary: Mapping[str, Any], group: str) -> str:
    """Write a group as two tables: the measures, and how far each setting is from plain.

    Parameters
    ----------
    summary : mapping
        Of `summarise`.
    group : str
        One of its groups.

    Returns
    -------
    str
        Markdown. POPE is the adversarial one. A difference is in bold where its interval leaves
        out 0.
    """
    found = summary[group]
    asked = f", {found['asked']} of them asked about" if found["asked"] else ""
    lines = [f"**{group}**: {found['scenes']} scenes{asked}", ""]
    lines += _table(_HEADINGS, (_levels(*each) for each in found["settings"].items()))
    lines += ["", "Against plain, in percentage points:", ""]
    others = {name: entry for name, entry in found["settings"].items() if name != PLAIN}
    lines += _table(_DIFFERENCES, (_against_plain(*each) for each in others.items()))
    pairs = {name: entry for name, entry in others.items() if "against" in entry}
    if pairs:
        lines += ["", "Variants against one another, in percentage points:", ""]
        headings = ("", "CHAIR_i", "CHAIR_s", "recall", "POPE F1")
        lines += _table(headings, (_variants(*each) for each in pairs.items()))
    return "\n".join(lines) + "\n"


def write_groups(groups: Mapping[str, Any], what: str) -> str:
    """Write how far each setting is from plain, a line for each group, in two tables.

    Parameters
    ----------
    groups : mapping
        Groups of `summarise`, by name.
    what : str
        What they are.

    Returns
    -------
    str
        Markdown: CHAIR_i, then recall; of the settings that all groups have.
    """
    settings = [found["settings"] for found in groups.values()]
    names = [n for n in LABELS if n != PLAIN and all(n in some for some in settings)]
    lines = []
    for measure, title in _IN_GROUPS.items():
        rows = []
        for group, found in groups.items():
            plain = found["settings"][PLAIN]["description"]
            others = (found["settings"][name]["difference"]["description"] for name in names)
            points = [_points(each[measure]) for each in others]
            rows.append([group, str(found["scenes"]), _percent(plain[measure]), *points])
        lines += [f"**{title}** by {what}, and how far from plain in percentage points:", ""]
        lines += [*_table(("", "scenes", "plain", *(LABELS[n] for n in names)), rows), ""]
    return "\n".join(lines)


def _levels(name: str, entry: Mapping[str, Any]) -> list[str]:
    description, asked = entry["description"], entry.get("adversarial", {})
    percents = [_percent(description[each]) for each in ("chair_i", "chair_s", "recall")]
    questions = [_percent(asked[each]) if asked else "" for each in ("f1", "yes")]
    nouns = description["nouns"][0]
    time = f"{entry['time']:.2f}" if "time" in entry else "as plain"
    return [LABELS[name], *percents, f"{nouns:.2f}", *questions, time]


def _against_plain(name: str, entry: Mapping[str, Any]) -> list[str]:
    description = entry["difference"]["description"]
    asked = entry["difference"].get("adversarial", {})
    return [
        LABELS[name],
        _points(description["chair_i"]),
        *(_points(entry[each]) for each in MATCHED),
        *(_points(description[each]) for each in ("chair_s", "recall")),
        *(_points(asked[each]) if asked else "" for each in ("f1", "accuracy")),
    ]


def _variants(name: str, entry: Mapping[str, Any]) -> list[str]:
    description = entry["against"]["description"]
    asked = entry["against"].get("adversarial", {})
    return [
        f"{LABELS[name]} - {LABELS[AGAINST[name]]}",
        *(_points(description[each]) for each in ("chair_i", "chair_s", "recall")),
        _points(asked["f1"]) if asked else "",
    ]


def _table(headings: Sequence[str], rows: Any) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _percent(found: _Found) -> str:
    """Write an estimate.

    >>> _percent([0.123, 0.1, 0.15])
    '12.3 [10.0, 15.0]'
    """
    value, low, high = found
    if value is None or low is None or high is None:
        return ""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _points(found: _Found) -> str:
    """Write a difference, in bold where its interval leaves out 0.

    >>> _points([-0.02, -0.03, -0.01]), _points([0.001, -0.01, 0.01])
    ('**-2.0** [-3.0, -1.0]', '+0.1 [-1.0, +1.0]')
    """
    value, low, high = found
    if value is None or low is None or high is None:
        return ""
    text = f"{100 * value:+.1f}"
    if low > 0 or high < 0:
        text = f"**{text}**"
    return f"{text} [{100 * low:+.1f}, {100 * high:+.1f}]"
