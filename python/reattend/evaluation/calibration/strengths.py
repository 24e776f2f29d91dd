"""Tuning: which heads ACT calibrates, and how strongly each setting works, on the split 'tune'."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from reattend.evaluation.datasets.emoji_world.cases import (
    Case,
    Cases,
    Cell,
    Record,
    count_case,
    encode_cases,
)
from reattend.evaluation.datasets.emoji_world.sentences import DESCRIBE
from reattend.evaluation.loading import Loaded
from reattend.evaluation.metrics.counts import columns
from reattend.evaluation.runner.answers import KINDS, margins, new_session
from reattend.evaluation.runner.journal import Journal
from reattend.evaluation.runner.run import collect, run_settings
from reattend.evaluation.settings import PLAIN, SETTINGS, UNSURE, Strengths, build_methods
from reattend.methods import ACT
from reattend.policy import Array

Progress = Callable[[str, int, int], None]  # what, done, whole

_ASKED = ("there", "adversarial")  # what heads are searched with
_LEAST_GAIN = 1.0  # standard errors that a head's gain must reach
_SEARCHED = (Cell("dim"), Cell("dim", long=True))  # where heads are searched: prompts are short
_PROBABILITIES = np.arange(0.05, 1.0, 0.05)


def tune(
    loaded: Loaded,
    cases: Cases,
    todo: Sequence[range],
    journal: Journal,
    progress: Progress,
    settings: Collection[str] = tuple(SETTINGS),
) -> Strengths:
    """Choose strengths: of each setting those that name things best.

    Best is the largest F1 of the named nouns, which weighs what is made up and what is missed
    alike; of equals the first that is tried, the paper's value. None may be plain itself, so a
    setting that only harms does so as little as it can.

    Parameters
    ----------
    loaded : Loaded
        The model; its strengths do not count.
    cases : Cases
        Of the split "tune", all of them asked about.
    todo : sequence of range
        Of `batches`.
    journal : Journal
        Where everything that was tried is kept.
    progress : callable
        Called with what is being done, and how far it is.
    settings : collection of str, optional
        Which; all of them by default.

    Returns
    -------
    dict
        Strengths of each of the settings that has any.
    """
    heads: dict[int, tuple[int, ...]] = {}
    if "act" in settings:
        searched = [n for n in todo if cases.cells[n[0] % len(cases.cells)] in _SEARCHED]
        heads = search_heads(
            loaded, cases, searched or todo, journal, lambda *at: progress("ACT's heads", *at)
        )
    tried: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in settings:
        for values in SETTINGS[name].tried:
            full = {**values, "heads": heads} if name == "act" else values
            tried[f"{name} {_written(values)}"] = (name, full)
    methods = {
        key: build_methods(name, {name: values}, loaded.sink_dims)
        for key, (name, values) in tried.items()
    }
    described = cases.only_described()
    run_settings(loaded, methods, described, todo, journal, lambda *at: progress("strengths", *at))
    answers = collect(journal, methods, described, todo)
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for key, (name, values) in tried.items():
        score = named_f1(answers.cases, answers.records[key])
        if name not in best or score > best[name][0]:
            best[name] = score, values
    chosen: Strengths = {name: values for name, (_, values) in best.items()}
    if UNSURE in settings:
        run_settings(loaded, {PLAIN: []}, cases, todo, journal, lambda *at: progress("plain", *at))
        plain = collect(journal, [PLAIN], cases, todo)
        chosen[UNSURE] = _least_sure(plain.cases, plain.records[PLAIN])
    return chosen


def named_f1(cases: Sequence[Case], records: Sequence[Record], probability: float = 0.0) -> float:
    """Compute F1 of the nouns that descriptions name.

    Parameters
    ----------
    cases : sequence of Case
        What was described.
    records : sequence of Record
        The descriptions.
    probability : float, optional
        Nouns that were less sure are left out.
    """
    sums = columns(
        [
            count_case(case, record, probability=probability)["description"]
            for case, record in zip(cases, records, strict=True)
        ]
    )
    return float(sums["twice_found"].sum() / max(sums["said_and_there"].sum(), 1))


def search_heads(
    loaded: Loaded,
    cases: Cases,
    todo: Sequence[range],
    journal: Journal,
    progress: Callable[[int, int], None],
) -> dict[int, tuple[int, ...]]:
    """Search the heads that ACT shall calibrate, one at a time, as its paper does.

    The paper asks how many answers are right. That moves in steps of a whole answer, so here it is
    the log-probability of the right one, yes or no, for something that is there and something
    usual that is not. A head is chosen if the mean gain is above its standard error. Heads without
    a sink in most of these prompts would change little and are left out at once.

    Parameters
    ----------
    loaded : Loaded
        The model.
    cases : Cases
        Of the split "tune", all of them asked about.
    todo : sequence of range
        Of `batches`; a few are enough.
    journal : Journal
        Where what was tried is kept.
    progress : callable
        Called with how many of how many heads are done.

    Returns
    -------
    dict of int to tuple of int
        Heads of each layer.
    """
    drawn = [[cases.draw(number) for number in numbers] for numbers in todo]
    pictures = [encode_cases(loaded.model, batch) for batch in drawn]
    key = ["heads with sinks"]
    if key not in journal:
        found = [_with_sinks(loaded, *batch) for batch in zip(drawn, pictures, strict=True)]
        often = np.concatenate(found, axis=1).mean(axis=1) > 0.5
        journal.add(key, np.argwhere(often).tolist())
    heads = journal.get(key)
    plain = None
    chosen: dict[int, tuple[int, ...]] = {}
    for place, (layer, head) in enumerate(heads):
        if ["head", layer, head] not in journal:
            if plain is None:
                plain = _right(loaded, None, drawn, pictures)
            gains = _right(loaded, ACT(heads={layer: (head,)}), drawn, pictures) - plain
            error = float(gains.std(ddof=1) / len(gains) ** 0.5)
            journal.add(["head", layer, head], [float(gains.mean()), error])
            progress(place + 1, len(heads))
        gain, error = journal.get(["head", layer, head])
        if gain > _LEAST_GAIN * error and gain > 0:
            chosen[layer] = (*chosen.get(layer, ()), head)
    return chosen


def _with_sinks(loaded: Loaded, cases: Sequence[Case], pictures: Array) -> Array:
    """Say which heads have a sink behind the first key in each prompt, bool [L, B, H]."""
    model = loaded.model
    session = new_session(model, ACT(beta=1.0))
    prompts = [model.prompt(DESCRIBE, case.before) for case in cases]
    model.next_logits(session, prompts, pictures)
    found = np.zeros((session.num_layers, len(cases), model.llama.config.num_heads), dtype=bool)
    for reading in session.report().readings:
        found[reading.layer] = reading.found["counts"] > 0
    return found


def _right(
    loaded: Loaded, method: ACT | None, drawn: Sequence[Sequence[Case]], pictures: Sequence[Array]
) -> Array:
    """Log-probability of the right answer, among yes and no, to each question."""
    found: list[Array] = []
    for batch, seen in zip(drawn, pictures, strict=True):
        asked = [
            (row, case, inquiry)
            for row, case in enumerate(batch)
            for inquiry in case.inquiries
            if inquiry.kind in _ASKED
        ]
        yes = margins(
            loaded.model,
            [] if method is None else method,
            seen[[row for row, *_ in asked]],
            [inquiry.noun for *_, inquiry in asked],
            [case.before for _, case, _ in asked],
        )
        there = np.array([inquiry.kind == "there" for *_, inquiry in asked])
        found.append(-np.logaddexp(0, np.where(there, -yes, yes)))
    return np.concatenate(found)


def _least_sure(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, float]:
    """Choose the least probability of a word by F1, and the least margin of a yes by accuracy."""
    scores = [named_f1(cases, records, probability) for probability in _PROBABILITIES]
    said = np.array([record.margins for record in records])  # [n, 1 + kinds]: there first
    kinds = [inquiry.kind for inquiry in cases[0].inquiries]
    there = np.array([kind == "there" for kind in kinds])
    times = np.where(there, len(KINDS), 1)  # each absent noun is asked beside one that is there
    limits = np.quantile(said, np.linspace(0.05, 0.95, 91))
    right = [(((said > limit) == there) * times).sum() for limit in limits]
    return {
        "probability": round(float(_PROBABILITIES[int(np.argmax(scores))]), 2),
        "margin": round(float(limits[int(np.argmax(right))]), 4),
    }


def _written(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value:g}" for name, value in values.items())
