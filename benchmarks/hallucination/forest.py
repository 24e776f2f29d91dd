"""The picture of an evaluation: how far each setting is from plain attention, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reattend.evaluation.datasets.emoji_world import DIFFICULTIES
from reattend.optional import demand
from reattend.plot import write_figure

from hallucination.journals import LABELS, PLAIN

_PANELS = {  # title: where summarise keeps it
    "made-up words (CHAIR_i)": ("difference", "description", "chair_i"),
    "the same, at matched recall": ("matched_recall",),
    "things found (recall)": ("difference", "description", "recall"),
    "right answers (POPE adversarial)": ("difference", "adversarial", "accuracy"),
}
_COLOURS = dict(zip(DIFFICULTIES, ("#0077b6", "#d97706", "#c1121f"), strict=True))
_APART = 0.22  # between the difficulties of a setting; settings are 1 apart


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
    height = 1.5 + 0.52 * len(names)
    figure = demand("matplotlib.figure").Figure(figsize=(13, height), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for at, (title, keys) in zip(panels, _PANELS.items(), strict=True):
        at.axvline(0, color="0.6", linewidth=1)
        for order, group in enumerate(shown):
            _draw_group(at, summary[group], names, keys, order - (len(shown) - 1) / 2, group)
        at.set_title(title, fontsize=10.5)
        at.set_xlabel("percentage points from plain", fontsize=9)
        at.grid(axis="x", color="0.9")
        at.set_axisbelow(True)
        at.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            at.spines[side].set_visible(False)
    panels[0].set_yticks(range(len(names)), [LABELS[name] for name in names])
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(shown), frameon=False)
    return figure


def _draw_group(
    at: Any, found: Mapping[str, Any], names: list[str], keys: tuple[str, ...], order: float,
    group: str,
) -> None:  # fmt: skip
    rows, values, spans = [], [], []
    for row, name in enumerate(names):
        estimate: Any = found["settings"].get(name, {})
        for key in keys:
            estimate = estimate.get(key, {})
        if estimate and None not in estimate:
            value, low, high = (100 * number for number in estimate)
            rows.append(row + order * _APART)
            values.append(value)
            spans.append((value - low, high - value))
    if rows:
        asked = f", {found['asked']} asked about" if found["asked"] else ""
        at.errorbar(
            values, rows, xerr=list(zip(*spans, strict=True)), fmt="o", markersize=4.5,
            elinewidth=1.6, color=_COLOURS.get(group, "0.2"),
            label=f"{group} ({found['scenes']} descriptions{asked})",
        )  # fmt: skip
