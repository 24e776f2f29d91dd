"""Does a model make more up than it did? A small data set, answered and held against a file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reattend.evaluation.datasets.dataset import Dataset
from reattend.evaluation.regression.baseline import Regression
from reattend.evaluation.report.comparison import compare
from reattend.evaluation.report.scores import UNSURE, score
from reattend.evaluation.runner.answerers import Answerer
from reattend.evaluation.runner.evaluate import evaluate
from reattend.evaluation.runner.second_branch import Change
from reattend.json_text import from_json

# Measures that are worse when they are higher, and those that are neither good nor bad.
WORSE_WHEN_HIGHER = frozenset(
    {"chair_i", "chair_s", "chair", "hal", "cog", "hallucination", "usual", "usual_over_chance",
     "unparsed", "unclear"}
)  # fmt: skip
NOT_JUDGED = frozenset(
    {"yes", "mentions", "words", "nouns", "unfinished", "usual_by_chance"}
)  # fmt: skip


class HallucinationRegression(Regression):
    """Holds a model's answers against those of a stored run, picture by picture.

    Parameters
    ----------
    path, update, how_to_update
        As for `Regression`; the file is JSON, of `score`.

    Examples
    --------
    >>> from reattend.evaluation.metrics.pope import POPE_MEASURES, count_yes_no, read_yes_no
    >>> from reattend.evaluation.datasets import Case
    >>> from reattend.evaluation.runner.answerers import FunctionAnswerer
    >>> cases = [Case(f"{n}", "Is there a cat?", None, f"{n}", truth=True) for n in range(20)]
    >>> data = Dataset("cats", cases, lambda c, a: count_yes_no(c.truth, read_yes_no(a.text)),
    ...                POPE_MEASURES)
    >>> good, bad = (FunctionAnswerer(lambda c, m, t=text: [t] * len(c), text) for text in
    ...              ("Yes", "No"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     HallucinationRegression(Path(folder, "cats.json"), update=True)(good, data)
    ...     hold = HallucinationRegression(Path(folder, "cats.json"))
    ...     hold(good, data)
    ...     hold(bad, data)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    AssertionError: ...plain: accuracy became worse: -1.000 [-1.000, -1.000]...
    """

    def __call__(
        self,
        answerer: Answerer,
        data: Dataset,
        settings: Mapping[str, Sequence[Change]] | None = None,
        *,
        allowed: float = 0.0,
        worse: Mapping[str, int] | None = None,
        batch: int = 8,
    ) -> None:
        """Answer, and fail where it became worse than the baseline; or write it.

        Parameters
        ----------
        answerer : Answerer
            The model.
        data : Dataset
            What is asked: the same as in the baseline.
        settings : mapping of str to sequence of Method, optional
            What is at work in each; plain attention alone by default.
        allowed : float, optional
            How much worse a measure may be. It fails where its whole interval is beyond.
        worse : mapping of str to int, optional
            Of measures that are not this package's: 1 if higher is worse, -1 if lower is, 0 if
            neither.
        batch : int, optional
            Cases side by side.

        Raises
        ------
        AssertionError
            Naming every measure that became worse, with its interval; or if there is no baseline,
            or it is of other data, rules or settings.
        ValueError
            If the baseline cannot be read, or the data is of a single picture.
        """
        if len({case.group for case in data.cases}) < 2:  # it has no interval: nothing could fail
            raise ValueError("data must have at least two pictures to be held against, got one")
        if not self.update:
            self._demand()
        with tempfile.TemporaryDirectory() as folder:
            found = score(
                evaluate(data, answerer, settings or {"plain": []}, Path(folder, "run.jsonl"),
                         batch=batch)
            )  # fmt: skip
        text = json.dumps(found, indent=1) + "\n"
        if self.update:
            self._write(lambda path: _write_text(path, text))
            return
        stored = self._read()
        directions = {**dict.fromkeys(WORSE_WHEN_HIGHER, 1), **dict.fromkeys(NOT_JUDGED, 0),
                      **(worse or {})}  # fmt: skip
        failures = []
        for name in found["counts"]:
            if name == UNSURE:
                continue
            try:
                compared = compare(stored, from_json(text), name, permutations=0)
            except ValueError as error:
                raise AssertionError(
                    f"the baseline {self.path} is of something else: {error}; "
                    f"{self.how_to_update} to write it anew"
                ) from None
            for measure, each in compared["measures"].items():
                sign = directions.get(measure, -1)
                if None not in each["difference"] and _beyond(each["difference"], sign, allowed):
                    value, low, high = each["difference"]
                    failures.append(
                        f"{name}: {measure} became worse: {value:+.3f} [{low:+.3f}, {high:+.3f}]"
                    )
        if failures:
            raise AssertionError(
                "\n".join([f"against {self.path}:", *failures,
                           f"if that is meant, {self.how_to_update} to write the baseline anew"])
            )  # fmt: skip

    def _read(self) -> Any:
        try:
            return from_json(self.path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.path} cannot be read as a baseline: {error}") from error


def _beyond(values: Sequence[float], sign: int, allowed: float) -> bool:
    _, low, high = values
    return (sign > 0 and low > allowed) or (sign < 0 and high < -allowed)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
