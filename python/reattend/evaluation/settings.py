"""The settings that are compared: methods with their strengths, beside two trivial baselines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reattend.evaluation.baselines import Brighten, OnePassVHR
from reattend.evaluation.datasets.emoji_world.sentences import DESCRIBE
from reattend.evaluation.runner.answers import new_session
from reattend.method import Method
from reattend.methods import ACT, VAR, VHR
from reattend.models import VisionLanguage
from reattend.policy import Array
from reattend.session import Session
from reattend.sinks import sink_dims

PLAIN, UNSURE = "plain", "unsure"
# VAR's tau as a share of the most that phi can be. 20 at the 24 of SmolLM2, whose ordinary tokens
# are at about 15 and whose sinks are above 22: the paper's own share, 20/64, would take in all.
TAU = 5 / 6

_KEPT = (0.6, 0.3, 0.0)

Strengths = dict[str, dict[str, Any]]  # setting -> its method's parameters


class Setting(NamedTuple):
    """A way to answer."""

    label: str
    method: Callable[..., Method] | None  # None: plain attention
    tried: tuple[dict[str, Any], ...] = ()  # strengths that tuning tries; the first is the paper's


SETTINGS: dict[str, Setting] = {
    PLAIN: Setting("plain", None),
    "var": Setting("VAR", VAR, tuple({"p": p} for p in _KEPT)),
    "var-ungated": Setting(
        "VAR without its rho gate", VAR, tuple({"p": p, "rho": 0.0} for p in _KEPT)
    ),
    "vhr": Setting("VHR", VHR, tuple({"alpha": a} for a in (2.0, 1.5, 1.25, 1.1))),
    "vhr-one-pass": Setting(
        "VHR in one pass", OnePassVHR, tuple({"alpha": a} for a in (2.0, 1.5, 1.25, 1.1))
    ),
    "act": Setting("ACT, searched heads", ACT, tuple({"beta": b} for b in (0.4, 0.7, 0.0))),
    "act-all": Setting("ACT, all heads", ACT, tuple({"beta": b} for b in (0.4, 0.7, 0.9))),
    # Baselines. The first asks of a method whether choosing sinks, heads or tokens is what helps;
    # the second, whether it does more than to leave out what the model was unsure of anyway.
    "brighten": Setting(
        "image keys raised in all heads", Brighten, tuple({"keep": k} for k in (0.9, 0.97, 0.8))
    ),
    UNSURE: Setting("words below a probability left out", None),
}
METHODS = ("var", "vhr", "act")  # what `reattend demo` shows
LABELS = {PLAIN: "plain", "var": "VAR", "vhr": "VHR", "act": "ACT"}  # there


def default_strengths() -> Strengths:
    """Give the strengths that nobody tuned: those of the papers.

    ``unsure`` has the least probability of a word, and the least margin of a yes.

    Examples
    --------
    >>> default_strengths()["vhr"]
    {'alpha': 2.0}
    """
    papers = {name: dict(each.tried[0]) for name, each in SETTINGS.items() if each.tried}
    return {**papers, UNSURE: {"probability": 0.5, "margin": 0.0}}


def read_strengths(path: Path) -> Strengths:
    """Read strengths that tuning stored; settings that it does not name keep the papers'.

    Parameters
    ----------
    path : path
        A JSON file.

    Raises
    ------
    ValueError
        If it is none, or names a setting that is not there.

    Examples
    --------
    >>> read_strengths(Path(__file__))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: ...settings.py cannot be read as JSON with strengths: ...
    """
    try:
        strengths: Strengths = json.loads(path.read_text("utf-8"))["strengths"]
        items = {name: dict(values) for name, values in strengths.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as JSON with strengths: {error!r}") from error
    if unknown := sorted(items.keys() - SETTINGS.keys()):
        raise ValueError(
            f"{path} must name settings of {', '.join(SETTINGS)}, got {', '.join(unknown)}"
        )
    if "heads" in items.get("act", {}):
        heads = items["act"]["heads"]
        items["act"]["heads"] = {int(layer): tuple(some) for layer, some in heads.items()}
    return {**default_strengths(), **items}


def build_methods(
    name: str, strengths: Mapping[str, Mapping[str, Any]], dims: Sequence[int]
) -> list[Method]:
    """Build what a setting puts to work in a session.

    Parameters
    ----------
    name : str
        Of `SETTINGS`.
    strengths : mapping
        Each setting's parameters.
    dims : sequence of int
        The model's sink dimensions, of `find_sink_dims`.

    Returns
    -------
    list of Method
        Empty for plain attention.

    Raises
    ------
    ValueError
        If there is no such setting, or its parameters are not the method's.

    Examples
    --------
    >>> build_methods("var", default_strengths(), [138])
    [VAR(sink_dims=(138,), p=0.6, rho=0.5, tau=0.8333333333333334, image_mass=0.2)]
    """
    if name not in SETTINGS:
        raise ValueError(f"setting must be one of {', '.join(SETTINGS)}, got {name!r}")
    method = SETTINGS[name].method
    if method is None:
        return []
    parameters = dict(strengths.get(name, {}))
    if method is VAR:
        parameters = {"sink_dims": tuple(dims) or None, "tau": TAU, **parameters}
    try:
        return [method(**parameters)]
    except TypeError as error:
        raise ValueError(f"strengths of {name} do not fit: {error}") from error


def find_sink_dims(model: VisionLanguage, pixels: Array) -> tuple[int, ...]:
    """Find a model's sink dimensions: those that any layer shows on the first token.

    Parameters
    ----------
    model : VisionLanguage
        The model.
    pixels : uint8 array [120, 120, 3]
        Any picture.

    Returns
    -------
    tuple of int
        The one that most layers show first; empty if none is massive.
    """
    session = _SinkDims(model)
    model.next_logits(session, [model.prompt(DESCRIBE)], pixels[None])
    found = np.argsort(-session.counts, kind="stable")[: np.count_nonzero(session.counts)]
    return tuple(found.tolist())


class _SinkDims(Session):
    """Counts, for each dimension, the layers that it is massive in."""

    def __init__(self, model: VisionLanguage) -> None:
        plain = new_session(model, [])
        super().__init__([], num_layers=plain.num_layers, num_heads=plain.num_heads)
        self.counts = np.zeros(model.llama.config.hidden_size, dtype=np.intp)

    def attend(self, layer: int, query: Array, key: Array, value: Array, **options: Any) -> Array:
        """Count, then attend."""
        self.counts += sink_dims(options["hidden_states"])[0]
        return super().attend(layer, query, key, value, **options)
