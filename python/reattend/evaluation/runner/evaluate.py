"""Evaluating settings on a data set: every answer goes into a journal, and what is there stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from reattend import __version__
from reattend.evaluation.datasets.dataset import Answer, Case, Dataset
from reattend.evaluation.runner.answerers import Answerer, answers_of
from reattend.evaluation.runner.journal import Journal, written_out
from reattend.evaluation.runner.progress import Progress, silent
from reattend.evaluation.runner.running import running_estimate
from reattend.evaluation.runner.second_branch import Change


class Evaluation(NamedTuple):
    """What settings answered, each to every case of a data set."""

    dataset: Dataset
    answers: dict[str, list[Answer]]
    run: dict[str, Any]  # what decided the answers
    methods: dict[str, list[str]]  # of each setting


class AnswererOf:
    """An answerer that each process reads once for itself: what is sent to it is only how.

    Parameters
    ----------
    read : callable
        Gives the answerer; a function that pickle knows by name, or a partial of one.
    identity : mapping, optional
        What the answerer's ``identity`` will give; without it this process reads it as well.
    """

    def __init__(
        self, read: Callable[[], Answerer], identity: Mapping[str, Any] | None = None
    ) -> None:
        self._read, self._identity = read, identity

    def identity(self) -> dict[str, Any]:
        """Give that of what is read."""
        if self._identity is not None:
            return dict(self._identity)
        return _read_once(self._read).identity()

    def __call__(self, cases: Sequence[Case], methods: Sequence[Change]) -> list[Answer]:
        """Answer cases in this process."""
        return _read_once(self._read)(cases, methods)

    def __reduce__(self) -> tuple[Any, ...]:
        return AnswererOf, (self._read, self._identity)


def evaluate(
    dataset: Dataset,
    answerer: Answerer,
    settings: Mapping[str, Sequence[Change]],
    journal: str | Path,
    *,
    batch: int = 8,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Let every setting answer every case.

    Parameters
    ----------
    dataset : Dataset
        What is asked.
    answerer : Answerer
        What answers.
    settings : mapping of str to sequence of Method, and of decoding settings
        What is at work in each; ``{"plain": []}`` for none. At most one of a sequence mixes logits:
        `reattend.decoding.VCD`, `ICD`, `M3ID` or `Guidance`, whose second branch is made here.
    journal : path
        Where answers are kept. A run that was stopped goes on from there; that of another model,
        data set, batch or version is refused.
    batch : int, optional
        Cases side by side.
    executor : concurrent.futures.Executor, optional
        Where batches are answered: `processes` of this machine, the workers of a `dask` cluster,
        or any other. The answerer goes there, so it must be one that pickle takes, such as
        `AnswererOf`.
    progress : callable, optional
        Called with how many of how many batches are done, and a function that says what was found
        so far; see `ProgressBar`.

    Returns
    -------
    Evaluation

    Raises
    ------
    JournalError
        If the journal is of another run.
    ValueError
        If there are no settings, ``batch`` is below 1, or the answerer gives another number of
        answers than of cases.

    Examples
    --------
    >>> import tempfile
    >>> from reattend.evaluation.metrics.pope import POPE_MEASURES, count_yes_no
    >>> from reattend.evaluation.runner.answerers import FunctionAnswerer
    >>> case = Case("1", "Is there a cat?", None, "a.jpg", truth=True)
    >>> data = Dataset("cats", [case], lambda c, a: count_yes_no(c.truth, True), POPE_MEASURES)
    >>> always = FunctionAnswerer(lambda cases, methods: ["Yes"] * len(cases), "always yes")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     evaluate(data, always, {"plain": []}, Path(folder, "run.jsonl")).answers
    {'plain': [Answer(text='Yes', margin=None, tokens=())]}
    """
    if not settings:
        raise ValueError("settings must hold at least one, got none")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    run = {
        "reattend": __version__,
        "data": dataset.identity(),
        "model": answerer.identity(),
        "batch": batch,
    }
    book = Journal(Path(journal), run)
    named = {name: [written_out(each) for each in methods] for name, methods in settings.items()}
    starts = range(0, len(dataset.cases), batch)
    whole = [(name, start) for start in starts for name in settings]
    left = [(name, start) for name, start in whole if [named[name], start] not in book]
    done = len(whole) - len(left)

    def work(name: str, start: int) -> tuple[Answerer, Sequence[Case], Sequence[Change]]:
        return answerer, dataset.cases[start : start + batch], settings[name]

    def read(name: str) -> list[tuple[Case, Answer]]:
        """Give the cases that a setting has answered, with the answers."""
        return [
            (case, Answer.from_json(values))
            for start in starts
            if [named[name], start] in book
            for case, values in zip(
                dataset.cases[start : start + batch], book.get([named[name], start]), strict=True
            )
        ]

    def so_far() -> str:
        return running_estimate(dataset, {name: read(name) for name in settings})

    for (name, start), answers in _answered(left, work, executor):
        key = [named[name], start]
        if key not in book:  # two settings may be the same methods
            book.add(key, [answer.to_json() for answer in answers])
        done += 1
        progress(done, len(whole), so_far)
    found = {name: [answer for _, answer in read(name)] for name in settings}
    return Evaluation(dataset, found, run, named)


def _answered(
    left: Sequence[tuple[str, int]], work: Callable[..., Any], executor: Executor | None
) -> Iterator[tuple[tuple[str, int], list[Answer]]]:
    if executor is None:
        for piece in left:
            yield piece, answers_of(*work(*piece))
        return
    futures = {executor.submit(answers_of, *work(*piece)): piece for piece in left}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:  # also if it was interrupted
        for future in futures:
            future.cancel()


@cache
def _read_once(read: Callable[[], Answerer]) -> Answerer:
    return read()
