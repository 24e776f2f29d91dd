"""How much faster an evaluation is on more workers of a Dask cluster on this machine.

`python benchmarks/spread.py`: the shipped model asked about scenes of the emoji world, with plain
attention and VHR, in turns on 1, 2 and 4 workers of one thread each; models are read before.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from reattend import VHR
from reattend.evaluation.datasets import load_dataset
from reattend.evaluation.datasets.emoji_world.cases import Cell
from reattend.evaluation.report.score_tables import write_scores
from reattend.evaluation.report.scores import score
from reattend.evaluation.runner.answerers import VisionLanguageAnswerer
from reattend.evaluation.runner.evaluate import AnswererOf, evaluate
from reattend.evaluation.runner.executors import dask
from reattend.models import read_vision_language

WORKERS = (1, 2, 4)


def read_shipped():
    return VisionLanguageAnswerer(read_vision_language(), "shipped")


def seconds_of(data, workers):
    """Give the seconds that an evaluation takes, and its table."""
    from distributed import Client, LocalCluster

    answerer = AnswererOf(read_shipped, {"model": "shipped"})
    settings = {"plain": [], "vhr": [VHR(alpha=1.5)]}
    quiet = {"dashboard_address": None, "worker_dashboard_address": None}
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=workers, threads_per_worker=1, **quiet) as cluster,
        Client(cluster) as client,
        dask(cluster.scheduler_address) as executor,
    ):
        for address in cluster.scheduler_info["workers"]:  # a model for each, before the clock runs
            client.submit(answerer, data.cases[:1], [], workers=[address]).result()
        start = time.perf_counter()
        found = evaluate(data, answerer, settings, Path(folder) / "run.jsonl", batch=4,
                         executor=executor)  # fmt: skip
        took = time.perf_counter() - start
    return took, write_scores(score(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = load_dataset("emoji-world-questions", scenes=options.scenes, cells=[Cell("clear")])
    times, tables = {workers: [] for workers in WORKERS}, set()
    for _ in range(options.rounds):
        for workers in WORKERS:
            took, table = seconds_of(data, workers)
            times[workers].append(took)
            tables.add(table)
            print(f"{workers} workers: {took:.1f} s", flush=True)
    assert len(tables) == 1, "the table must be the same on any number of workers"
    best = {workers: min(each) for workers, each in times.items()}
    for workers, took in best.items():
        print(f"{workers} workers: {took:.1f} s, {best[1] / took:.2f}x")
    if options.json:
        found = {"cases": len(data.cases), "cpus": len(os.sched_getaffinity(0)), "seconds": best}
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
