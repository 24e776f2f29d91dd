"""The measures of a data set: ratios of sums over pictures, and what adds them up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from reattend.policy import Array


class Combined(NamedTuple):
    """A measure that adds others up."""

    weights: Mapping[str, float]  # of the measures
    constant: float = 0.0


class Measures(NamedTuple):
    """Measures by name."""

    ratios: Mapping[str, Sequence[str]]  # the two counts whose sums are divided
    combined: Mapping[str, Combined]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Measures:
        """Read what `to_json` wrote."""
        combined = {name: Combined(*each) for name, each in values["combined"].items()}
        return cls(values["ratios"], combined)

    def to_json(self) -> dict[str, Any]:
        """Write them as JSON can hold them."""
        ratios = {name: list(pair) for name, pair in self.ratios.items()}
        combined = {name: [dict(w), constant] for name, (w, constant) in self.combined.items()}
        return {"ratios": ratios, "combined": combined}

    @property
    def names(self) -> list[str]:
        """Ratios, then what adds them up."""
        return [*self.ratios, *self.combined]

    def counts(self, name: str) -> list[str]:
        """Give the counts that a measure needs."""
        if name in self.ratios:
            return [*self.ratios[name]]
        return [count for each in self.combined[name].weights for count in self.counts(each)]

    def of(self, name: str, sums: Mapping[str, Array]) -> Array:
        """Measure sums of any shape; NaN where a ratio's whole is 0.

        Examples
        --------
        >>> half = Combined({"accuracy": 0.5}, 0.5)
        >>> Measures({"accuracy": ("right", "asked")}, {"score": half}).of(
        ...     "score", {"right": np.array([1.0]), "asked": np.array([4.0])}
        ... )
        array([0.625])
        """
        if name in self.combined:
            weights, constant = self.combined[name]
            parts = [weight * self.of(each, sums) for each, weight in weights.items()]
            return np.asarray(np.sum(parts, axis=0) + constant)
        part, whole = (np.asarray(sums[count], np.float64) for count in self.ratios[name])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(whole > 0, part / whole, np.nan)
