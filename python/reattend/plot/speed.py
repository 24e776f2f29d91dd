"""Speed: time or memory against size, and calls under the roof of what a machine can do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from reattend.optional import demand
from reattend.plot.line_ends import name_ends
from reattend.plot.style import COLOURS, MARKERS, axes

Look = tuple[str, str]  # colour, marker
_MANY = 16  # FLOP per byte: a decode has fewer, a prefill more


def scaling(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, xlabel: str = "keys",
    ylabel: str = "ms", alone: Collection[float] = (), looks: Mapping[str, Look] | None = None,
    title: str = "", ax: Any = None,
) -> Any:  # fmt: skip
    """Draw times, or memory, against a size, both logarithmic, with a name at each line's end.

    Parameters
    ----------
    curves : mapping from str to sequence of (x, y)
        Of each candidate; y is above 0.
    xlabel, ylabel : str, optional
        What is measured against what.
    alone : collection of float, optional
        Sizes whose points are another task, such as a sliding window: hollow, not joined.
    looks : mapping from str to (colour, marker), optional
        Of each candidate; by default colours that stay apart in grey.
    title : str, optional
        Above.
    ax : matplotlib.axes.Axes, optional
        Where to draw; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If a number is not above 0: it has no logarithm.

    Examples
    --------
    >>> scaling({"reattend": [(64, 0.01), (4096, 0.2)]}).get_xscale()
    'log'
    """
    ticker = demand("matplotlib.ticker")
    for name, series in curves.items():
        if not all(x > 0 and y > 0 for x, y in series):
            raise ValueError(f"curves must hold numbers above 0, got {name!r}: {list(series)}")
    ax = axes(ax, 5.5, 4)
    ends, lengths = [], {x for series in curves.values() for x, _ in series}
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.set_title(title)
    for index, (name, series) in enumerate(curves.items()):
        line = [(x, y) for x, y in series if x not in alone]
        colour, marker = (looks or {}).get(name) or _look(index)
        for x, y in series:
            if x in alone:
                ax.plot(x, y, color=colour, marker=marker, ms=5.5, mfc="white", ls="")
        if line:
            ax.plot(*zip(*line, strict=True), color=colour, marker=marker, ms=4.5, lw=1.6)
            ends.append((*line[-1], name, colour))
    if not ends:
        return ax
    ticks = sorted(lengths)
    ticks = ticks if len(ticks) < 7 else ticks[::-3]
    ax.xaxis.set_major_locator(ticker.FixedLocator(ticks))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    (low, high), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    ax.set_xlim(low, high * (high / low) ** 0.5)  # room for the names
    ax.set_ylim(bottom / 1.5, top * 2)
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if top < 50 * bottom else (1,)))
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:,.10g}")
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())
    # Who stops early is the slowest, or takes most: there is room to the left of it.
    last, step = max(x for x, *_ in ends), (high / low) ** 0.06
    early = [end for end in ends if 4 * end[0] <= last]
    name_ends(ax, [end for end in ends if end not in early], max(lengths) * step)
    name_ends(ax, early, min((x for x, *_ in early), default=1) / step, "right")
    return ax


def roofline(
    points: Sequence[tuple[float, float, str, str]], *, bandwidth: float | None = None,
    peaks: Mapping[str, float] | None = None, looks: Mapping[str, Look] | None = None,
    title: str = "", ax: Any = None,
) -> Any:  # fmt: skip
    """Draw calls by what they compute for each byte, under what memory and products allow.

    Parameters
    ----------
    points : sequence of (FLOP per byte, GFLOP/s, name, dtype)
        Calls as they were measured.
    bandwidth : float, optional
        Of reading memory, in GB/s: the slope of the roof.
    peaks : mapping from dtype to float, optional
        Rates of products, in GFLOP/s: its top.
    looks : mapping from dtype to (colour, marker), optional
        By default colours that stay apart in grey.
    title : str, optional
        Above.
    ax : matplotlib.axes.Axes, optional
        Where to draw; new ones by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If there is no point, or a number is not above 0.

    Examples
    --------
    >>> ax = roofline([(0.5, 11, "decode", "float32"), (200, 140, "prefill", "float32")],
    ...               bandwidth=20, peaks={"float32": 160})
    >>> ax.get_ylabel()
    'GFLOP/s'
    """
    ticker = demand("matplotlib.ticker")
    if not points or not all(x > 0 and y > 0 for x, y, *_ in points):
        raise ValueError(f"points must be calls with numbers above 0, got {list(points)}")
    ax = axes(ax, 11, 6)
    left, right = min(x for x, *_ in points) * 0.6, max(x for x, *_ in points) * 16
    ax.set(xscale="log", yscale="log", xlim=(left, right))
    top = max(y for _, y, *_ in points)
    ax.set_ylim(min(y for _, y, *_ in points) / 2, top * 2.2)
    named, dtypes = [], list(dict.fromkeys(dtype for *_, dtype in points))
    for index, dtype in enumerate(dtypes):
        colour, marker = (looks or {}).get(dtype) or _look(index)
        for x, y, name, _ in (point for point in points if point[3] == dtype):
            ax.plot(x, y, marker, color=colour, ms=7)
            named.append((x, y, name, colour))
        ax.plot([], [], marker, color=colour, label=dtype)
        if peak := (peaks or {}).get(dtype):
            ax.axhline(peak, color=colour, lw=1.2, ls="--")
            ax.text(left * 1.07, peak * 1.05, f"matrix products, {dtype}: {peak:.0f} GFLOP/s",
                    color=colour, fontsize=9)  # fmt: skip
    if bandwidth:
        height = ax.get_ylim()[1] / 1.15
        ends = [left, right]
        ax.plot(ends, [x * bandwidth for x in ends], color="#555555", lw=1.2, ls="--")
        text = f"  memory: {bandwidth:.0f} GB/s"
        ax.text(height / bandwidth, height, text, color="#555555", fontsize=9, va="center")
    few = [point for point in named if point[0] < _MANY]  # each group's names stand beside it
    for some in (few, [point for point in named if point[0] >= _MANY]):
        if some:
            name_ends(ax, some, 2 * max(x for x, *_ in some))
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.10g}")
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:,.10g}")
    ax.set(xlabel="FLOP for each byte of query, key, value and output", ylabel="GFLOP/s")
    ax.set_title(title)
    ax.legend(loc="lower right", frameon=False)
    return ax


def _look(index: int) -> Look:
    return COLOURS[(index + 1) % len(COLOURS)], MARKERS[index % len(MARKERS)]
