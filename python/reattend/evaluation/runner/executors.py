"""Where batches are answered: processes of this machine, or a Dask cluster.

Any other `concurrent.futures.Executor` does as well, such as loky's.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from reattend import num_threads
from reattend.optional import demand

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read by libraries


@contextmanager
def processes(count: int) -> Iterator[Executor]:
    """Give processes of this machine, which share its CPUs out.

    They are ended with the block, also in the middle of a batch if the block is left by an error
    or Ctrl-C.

    Parameters
    ----------
    count : int
        How many.

    Yields
    ------
    concurrent.futures.Executor

    Raises
    ------
    ValueError
        If ``count`` is below 1.

    Examples
    --------
    >>> with processes(1) as executor:
    ...     executor.submit(abs, -2).result()
    2
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    others = multiprocessing.active_children()
    executor = ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
    )
    try:
        with _few_threads(count):
            for _ in range(count):  # processes start when there is work for them
                executor.submit(abs, 0)
        yield executor
    finally:
        # What is still to be written to processes that end is read by nobody: a pipe that is full
        # would hold up the executor's threads, and Python's end with them.
        if (queue := getattr(executor, "_call_queue", None)) is not None:
            queue.cancel_join_thread()
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
                process.join()


@contextmanager
def dask(scheduler: str | Path) -> Iterator[Executor]:
    """Give the workers of a Dask cluster. What a worker that dies had to do is done by others.

    Parameters
    ----------
    scheduler : str or path
        Its address, such as ``"tcp://10.0.0.1:8786"``, or the file that it wrote
        (``dask scheduler --scheduler-file``). Of a cluster that is an object in Python, such as
        `dask_jobqueue.SLURMCluster`, take ``Client(cluster).get_executor(pure=False)``.

    Yields
    ------
    concurrent.futures.Executor

    Raises
    ------
    MissingPackageError
        If distributed is not installed.
    OSError
        If nothing answers there.
    """
    distributed = demand("distributed")
    file = Path(scheduler)
    where = {"scheduler_file": str(file)} if file.is_file() else {"address": str(scheduler)}
    with distributed.Client(**where, set_as_default=False) as client:
        yield client.get_executor(pure=False)


@contextmanager
def _few_threads(count: int) -> Iterator[None]:
    """Let processes that are started share the CPUs out: libraries read this when imported."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(max(1, num_threads() // count))))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
