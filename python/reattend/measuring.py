"""Measures gathered along a generation: arrays with named axes, of the rows that choose words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reattend.border.dtypes import to_float32
from reattend.call import Call
from reattend.checks import listed
from reattend.one_thread import UsedByOneThread, alone
from reattend.policy import Array

Measure = Callable[[Array, Call], Array]  # weights [B, H, M] of a row, and its call -> [B, ...]


def entropy(weights: Array, call: Call) -> Array:
    """Give the entropy of each head's row in nats, [B, H]."""
    return np.asarray(-(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1))


def image_mass(weights: Array, call: Call) -> Array:
    """Give the attention on the image's keys, [B, H]."""
    image = np.zeros(weights.shape[::2], bool) if call.image is None else call.image
    return np.asarray(np.where(image[:, None], weights, 0).sum(-1))


def text_mass(weights: Array, call: Call) -> Array:
    """Give the attention on the prompt's other keys, [B, H]."""
    text = np.arange(weights.shape[-1]) < call.num_prompt
    if call.image is not None:
        text = text & ~call.image[:, None]
    return np.asarray(np.where(text, weights, 0).sum(-1))


def answer_mass(weights: Array, call: Call) -> Array:
    """Give the attention on the answer's own keys, [B, H]."""
    return np.asarray(weights[..., call.num_prompt :].sum(-1))


def first_mass(weights: Array, call: Call) -> Array:
    """Give the attention on each item's first key that is no padding, [B, H]; 0 where none is."""
    first = np.arange(weights.shape[-1]) == call.first_key[:, None]
    return np.asarray(np.where(first[:, None], weights, 0).sum(-1))


def distance(weights: Array, call: Call) -> Array:
    """Give how many keys back a row looks, in the mean over its attention, [B, H].

    NaN in cross-attention, whose keys stand nowhere before the row.
    """
    if call.cross:
        return np.full(weights.shape[:2], np.nan)
    keys = np.arange(weights.shape[-1])
    last = np.asarray(call.last_rows)[:, None]
    return np.asarray((weights * (last + call.first_row)[..., None]).sum(-1) - weights @ keys)


def largest(weights: Array, call: Call) -> Array:
    """Give the largest weight, [B, H]."""
    return np.asarray(weights.max(-1))


def largest_key(weights: Array, call: Call) -> Array:
    """Give which key has it, int [B, H]; of several the first."""
    return np.asarray(weights.argmax(-1))


MEASURES: dict[str, Measure] = {
    each.__name__: each
    for each in (
        entropy, image_mass, text_mass, answer_mass, first_mass, distance, largest, largest_key,
    )
}  # fmt: skip
OUTPUTS = "head_outputs"  # what the heads give, behind the methods: no measure of weights


@dataclass(frozen=True, eq=False, repr=False)
class Measured:
    """What a measure found along a generation.

    Examples
    --------
    >>> found = Measured(np.zeros((5, 2, 1, 4)), ("step", "layer", "item", "head"), (0, 1))
    >>> found
    Measured(step 5, layer 2, item 1, head 4)
    >>> found.mean("head", "layer").shape
    (5, 1)
    """

    values: Array  # [T, L, B, ...], step 0 is the prompt's last row
    axes: tuple[str, ...]  # the name of each axis
    layers: tuple[int, ...]  # the layer's number of each place on the axis "layer"

    def __repr__(self) -> str:
        sizes = ", ".join(f"{n} {s}" for n, s in zip(self.axes, self.values.shape, strict=True))
        return f"Measured({sizes})"

    def mean(self, *axes: str) -> Array:
        """Give the mean over axes, by their names.

        Parameters
        ----------
        *axes : str
            Of ``axes``.

        Raises
        ------
        ValueError
            If there is no such axis.

        Examples
        --------
        See the example of the class.
        """
        unknown = [name for name in axes if name not in self.axes]
        if unknown:
            raise ValueError(f"axes must be among {self.axes}, got {unknown}")
        return np.asarray(self.values.mean(tuple(self.axes.index(name) for name in axes)))


