"""Batches spread over processes and over a real Dask cluster: the table stays the same."""

import hashlib
import logging
import os
import signal
from functools import partial

import pytest

pytest.importorskip("PIL")
pytest.importorskip("scipy")

from reattend import VHR
from reattend.evaluation.datasets import load_dataset
from reattend.evaluation.datasets.emoji_world.cases import Cell
from reattend.evaluation.report.score_tables import write_scores
from reattend.evaluation.report.scores import score
from reattend.evaluation.runner.answerers import VisionLanguageAnswerer
from reattend.evaluation.runner.evaluate import AnswererOf, evaluate
from reattend.evaluation.runner.executors import dask, processes
from reattend.evaluation.runner.journal import Journal
from reattend.models import read_vision_language

SETTINGS = {"plain": [], "vhr": [VHR(alpha=3.0)]}


def read_tiny(weights, language):
    return VisionLanguageAnswerer(read_vision_language(weights, language), "tiny")


@pytest.fixture(scope="module")
def answerer(tiny_files):
    return AnswererOf(partial(read_tiny, *tiny_files))


@pytest.fixture(scope="module")
def data():
    return load_dataset("emoji-world", scenes=24, cells=[Cell("clear"), Cell("dim")])


def table(data, answerer, path, **options):
    found = evaluate(data, answerer, SETTINGS, path, batch=2, **options)
    assert len(Journal(path)) == 24  # each batch of each setting once
    return write_scores(score(found))


@pytest.fixture(scope="module")
def alone(data, answerer, tmp_path_factory):
    return table(data, answerer, tmp_path_factory.mktemp("alone") / "run.jsonl")


def test_processes_give_the_same_table(tmp_path, data, answerer, alone):
    with processes(2) as executor:
        pids = {executor.submit(os.getpid).result() for _ in range(20)}
        assert table(data, answerer, tmp_path / "run.jsonl", executor=executor) == alone
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"), processes(0):
        pass


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")

    def start(workers):
        return distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None,
            silence_logs=logging.CRITICAL, worker_dashboard_address=None,
        )  # fmt: skip

    return start


@pytest.mark.filterwarnings("default")  # of distributed's own sockets
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_dask_cluster_gives_the_same_table(tmp_path, data, answerer, alone, cluster, workers):
    with cluster(workers) as local, dask(local.scheduler_address) as executor:
        found = table(data, answerer, tmp_path / "run.jsonl", executor=executor)
    assert hashlib.sha256(found.encode()).digest() == hashlib.sha256(alone.encode()).digest()


@pytest.mark.filterwarnings("default")
def test_a_worker_that_is_killed_changes_nothing(tmp_path, data, answerer, alone, cluster):
    with cluster(2) as local, dask(local.scheduler_address) as executor:
        first = next(iter(local.workers.values()))
        killed = []

        def kill(done, whole, *_):
            if done == 5 and not killed:
                killed.append(first.pid)
                os.kill(first.pid, signal.SIGKILL)

        found = table(data, answerer, tmp_path / "run.jsonl", executor=executor, progress=kill)
    assert killed
    assert found == alone


@pytest.mark.filterwarnings("default")
def test_a_scheduler_is_found_by_its_file(tmp_path, cluster):
    with cluster(1) as local:
        path = tmp_path / "scheduler.json"
        path.write_text('{"address": "%s"}' % local.scheduler_address)  # noqa: UP031
        with dask(path) as executor:
            assert executor.submit(abs, -3).result() == 3
