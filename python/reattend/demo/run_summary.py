"""Says in a few words what a method did along one answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from reattend.models import Config
from reattend.report import Reading, Report


def what_was_done(setting: str, report: Report, config: Config) -> Iterator[str]:
    """Say what the method of a setting did, in clauses.

    Parameters
    ----------
    setting : str
        "var", "vhr" or "act"; others have nothing to say.
    report : Report
        Of the session.
    config : Config
        Of the model.

    Examples
    --------
    >>> config = Config(num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64, hidden_size=576)
    >>> list(what_was_done("var", Report((), {}), config))
    ['no image token is a sink, so VAR changes nothing']
    """
    readings = report.readings
    if setting == "vhr":
        heads = {each.layer: each.found["heads"][0] for each in readings if "heads" in each.found}
        count = sum(map(len, heads.values()))
        total = config.num_layers * config.num_heads
        yield f"{count} of {total} heads reinforced, in layers {ranges(heads)}"
    elif setting == "var":
        sinks = {each.layer: each.found["visual sinks"][0] for each in readings}
        layers = [layer for layer, tokens in sinks.items() if tokens]
        if not layers:
            yield "no image token is a sink, so VAR changes nothing"
            return
        tokens = {token for some in sinks.values() for token in some}
        yield f"{_count(len(tokens), 'image token')} found to be a sink, in layers {ranges(layers)}"
        yield _changed(readings, config)
    elif setting == "act":
        calmed = [each.layer for each in readings if np.any(each.changed > 0)]
        if not calmed:
            yield "no sink found behind the first key, so ACT changes nothing"
            return
        yield f"sinks behind the first key calmed, in layers {ranges(calmed)}"
        yield _changed(readings, config)


def ranges(numbers: Iterable[int]) -> str:
    """Write whole numbers, runs of them as from - to.

    Parameters
    ----------
    numbers : iterable of int
        In any order.

    Examples
    --------
    >>> ranges([1, 17, 18, 19, 21])
    '1, 17-19, 21'
    """
    ordered = sorted(set(numbers))
    if not ordered:
        return "none"
    breaks = [at for at, (a, b) in enumerate(pairwise(ordered), 1) if b != a + 1]
    runs = np.split(np.array(ordered), breaks)
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)


def _changed(readings: Iterable[Reading], config: Config) -> str:
    steps = max((each.rows for each in readings), default=0)
    changed = sum(float(each.changed.sum()) * each.rows for each in readings if each.rows)
    whole = max(1, steps * config.num_layers * config.num_heads)
    return f"{changed / whole:.1%} of the answer's rows changed, over all heads"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
