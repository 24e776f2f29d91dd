"""Profiles of what a search or a tuning found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from reattend.evaluation.calibration.search import HeadSearch
from reattend.evaluation.calibration.tuning import Tuning
from reattend.evaluation.metrics.counts import Estimate
from reattend.fingerprint import fingerprint
from reattend.method import Method
from reattend.profile import Profile


def search_profile(
    found: HeadSearch,
    method: Method,
    model: Any,
    *,
    data: Mapping[str, Any] | None = None,
    sink_dims: Sequence[int] | None = None,
    created: str | None = None,
) -> Profile:
    """Give what a search for heads found as a profile.

    Parameters
    ----------
    found : HeadSearch
        Of `search_heads`.
    method : Method
        What was switched on, at the strength at which it was; its heads are those found.
    model : model, or mapping
        Whose heads they are, or its fingerprint.
    data : mapping, optional
        What was searched and held out.
    sink_dims : sequence of int, optional
        Of `find_sink_dims`.
    created : str, optional
        When; now by default.

    Raises
    ------
    TypeError
        If the method has no heads to be switched on in.

    Examples
    --------
    >>> from reattend import ACT
    >>> from reattend.evaluation.calibration import head_candidates, search_heads
    >>> found = search_heads(lambda heads: np.array([len(heads), 0.0]), head_candidates(4, 2))
    >>> profile = search_profile(found, ACT(), {"num_layers": 4, "num_heads": 2})
    >>> ACT.from_profile(profile).heads, profile.scores["ACT"]["held_out"]["verdict"]
    (((2, (0, 1)),), 'not asked')
    """
    name = type(method).__name__
    parameters = _parameters(method)
    if "heads" not in parameters:
        raise TypeError(f"method must have heads to be switched on in, got {method!r}")
    held = None if found.confirmed is None else _known(found.confirmed)
    return Profile(
        fingerprint(model),
        {name: {**parameters, "heads": found.heads}},
        None if sink_dims is None else tuple(sink_dims),
        {} if data is None else dict(data),
        {
            name: {
                "plain": found.plain,
                "searched": {"gain": _known(found.gain), "candidates": len(found.candidates)},
                "held_out": {"gain": held, "verdict": found.verdict},
            }
        },
        {
            f"{name}.candidates": np.array(found.candidates, np.int32),
            f"{name}.gains": found.gains,
            f"{name}.p_values": found.p_values,
        },
        _now() if created is None else created,
    )


def tuning_profile(
    found: Tuning,
    method: Method,
    model: Any,
    *,
    data: Mapping[str, Any] | None = None,
    sink_dims: Sequence[int] | None = None,
    created: str | None = None,
) -> Profile:
    """Give what tuning found as a profile.

    Parameters
    ----------
    found : Tuning
        Of `tune`.
    method : Method
        What was tuned; the best strength comes in the place of its own, if one is better than the
        plain model.
    model, data, sink_dims, created
        As for `search_profile`.

    Examples
    --------
    >>> from reattend import VHR
    >>> from reattend.evaluation.calibration import Described, tune
    >>> def describe(parameters, samples):
    ...     made_up = [(9, 0.5)] if parameters is None else []
    ...     return [Described([(0, 0.4), *made_up], {0}) for _ in samples]
    >>> found = tune(describe, {"alpha": [1.1]}, 8)
    >>> profile = tuning_profile(found, VHR(), {"num_layers": 4})
    >>> VHR.from_profile(profile).alpha, profile.scores["VHR"]["tuned"]["verdict"]
    (1.1, 'better')
    """
    name = type(method).__name__
    trials = [
        {n: _known(v) if isinstance(v, Estimate) else v for n, v in each._asdict().items()}
        for each in (found.plain, *found.trials)
    ]
    return Profile(
        fingerprint(model),
        {name: {**_parameters(method), **(found.best or {})}},
        None if sink_dims is None else tuple(sink_dims),
        {} if data is None else dict(data),
        {name: {"tuned": {"best": found.best, "verdict": found.verdict, "trials": trials}}},
        {},
        _now() if created is None else created,
    )


def _known(numbers: Estimate) -> list[float | None]:
    """Give numbers as JSON can hold them: None where one is not known."""
    return [None if np.isnan(number) else number for number in numbers]


def _parameters(method: Method) -> dict[str, Any]:
    """Give a method's parameters as JSON can hold them; heads by layer."""
    fields = dataclasses.fields(method)  # type: ignore[arg-type]
    found = {each.name: getattr(method, each.name) for each in fields}
    if found.get("heads") is not None:
        found["heads"] = dict(found["heads"])
    return found


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
