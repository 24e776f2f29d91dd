"""The picture of an evaluation: how far each setting is from plain attention, with intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reattend.evaluation.datasets.emoji_world import DIFFICULTIES
from reattend.optional import demand
from reattend.plot import differences, write_figure

from hallucination.journals import LABELS, PLAIN

_PANELS = {  # title: where summarise keeps it
    "hallucinated objects (CHAIR_i)": ("difference", "description", "chair_i"),
    "CHAIR_i at matched recall": ("matched_recall",),
    "objects named (recall)": ("difference", "description", "recall"),
    "right answers (POPE adversarial)": ("difference", "adversarial", "accuracy"),
}
_WIDTH = 8  # inches: on a page of 6.5 the smallest letters have 8 points
_LETTERS = 20  # of a line of a setting's name


def draw_differences(path: Path, summary: Mapping[str, Any]) -> None:
    """Draw differences from plain attention by setting and difficulty.

    Parameters
    ----------
    path : path
        Where to write, as .png, .pdf or .svg.
    summary : mapping
        Of `summarise`.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    """
    write_figure(path, lambda: _figure(summary))


def _figure(summary: Mapping[str, Any]) -> Any:
    names = [name for name in summary["all"]["settings"] if name != PLAIN]
    shown = [name for name in DIFFICULTIES if name in summary] or ["all"]
    height = 1.9 + 0.84 * len(names)
    figure = demand("matplotlib.figure").Figure(figsize=(_WIDTH, height), layout="constrained")
    panels = figure.subplots(2, len(_PANELS) // 2, sharey=True).ravel()
    written = [textwrap.fill(LABELS[name], _LETTERS) for name in names]
    for at, (title, keys) in zip(panels, _PANELS.items(), strict=True):
        groups = {_label(name, summary[name]): _read(summary[name], names, keys) for name in shown}
        differences(groups, written, ax=at, xlabel="percentage points from plain")
        at.set_title(title, fontsize=10.5)
        if legend := at.get_legend():
            legend.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(shown), frameon=False)
    return figure


def _label(group: str, found: Mapping[str, Any]) -> str:
    asked = f",\n{found['asked']} asked about" if found["asked"] else ""
    return f"{group}: {found['scenes']} descriptions{asked}"


def _read(found: Mapping[str, Any], names: list[str], keys: tuple[str, ...]) -> list[list[float]]:
    """Give each setting's difference and interval in percentage points, NaN where there is none."""
    rows = []
    for name in names:
        estimate: Any = found["settings"].get(name, {})
        for key in keys:
            estimate = estimate.get(key, {})
        known = estimate and None not in estimate
        rows.append([100 * number for number in estimate] if known else [float("nan")] * 3)
    return rows
