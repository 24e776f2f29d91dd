"""Draws the idea: one row of attention, its segments, their masses, and what a policy makes."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from reattend import Reweight

SEGMENTS = ("text", "visual sinks", "image")
COLOURS, HATCHES = ("#bdbdbd", "#c2571a", "#2b6ca3"), ("", "//", "..")
LABELS = np.array([0, 0, 2, 1, 2, 2, 1, 2, 2, 0, 0, 0])
WEIGHTS = np.array([0.08, 0.03, 0.05, 0.2, 0.09, 0.06, 0.15, 0.1, 0.05, 0.04, 0.05, 0.1])


def draw(path: Path) -> None:
    """Write the picture."""
    masses = np.bincount(LABELS, WEIGHTS)
    factors = Reweight(weight=(1, 0.6, 1), to=(2,))(masses)
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.9), width_ratios=(5, 2, 5), sharey=False)
    for ax, values, title in (
        (axes[0], WEIGHTS, "one row of attention A"),
        (axes[2], WEIGHTS * factors[LABELS], "A' = factor A, never written down"),
    ):
        for place, (value, label) in enumerate(zip(values, LABELS, strict=True)):
            ax.bar(place, value, color=COLOURS[label], hatch=HATCHES[label], edgecolor="k", lw=0.5)
        ax.set(title=title, xlabel="keys", xticks=[], ylim=(0, 0.22))
    lower = np.zeros(2)
    for label, name in enumerate(SEGMENTS):
        heights = np.array([masses[label], masses[label] * factors[label]])
        axes[1].bar(
            (0, 1), heights, bottom=lower, color=COLOURS[label], hatch=HATCHES[label],
            edgecolor="k", lw=0.5, label=f"{name}: factor {factors[label]:.2f}",
        )  # fmt: skip
        lower += heights
    axes[1].set(title="masses", xticks=(0, 1), xticklabels=("before", "after"), yticks=(0, 1))
    axes[0].set_ylabel("share of the row")
    figure.legend(loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
