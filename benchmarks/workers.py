"""Candidates that are processes of their own, each with the settings that suit it, and take turns.

A candidate runs the script that started it, with --candidate, and answers a line of JSON with
another until there are no more.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def start(script: str, name: str, policy: str | None, path: Path, threads: int) -> Any:
    """Start a candidate's process."""
    options = ["--candidate", name, "--model", str(path), "--threads", str(threads)]
    return start_script([script, *options], policy, threads)


def start_script(command: Sequence[str], policy: str | None, threads: int, **variables: str) -> Any:
    """Start a script, whose first option names it; `variables` join its environment."""
    settings = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    settings |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **variables}
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | settings
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def ask(worker: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request and wait for the reply."""
    worker.stdin.write(json.dumps(request) + "\n")
    worker.stdin.flush()
    reply = worker.stdout.readline()
    if not reply:
        raise SystemExit(f"{worker.args[3]} has ended, with exit status {worker.wait()}")
    found: dict[str, Any] = json.loads(reply)
    return found


def stop(workers: Iterable[Any]) -> None:
    """Let candidates end: there is nothing more to read."""
    for worker in workers:
        worker.stdin.close()
        worker.wait()


def in_turn(candidates: Iterable[T], turn: int) -> list[T]:
    """Give the order of a turn: shuffled anew each time, so that nobody always follows the same."""
    order = list(candidates)
    random.Random(turn).shuffle(order)
    return order