class Gatherer:
    """Notes measures of the rows that choose words, of all items, in all layers.

    A row's weights are made by one pass more; the matrix never exists. Numbers are kept in float32:
    4,096 steps of 32 layers with 32 heads are 16 MiB for each measure of an item.
    """

    def __init__(self, measures: Sequence[str | Measure]) -> None:
        self._measures: dict[str, Measure | None] = {}
        for each in measures:
            if isinstance(each, str):
                if each not in MEASURES and each != OUTPUTS:
                    known = ", ".join([*MEASURES, OUTPUTS])
                    raise ValueError(f"measures must be among {known}, or functions, got {each!r}")
                name, function = each, MEASURES.get(each)
            elif callable(each):
                name, function = getattr(each, "__name__", repr(each)), each
            else:
                raise TypeError(f"measures must be names or functions, got {each!r}")
            if name in self._measures:
                raise ValueError(f"measures must have different names, got {name!r} twice")
            self._measures[name] = function
        self.begin()

    def begin(self) -> None:
        """Forget what was noted: a generation begins."""
        self._layers: tuple[int, ...] | None = None  # those of the first row that was seen in full
        self._row: dict[int, dict[str, Array]] = {}  # the row that is under way
        self._steps: dict[str, list[Array]] = {name: [] for name in self._measures}  # [L, B, ...]
        self._count = 0  # of rows in full
        self._moves: list[tuple[int, Array]] = []  # how many rows there were, and who became whom

    def note(self, call: Call, out: Array) -> None:
        """Note the row of a call that chooses a word, whose outputs are [B, H, N, Dv]."""
        if call.prefill and not call.last_chunk:
            return
        if call.layer in self._row:
            self._close()
        found: dict[str, Array] = {}
        weights: Array | None = None
        for name, function in self._measures.items():
            if function is None:
                items, rows = np.arange(call.batch), call.last_rows
                found[name] = to_float32(out[items, :, rows], call.mask.dtype).copy()
                continue
            if weights is None:
                weights = call.row_weights.astype(np.float64)
            value = np.asarray(function(weights, call))
            if value.shape[:1] != (call.batch,) or value.dtype.kind not in "fiub":
                raise ValueError(
                    f"measures: {name} must give numbers [B, ...] with B = {call.batch}, got "
                    f"{value.dtype} of shape {value.shape}"
                )
            found[name] = value.astype(np.float32 if value.dtype.kind == "f" else np.int32)
        self._row[call.layer] = found

    def reorder(self, indices: Array) -> None:
        """Let item b become what item ``indices[b]`` was, in all rows so far."""
        self._close()
        self._moves.append((self._count, indices.copy()))

    def measured(self) -> dict[str, Measured]:
        """Give what was noted of the rows that all layers have seen."""
        if self._row and self._layers in (None, tuple(sorted(self._row))):
            self._close()
        if not self._count or self._layers is None:
            raise ValueError(
                "measured() needs rows of all layers, got none: call measure() before the "
                "generation begins"
            )
        order = self._origins()
        found = {}
        for name, steps in self._steps.items():
            values = np.stack([step[:, some] for step, some in zip(steps, order, strict=True)])
            more = ("head", "number") if name == OUTPUTS else ("head", "axis 4", "axis 5")
            axes = ("step", "layer", "item", *more)[: values.ndim]
            found[name] = Measured(values, axes, self._layers)
        return found

    def _close(self) -> None:
        """Put the row that was under way behind the others, if all layers have seen it."""
        layers = tuple(sorted(self._row))
        row, self._row = self._row, {}
        if not layers or self._layers not in (None, layers):
            return
        self._layers = layers
        for name, steps in self._steps.items():
            steps.append(np.stack([row[layer][name] for layer in layers]))
        self._count += 1

    def _origins(self) -> list[Any]:
        """Give, for each row, which of its items became each of the last row's."""
        order: list[Any] = []
        now: Array | None = None
        moves = list(self._moves)
        for row in range(self._count, 0, -1):
            while moves and moves[-1][0] >= row:
                _, indices = moves.pop()
                now = indices if now is None else indices[now]
            order.append(slice(None) if now is None else now)
        return order[::-1]


class Measuring(UsedByOneThread):
    """What a session can gather along a generation."""

    _gatherer: Gatherer | None = None

    @alone
    def measure(self, measures: Sequence[str | Measure]) -> None:
        """Gather measures in each generation from now on, of the rows that choose words.

        Of the prompt's last row and each row of the answer, in every layer, of attention as softmax
        gives it. It costs one pass over the keys for each row, and of a call with several rows of
        an answer the last is taken.

        Parameters
        ----------
        measures : sequence of str or callable
            ``"entropy"``, ``"image_mass"``, ``"text_mass"``, ``"answer_mass"``, ``"first_mass"``,
            ``"distance"`` (mean keys back), ``"largest"``, ``"largest_key"``, and
            ``"head_outputs"``, which are behind the methods; or functions of one's own, called with
            weights [B, H, M] and the `Call`, that give [B, ...] of the same shape each time.

        Raises
        ------
        TypeError, ValueError
            If one is none of these.

        Examples
        --------
        >>> from reattend import Session
        >>> session = Session([], num_layers=1)
        >>> session.measure(["entropy", "image_mass"])
        >>> query = key = value = np.zeros((1, 2, 3, 8), np.float32)
        >>> with session.generation(np.array([[False, True, True]])):
        ...     out = session.attend(0, query, key, value)
        >>> session.measured()["image_mass"]
        Measured(step 1, layer 1, item 1, head 2)
        >>> session.measured()["image_mass"].values.round(3).ravel()
        array([0.667, 0.667], dtype=float32)
        """
        what = "a sequence of names and functions"
        self._gatherer = Gatherer(listed("measures", measures, what))

    @alone
    def measured(self) -> Mapping[str, Measured]:
        """Give what was gathered along the latest generation, by name.

        Beams are followed back: each row of an item is that of the beam it came from.

        Raises
        ------
        RuntimeError
            If `measure` was not called.
        ValueError
            If no row has been seen in all layers.

        Returns
        -------
        dict of str to Measured

        Examples
        --------
        See the example of `measure`.
        """
        if self._gatherer is None:
            raise RuntimeError("measured() needs session.measure(...) before the generation")
        return self._gatherer.measured()
