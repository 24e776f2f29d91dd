"""Processes that answer cases side by side, each with a model and a share of the CPUs of its own.

Matrices of a small model keep few cores busy, and what lies between two of them keeps one. So two
processes on two cores get through a sixth more than one process on both.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, NamedTuple

from reattend.border.config import num_threads
from reattend.evaluation.datasets.emoji_world.cases import (
    Cases,
    answer_cases,
    encode_cases,
    to_json,
)
from reattend.method import Method
from reattend.models import VisionLanguage
from reattend.policy import Array
from reattend.terminal import CommandError

Piece = tuple[str, range]  # a setting, and the numbers of the cases that it is to answer
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read by libraries


class Workers(NamedTuple):
    """How many processes answer, and where each has its model from."""

    processes: int
    read: Callable[[], VisionLanguage]


class Answerer:
    """A model that answers cases of a run by setting and number.

    Parameters
    ----------
    model : VisionLanguage
        What answers.
    settings : mapping of str to sequence of Method
        What is at work in each.
    cases : Cases
        What is drawn from.
    """

    def __init__(
        self, model: VisionLanguage, settings: Mapping[str, Sequence[Method]], cases: Cases
    ) -> None:
        self._model, self._settings, self._cases = model, settings, cases
        self._numbers: range | None = None

    def __call__(self, piece: Piece) -> dict[str, Any]:
        """Answer a piece; its pictures are drawn and encoded once for settings in a row.

        Parameters
        ----------
        piece : tuple of str and range
            A setting, and the numbers of cases of one cell.

        Returns
        -------
        dict
            ``records`` and ``seconds``, as JSON can hold them.
        """
        name, numbers = piece
        if numbers != self._numbers:
            self._drawn = [self._cases.draw(number) for number in numbers]
            self._pictures: Array = encode_cases(self._model, self._drawn)
            self._numbers = numbers
        methods = self._settings[name]
        records, seconds = answer_cases(self._model, methods, self._drawn, self._pictures)
        return {"records": [to_json(record) for record in records], "seconds": seconds}


def answer_side_by_side(
    workers: Workers,
    settings: Mapping[str, Sequence[Method]],
    cases: Cases,
    pieces: Iterable[Piece],
) -> Iterator[tuple[Piece, dict[str, Any]]]:
    """Answer pieces by several processes, and give each when it is done.

    Parameters
    ----------
    workers : Workers
        How many.
    settings, cases
        As for `Answerer`.
    pieces : iterable of tuple of str and range
        As for `Answerer`.

    Yields
    ------
    tuple
        A piece, and what was answered.

    Raises
    ------
    CommandError
        If a process was ended from outside.
    """
    others = multiprocessing.active_children()
    with _few_threads(workers.processes):
        executor = ProcessPoolExecutor(
            workers.processes, mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin, initargs=(workers, settings, cases),
        )  # fmt: skip
        futures = {executor.submit(_answer, piece): piece for piece in pieces}  # starts processes
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise CommandError(
            "a worker process has ended before it had answered: each needs about 2 GB of memory, "
            f"and --workers is {workers.processes}"
        ) from error
    finally:  # also if what it was answered for is interrupted
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()


@contextmanager
def _few_threads(count: int) -> Iterator[None]:
    """Let processes that are started share the CPUs out: libraries read this when imported."""
    before = {name: os.environ.get(name) for name in _THREADS}
    each = max(1, num_threads() // count)
    os.environ.update(dict.fromkeys(_THREADS, str(each)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_answerer: Answerer  # of this process, if it is a worker


def _begin(workers: Workers, settings: Mapping[str, Sequence[Method]], cases: Cases) -> None:
    global _answerer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    _answerer = Answerer(workers.read(), settings, cases)


def _answer(piece: Piece) -> dict[str, Any]:
    return _answerer(piece)
