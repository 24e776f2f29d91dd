"""Time attention with and without methods beside other libraries, each result checked first.

python benchmarks/run.py                      all cases, a table for each
python benchmarks/run.py --json results.json  and every time in a file
python benchmarks/run.py --isa v3             both held to AVX2, what cannot be held left out
python benchmarks/run.py --quick              small cases, in seconds: does it run, is it right
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# torch and NumPy multiply with MKL and OpenBLAS too. In 16 bits torch is not held by these: it asks
# the CPU whether oneDNN is fast, and would then get oneDNN's reference product.
AVX2 = {
    "REATTEND_MAX_ISA": "v3",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 1 if a result was wrong."""
    options = _options().parse_args(arguments)
    set_threads(options.threads)
    if options.isa:
        os.environ.update(AVX2)
    # Only now: these libraries read their settings when they are imported.
    import machine
    import rates
    from cases import CASES, METHODS, QUICK
    from measure import measure
    from peers import PEERS
    from results import updated, write
    from tables import case_table

    listed = QUICK if options.quick else CASES
    if not find_spec("ml_dtypes"):
        listed = tuple(case for case in listed if case.dtype != "bfloat16")
        print("bfloat16 is skipped: ml_dtypes not installed", file=sys.stderr)
    cases = _chosen("--case", options.case, {case.name: case for case in listed})
    methods = _chosen("--method", options.method, dict(zip(METHODS, METHODS, strict=True)))
    peers = [
        name
        for name in _chosen("--peer", options.peer, dict(zip(PEERS, PEERS, strict=True)))
        if not _skipped(name, PEERS[name], options)
    ]
    for figure in rates.missing():
        print(f"{figure} is skipped: this build of reattend does not measure it", file=sys.stderr)
    repeat = options.repeat or (2 if options.quick else 12)
    results: dict[str, Any] = {**machine.described(options.threads), "repeat": repeat, "cases": []}
    for number, case in enumerate(cases, 1):
        print(f"[{number}/{len(cases)}] {case.name} ...", file=sys.stderr, flush=True)
        peaks = not (options.quick or options.no_memory)
        some = [name for name in peers if not options.isa or case.dtype in PEERS[name].held]
        results["cases"].append(measure(case, some, methods, repeat, options.threads, peaks))
        print(case_table(results["cases"][-1], repeat), flush=True)
        if options.json:
            write(options.json, updated(options.json, results) if options.update else results)
    wrong = [r for case in results["cases"] for r in case["results"] if not r["right"]]
    return 1 if wrong else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", nargs="+", metavar="WORD", help="cases whose name has the word")
    parser.add_argument("--peer", nargs="+", metavar="NAME", help="libraries to time")
    parser.add_argument("--method", nargs="+", metavar="NAME", help="plain, VAR, VHR, ACT ...")
    parser.add_argument("--repeat", type=int, help="rounds; 12 by default")
    parser.add_argument("--threads", type=int, default=2, help="of each candidate; 2 by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times to FILE")
    parser.add_argument("--update", action="store_true", help="keep what else is in that file")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--quick", action="store_true", help="small cases and few rounds")
    parser.add_argument("--isa", choices=["v3"], help="hold all libraries to AVX2")
    return parser


def set_threads(threads: int) -> None:
    """Set the threads of all libraries before any is imported."""
    # OpenMP threads that wait by spinning take the cores from the other libraries' threads, which
    # then look many times slower than they are. Passive ones sleep, and each call wakes them.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)


def _chosen(option: str, words: list[str] | None, known: dict[str, Any]) -> list[Any]:
    """Give the known things that a word names: whole names, else all whose name has the word."""
    if not words:
        return list(known.values())
    found: set[str] = set()
    for word in words:
        some = [word] if word in known else [name for name in known if word in name]
        if not some:
            sys.exit(f"{option} must be a part of one of {', '.join(known)}; got {word}")
        found.update(some)
    return [known[name] for name in known if name in found]


def _skipped(name: str, peer: Any, options: argparse.Namespace) -> bool:
    reason = ""
    if peer.missing:
        reason = f"{', '.join(peer.missing)} not installed"
    elif options.quick and peer.compiles and not options.peer:
        reason = "it compiles for seconds in each case; name it with --peer"
    elif options.isa and not peer.held:
        reason = "nothing holds it to AVX2"
    elif options.isa and len(peer.held) == 1:
        print(f"{name} is skipped in 16 bits: nothing holds it to AVX2 there", file=sys.stderr)
    if reason:
        print(f"{name} is skipped: {reason}", file=sys.stderr)
    return bool(reason)


if __name__ == "__main__":
    sys.exit(main())
