"""Peak memory of one candidate beyond its inputs and output, in a process of its own.

`python benchmarks/memory.py CASE PEER METHOD THREADS`, with the case's fields as JSON, prints the
bytes, or nothing where the system does not tell. Run by run.py; a fresh process, since memory that
an earlier candidate gave back could be taken again unseen.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cases import Case


def measured(case: Case, peer: str, method: str, threads: int) -> int | None:
    """Measure a candidate in a process of its own."""
    fields = json.dumps(asdict(case))
    command = [sys.executable, str(Path(__file__)), fields, peer, method, str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout) if done.stdout.strip() else None


def _status() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = (line.split() for line in lines)
    return {name[:-1]: int(rest[0]) * 1024 for name, *rest in fields if rest and rest[-1] == "kB"}


def _forget_peak() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free in the heap would be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins again here


def _peak(fields: str, peer: str, method: str, threads: int) -> int | None:
    from cases import Case, make
    from peers import PEERS

    case = Case(**json.loads(fields))
    for package in PEERS[peer].packages:  # a library's code is no memory of a call
        if package not in ("pywhispercpp", "vllm"):  # of which one library alone is used
            importlib.import_module(package)
    arrays = make(case)
    try:
        _forget_peak()
        before = _status()
    except (OSError, AttributeError):
        return None
    candidate = PEERS[peer].make(case, arrays, method, threads)
    assert candidate is not None
    if candidate.before is not None:  # what it keeps counts, what it takes for a while does not
        candidate.before()
        _forget_peak()
    out = candidate.run()
    after = _status()
    code = after["RssFile"] - before["RssFile"]  # pages of libraries that were read in meanwhile
    grown = after["VmHWM"] - before["VmRSS"] - code - candidate.own_bytes
    return max(0, grown - (arrays.query.nbytes if out is not None else 0))


if __name__ == "__main__":
    *names, count = sys.argv[1:]
    found = _peak(names[0], names[1], names[2], int(count))
    print("" if found is None else found)
