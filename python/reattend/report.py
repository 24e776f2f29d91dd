"""Report: what the methods of a session did, layer by layer, as data and as a table."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reattend.method import Method
from reattend.optional import demand
from reattend.plan import Composition
from reattend.policy import MAX_SEGMENTS, Array
from reattend.reading import Reading

# Steps are kept as they are before they are added up, since to add up one costs as much as some
# hundred; so many at most, and numbers of masses.
_MOST_STEPS = 256
_MOST_NUMBERS = 1 << 17


@dataclass(frozen=True, repr=False)
class Report:
    """What the methods of a session did in one generation; print it for a table.

    Examples
    --------
    >>> print(Report((), {}))
    No layer was changed.
    """

    readings: tuple[Reading, ...]
    prompt_changed: Mapping[int, float]  # by layer: the share of the prompt's rows, over all heads
    # Gives the `Recording` that `Session.record` asked for; None: it was not asked to.
    recorded: Callable[[], Any] | None = field(default=None, compare=False)

    def _prompts_alone(self) -> dict[int, float]:
        """Give the prompt's shares of layers that no reading tells of: no step was taken."""
        told = {reading.layer for reading in self.readings}
        return {
            layer: share for layer, share in sorted(self.prompt_changed.items())
            if share and layer not in told
        }  # fmt: skip

    def __repr__(self) -> str:
        methods = ", ".join(dict.fromkeys(reading.method for reading in self.readings))
        layers = len({reading.layer for reading in self.readings} | set(self._prompts_alone()))
        counted = f"{layers} layer{'s' * (layers != 1)}"
        none = "a prompt alone" if layers else "no method"
        return f"Report({methods or none}: {counted}; print it for a table)"

    def to_dict(self) -> dict[str, Any]:
        """Give everything as dictionaries, lists, numbers and text.

        Examples
        --------
        >>> Report((), {0: 0.5}).to_dict()
        {'readings': [], 'prompt_changed': {0: 0.5}}
        """
        return {
            "readings": [_plain(vars(reading)) for reading in self.readings],
            "prompt_changed": _plain(self.prompt_changed),
        }

    def to_json(self) -> str:
        """Give everything as JSON; keys that are layers become text, as JSON has it.

        Examples
        --------
        >>> Report((), {0: 0.5}).to_json()
        '{"readings": [], "prompt_changed": {"0": 0.5}}'
        """
        return json.dumps(self.to_dict())

    def to_pandas(self) -> Any:
        """Give a pandas table: a row for each layer, method, head and segment.

        Returns
        -------
        pandas.DataFrame
            With columns layer, method, head, segment, rows, changed, before, after.

        Raises
        ------
        MissingPackageError
            If pandas is not installed.

        Examples
        --------
        >>> list(Report((), {}).to_pandas().columns[:3])  # doctest: +SKIP
        ['layer', 'method', 'head']
        """
        columns = ["layer", "method", "head", "segment", "rows", "changed", "before", "after"]
        rows = [
            (r.layer, r.method, head, segment, r.rows, float(r.changed[head]),
             float(r.before[head, g]), float(r.after[head, g]))
            for r in self.readings
            for head in range(len(r.changed))
            for g, segment in enumerate(r.segments)
        ]  # fmt: skip
        return demand("pandas").DataFrame(rows, columns=columns)

    def to_html(
        self,
        path: str | Path,
        *,
        words: Sequence[str] = (),
        picture: Array | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        """Write what was recorded as one HTML page, as ``reattend report`` does.

        Parameters
        ----------
        path : path
            Where to, as .html.
        words, picture, grid
            As for `Recording.with_words`: what the session does not know.

        Raises
        ------
        RuntimeError
            If `Session.record` was not called before the generation.
        ValueError
            If the path ends otherwise, or what is given does not fit.
        MissingPackageError
            If plotly (extra `reattend[report]`) is not installed.

        Examples
        --------
        >>> Report((), {}).to_html("run.html")
        Traceback (most recent call last):
        ...
        RuntimeError: to_html() needs session.record() before the generation
        """
        if self.recorded is None:
            raise RuntimeError("to_html() needs session.record() before the generation")
        recording = self.recorded()
        if words or picture is not None or grid is not None:
            recording = recording.with_words(words, picture=picture, grid=grid)
        # Drawing comes with an extra, so it is asked for as packages of extras are.
        demand("reattend.plot.page").write_page(recording, path)

    def _repr_html_(self) -> str:
        """Give the table that a notebook shows."""
        alone = self._prompts_alone()
        if not self.readings and not alone:
            return "<p>No layer was changed.</p>"
        names = ("layer", "method", "prompt", "rows", "changed", "attention, before &rarr; after")
        head = "".join(f"<th>{name}" for name in names)
        lines = []
        for reading in self.readings:
            share = self.prompt_changed.get(reading.layer)
            cells = [reading.layer, escape(reading.method), "" if share is None else f"{share:.1%}"]
            cells += [reading.rows, "", ""]
            if reading.rows:
                cells[4] = f"{reading.changed.mean():.1%}"
                masses = zip(reading.segments, reading.before.mean(0), reading.after.mean(0),
                             strict=True)  # fmt: skip
                cells[5] = ", ".join(f"{escape(n)} {a:.3f} &rarr; {b:.3f}" for n, a, b in masses)
            lines.append("".join(f"<td>{cell}" for cell in cells))
        for layer, share in alone.items():
            lines.append(f"<td>{layer}<td><td>{share:.1%}<td>0<td><td>")
        return f"<table><tr>{head}<tr>{'<tr>'.join(lines)}</table>"

    def __str__(self) -> str:
        lines: list[tuple[str, ...]] = [
            ("layer", "method", "prompt", "rows", "changed", "attention, before > after", "found")
        ]
        for reading in self.readings:
            shown = [f"{k} {_short(v)}" for k, v in reading.found.items() if isinstance(v, list)]
            share = self.prompt_changed.get(reading.layer)
            if not shown and not reading.rows and not share:
                continue
            prompt = "" if share is None else f"{share:.1%}"
            line = [str(reading.layer), reading.method, prompt, str(reading.rows), "", ""]
            if reading.rows:
                line[4] = f"{reading.changed.mean():.1%}"
                before, after = reading.before.mean(0), reading.after.mean(0)
                masses = zip(reading.segments, before, after, strict=True)
                line[5] = ", ".join(f"{name} {a:.3f} > {b:.3f}" for name, a, b in masses)
            lines.append((*line, "; ".join(shown)))
        for layer, share in self._prompts_alone().items():
            lines.append((str(layer), "", f"{share:.1%}", "0", "", "", ""))
        if len(lines) == 1:
            return "No layer was changed."
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        padded = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
        return "\n".join(padded)


@dataclass
class Tally:
    """Adds up what the plans of one layer did; steps wait until some are there, to cost little."""

    prompt_rows: int = 0
    prompt_changed: int = 0
    _sums: dict[int, _Sums] = field(default_factory=dict)  # by the method's place
    _pending: list[_Steps] = field(default_factory=list)
    _last: _Steps | None = None  # of them
    _waiting: int = 0  # steps in them

    def add_prompt(
        self, changed: Array, valid: Array | None, edited: tuple[Array | None, ...] = ()
    ) -> None:
        """Count the prompt rows that were changed: bool [B, H, N], valid bool [B, N].

        ``edited`` are the rows of each plan whose scores were: no factor tells of these.
        """
        batch, heads, num_rows = changed.shape
        for rows in edited:
            changed = changed if rows is None else changed | rows
        if valid is not None:
            changed = changed & valid[:, None]
        self.prompt_rows += heads * (batch * num_rows if valid is None else int(valid.sum()))
        self.prompt_changed += int(np.count_nonzero(changed))

    def add_rows(
        self,
        places: tuple[int, ...],
        plan: Composition,
        masses: Array,
        edited: tuple[Array | None, ...] = (),
    ) -> None:
        """Note the rows of a decoding step: masses [B, H, N, G] on the parts of the plan."""
        last = self._last
        if (
            last is None or last.plan is not plan or last.edited is not edited
            or last.places != places or last.batch != len(masses)
        ):  # fmt: skip
            last = self._last = _Steps(places, plan, len(masses), [], edited)
            self._pending.append(last)
        last.masses.append(masses)
        self._waiting += 1
        if self._waiting >= _MOST_STEPS or self._waiting * masses.size >= _MOST_NUMBERS:
            self.fold()

    def fold(self) -> dict[int, _Sums]:
        """Add up what waits, and give the sums by the method's place."""
        steps, self._pending, self._last, self._waiting = self._pending, [], None, 0
        start = 0
        for end in range(1, len(steps) + 1):
            if end == len(steps) or not steps[end].joins(steps[start]):
                self._add(steps[start:end])
                start = end
        return self._sums

    def _add(self, steps: Sequence[_Steps]) -> None:
        first = steps[0].plan
        masses = [each for some in steps for each in some.masses]
        left = np.concatenate(masses, axis=2).astype(np.float64)
        for index, (place, policy) in enumerate(zip(steps[0].places, first.policies, strict=True)):
            factors = policy(left)
            if any(some.plan.wheres[index] is not None for some in steps):
                rows = np.concatenate([some.where(index) for some in steps], axis=2)
                factors = np.where(rows[..., None], factors, 1)
            changed = (factors != 1).any(-1)
            if any(some.edited for some in steps):
                changed |= np.concatenate([some.edits(index) for some in steps], axis=2)
            before, left = left, left * factors
            labels = first.labels[index]
            sums = self._sums.setdefault(place, _Sums(left.shape[1]))
            sums.count = max(sums.count, int(labels.max()) + 1)
            sums.rows += left.shape[0] * left.shape[2]
            sums.changed += changed.sum((0, 2))
            for part, label in enumerate(labels):
                sums.before[:, label] += before[..., part].sum((0, 2))
                sums.after[:, label] += left[..., part].sum((0, 2))


class _Sums:
    """What a method's rows add up to."""

    def __init__(self, heads: int) -> None:
        self.rows = 0
        self.count = 0  # segments that occurred
        self.changed = np.zeros(heads)
        self.before, self.after = np.zeros((2, heads, MAX_SEGMENTS))


class _Steps(NamedTuple):
    """Steps under one and the same plan."""

    places: tuple[int, ...]  # of the methods that had a plan
    plan: Composition
    batch: int
    masses: list[Array]  # of each step [B, H, N, G]
    edited: tuple[Array | None, ...] = ()  # of each plan, the rows whose scores it edited

    def edits(self, index: int) -> Array:
        """Give the rows whose scores a plan edited, bool [B, H, rows of all steps]."""
        return self._rows(self.edited[index] if self.edited else np.False_)

    def where(self, index: int) -> Array:
        """Give the rows that a policy is meant for, bool [B, H, rows of all steps]."""
        where = self.plan.wheres[index]
        return self._rows(np.True_ if where is None else where)

    def _rows(self, marked: Any) -> Array:
        marked = np.asarray(False if marked is None else marked)
        each = [masses.shape[:3] for masses in self.masses]
        if marked.ndim == 0 or marked.shape[-1] == 1:  # of any number of rows
            return np.broadcast_to(marked, (*each[0][:2], sum(shape[2] for shape in each)))
        return np.concatenate([np.broadcast_to(marked, shape) for shape in each], axis=2)

    def joins(self, other: _Steps) -> bool:
        """Whether both can be added up at once: the same policies, by identity, and batch."""
        if self.batch != other.batch or self.places != other.places:
            return False
        ours, theirs = self.plan.policies, other.plan.policies
        return len(ours) == len(theirs) and all(map(operator.is_, ours, theirs))


def reading(layer: int, method: Method, sums: _Sums | None, found: Mapping[str, Any]) -> Reading:
    """Give what was added up for a method in a layer; None: it never had a plan."""
    names, name = method.segment_names, type(method).__name__
    if sums is None:
        nothing = np.zeros((0, len(names)))
        return Reading(layer, name, names, 0, np.zeros(0), nothing, nothing, found)
    rows = sums.rows
    names += tuple(f"segment {g}" for g in range(len(names), sums.count))
    before, after = (x[:, : len(names)] / rows for x in (sums.before, sums.after))
    return Reading(layer, name, names, rows, sums.changed / rows, before, after, found)


def _plain(value: Any) -> Any:
    """Give arrays and NumPy's numbers as lists and Python's; names and numbers stay."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
