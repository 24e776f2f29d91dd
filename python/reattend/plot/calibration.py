"""What calibration found: the gain of each head, and strengths against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reattend.plot.maps import change, mark
from reattend.plot.style import COLOURS, MARKERS, axes, checked


def head_search(found: Any, *, title: str = "", ax: Any = None) -> Any:
    """Draw the gain of each head that a search tried, with those it chose marked.

    Parameters
    ----------
    found : HeadSearch
        Of `reattend.evaluation.calibration.search_heads`.
    title : str, optional
        Above; what all chosen heads gain together, where they were searched and held out, follows.
    ax : matplotlib.axes.Axes, optional
        Where to draw; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes
        Layers that were not searched are left empty.

    Raises
    ------
    ValueError
        If nothing was tried.

    Examples
    --------
    >>> from reattend.evaluation.calibration import HeadSearch
    >>> from reattend.evaluation.metrics.counts import Estimate
    >>> found = HeadSearch({2: (1,)}, ((2, 0), (2, 1)), np.array([-0.1, 0.2]), np.array([1, 0.01]),
    ...                    -1.0, Estimate(0.2, 0.1, 0.3), Estimate(0.1, 0.05, 0.2))
    >>> print(head_search(found, title="ACT").get_title())
    ACT
    1 of 2 heads; searched +0.200 [+0.100, +0.300]
    held out +0.100 [+0.050, +0.200]: confirmed
    """
    if not len(found.candidates):
        raise ValueError("found must hold at least one candidate, got none")
    layers, heads = np.array(found.candidates).T
    gains = np.full((layers.max() + 1, heads.max() + 1), np.nan)
    gains[layers, heads] = checked("found.gains", found.gains, "[C]")
    chosen = np.zeros(gains.shape, bool)
    for layer, some in found.heads.items():
        chosen[layer, list(some)] = True
    ax = change(np.zeros_like(gains), gains, label="gain of the head alone", ax=axes(ax, 5, 4))
    mark(ax, chosen)
    lines = [title] if title else []
    lines.append(f"{chosen.sum()} of {len(layers)} heads; searched {_interval(found.gain)}")
    if found.confirmed is not None:
        lines.append(f"held out {_interval(found.confirmed)}: {found.verdict}")
    ax.set_title("\n".join(lines), fontsize=9)
    return ax


def strengths(
    found: Any, parameter: str | None = None, *, title: str = "", ax: Any = None
) -> Any:  # fmt: skip
    """Draw what each strength that was tuned hallucinates and finds, with 95% intervals.

    Parameters
    ----------
    found : Tuning
        Of `reattend.evaluation.calibration.tune`.
    parameter : str, optional
        Which parameter goes along; by default the only one that varies.
    title : str, optional
        Above; the verdict follows.
    ax : matplotlib.axes.Axes, optional
        Where to draw; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes
        Dashed lines are the plain model's; a filled marker is the strength that was chosen.

    Raises
    ------
    ValueError
        If several parameters vary and none is named, or there is none of this name.

    Examples
    --------
    >>> from reattend.evaluation.calibration import Trial, Tuning
    >>> from reattend.evaluation.metrics.counts import Estimate
    >>> few, many = Estimate(0.2, 0.1, 0.3), Estimate(0.8, 0.7, 0.9)
    >>> plain = Trial({}, 40, few, many, Estimate(0, 0, 0), True)
    >>> tried = [plain._replace(parameters={"alpha": strength}) for strength in (1.1, 1.5, 2.0)]
    >>> ax = strengths(Tuning({"alpha": 1.5}, tuple(tried), plain, "no difference shown"))
    >>> ax.get_xlabel(), ax.get_title()
    ('alpha', 'no difference shown')
    """
    name = _varied(found.trials, parameter)
    trials = sorted(found.trials, key=lambda trial: trial.parameters[name])
    places = np.array([trial.parameters[name] for trial in trials], float)
    ax = axes(ax, 5.2, 3.4)
    readings = (("recall", "recall"), ("hallucinated", "hallucinated objects"))
    for index, (field, label) in enumerate(readings):
        values = np.array([getattr(trial, field) for trial in trials])  # [S, 3]
        colour, marker = COLOURS[index + 1], MARKERS[index]
        ax.errorbar(
            places, values[:, 0], yerr=np.abs(values[:, 1:] - values[:, :1]).T, color=colour,
            marker=marker, mfc="white", capsize=2, linewidth=1.2, label=label,
        )  # fmt: skip
        ax.axhline(getattr(found.plain, field).value, color=colour, ls="--", lw=1, zorder=0)
        if found.best is not None:
            at = [trial.parameters == found.best for trial in trials]
            ax.plot(places[at], values[at, 0], marker, color=colour, markersize=9, zorder=4)
    ax.plot([], [], color="0.4", ls="--", lw=1, label="plain attention")
    ax.set(xlabel=name, ylabel="share", ylim=(0, None))
    ax.set_title("\n".join([*([title] if title else []), found.verdict]))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax


def _interval(estimate: Any) -> str:
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _varied(trials: Sequence[Any], parameter: str | None) -> str:
    """Give the parameter to draw along."""
    names: list[str] = [*trials[0].parameters]
    if parameter is not None:
        if parameter not in names:
            raise ValueError(f"parameter must be one of {', '.join(names)}, got {parameter!r}")
        return parameter
    varied = [
        name for name in names if len({repr(trial.parameters[name]) for trial in trials}) > 1
    ] or names[:1]
    if len(varied) != 1:
        raise ValueError(f"parameter must say which of {', '.join(varied)} is drawn along")
    return varied[0]
