"""Session: methods along a generation, with each layer's state from the prompt to the last step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from reattend.border.arguments import DTYPES, array_or_stored, scalars
from reattend.border.core_call import attend
from reattend.border.request import CAUSAL, PLAIN, MaskSpec, Request
from reattend.border.results import AttentionResult
from reattend.border.row_products import products_of
from reattend.call import Call, Prompt
from reattend.checks import as_array, count, integer, items, layer_count, numbers
from reattend.fitting import cross_layers_of, fitted, warn_without_image
from reattend.following import ColumnRule, FollowedSteps, ReadSteps, RowRule
from reattend.measuring import Measuring
from reattend.method import Method
from reattend.one_thread import OneThread, alone
from reattend.plan import Composition, Plan, compose, compose_with_columns, taken
from reattend.planned import planned
from reattend.policy import Array
from reattend.recorder import Recorded
from reattend.report import Report, Tally, reading
from reattend.text_branch import store_last_rows

__all__ = ["Session"]


class _Steady(NamedTuple):
    """What all steps of a layer do, once that is known."""

    plan: Composition | None = None  # None: plain attention
    places: tuple[int, ...] = ()  # of the methods that have a part in it
    followed: FollowedSteps | None = None  # where the core finds the sinks of one of these
    follower: int = 0  # its place
    tally: Tally | None = None  # to which its rows are added
    read: ReadSteps | None = None  # where each step's plan follows from scores of its row


_PLAIN = _Steady()


@dataclass
class _Run:
    """One prompt and its decoding steps, or a text-only run."""

    prompt: Prompt
    batch: int | None = None  # of the last call
    text_outputs: dict[int, Array] | None = None  # what a text-only run stores; it changes nothing
    seen: dict[int, int] = field(default_factory=dict)  # layer -> rows seen, from the first
    keys: dict[int, int] = field(default_factory=dict)  # layer -> keys of the last call
    states: dict[tuple[int, int], Any] = field(default_factory=dict)  # (method's place, layer)
    tallies: dict[int, Tally] = field(default_factory=dict)
    composed: dict[int, Composition] = field(default_factory=dict)
    steady: dict[int, _Steady] = field(default_factory=dict)  # by layer
    confidence: Array | None = None  # [B], of the latest token, as the loop told

    def tally(self, layer: int) -> Tally:
        """Give a layer's tally."""
        return self.tallies.setdefault(layer, Tally())


def _keep_followed(run: _Run, layer: int) -> None:
    """Bring what steps in the core followed to the state of its method."""
    steady = run.steady.get(layer)
    if steady is not None and steady.followed is not None:
        run.states[steady.follower, layer] = steady.followed.state()


class Session(Recorded, Measuring):
    """Methods at work in a model's attention, one generation after the other.

    Parameters
    ----------
    methods : Method or sequence of Method
        Applied in order; each sees the attention that the ones before it left.
    num_layers : int
        Number of layers of the model.
    num_heads : int, optional
        Number of query heads, to check calls against.
    cross_layers : iterable of int, optional
        Layers of cross-attention: their keys are those of an image, all of them, and not the rows'
        own past. A model that has both in a layer takes two sessions.

    Raises
    ------
    TypeError, ValueError
        If a method does not fit the model, or does not say what it does in cross-attention.

    Examples
    --------
    A loop over steps and layers is the user's own; `attend` takes the place of attention.

    >>> from reattend.methods import VAR
    >>> session = Session(VAR(sink_dims=(7,), tau=0.3), num_layers=4)
    >>> rng = np.random.default_rng(0)
    >>> image = np.array([[False, True, True, True, False, False]])
    >>> with session.generation(image):
    ...     for layer in range(4):
    ...         query, key, value = rng.standard_normal((3, 1, 2, 6, 8), dtype=np.float32)
    ...         x = rng.standard_normal((1, 6, 16), dtype=np.float32)
    ...         out = session.attend(layer, query, key, value, hidden_states=x)
    >>> out.shape
    (1, 2, 6, 8)
    """

    _observed = False  # whether a subclass sees calls that no method changes too

    def __init__(
        self,
        methods: Method | Sequence[Method],
        *,
        num_layers: int,
        num_heads: int | None = None,
        cross_layers: Iterable[int] = (),
    ) -> None:
        num_layers = layer_count("num_layers", num_layers)
        num_heads = None if num_heads is None else count("num_heads", num_heads, 1)
        self.methods = fitted(methods, num_layers, num_heads)
        self.cross_layers = cross_layers_of(cross_layers, num_layers, self.methods)
        self.num_layers = num_layers
        self.num_heads = num_heads
        self._run: _Run | None = None
        self._last: _Run | None = None
        self._text_outputs: dict[int, Array] | None = None
        self._use = OneThread("Session")
        self._warned = False

    def __repr__(self) -> str:
        methods = ", ".join(map(repr, self.methods))
        heads = "" if self.num_heads is None else f", num_heads={self.num_heads}"
        return f"{type(self).__name__}([{methods}], num_layers={self.num_layers}{heads})"

    @contextmanager
    def generation(
        self,
        image: Array | None = None,
        *,
        prompt_len: int | None = None,
        text_only: Array | None = None,
        text_outputs: Mapping[int, Array] | None = None,
    ) -> Iterator[None]:
        """Open a generation: one prompt, in one call a layer or in chunks, then its decoding steps.

        State begins empty and ends with the block.

        Parameters
        ----------
        image : array of bool [B, P], optional
            True at the prompt's image tokens, of one or several images. None: no image. It has a
            column for each token of the prompt: in a call that goes on behind them, the rows behind
            are the answer's.
        prompt_len : int, optional
            Length P of the prompt, where it comes in chunks and there is no image mask to tell.
        text_only : array of bool [B], optional
            Rows that are the same prompts without their image, of the unmarked rows, in order.
        text_outputs : mapping of int to array [B, H, Dv], optional
            Each layer's head outputs at the last row of the same prompts without their image,
            where a run of one's own has found them and not `text_only`.

        Raises
        ------
        RuntimeError
            If a generation is open already.
        ValueError
            If arguments do not fit each other.

        Examples
        --------
        See the example of the class.
        """
        texts = self._text_outputs if text_outputs is None else text_outputs
        run = _Run(Prompt(prompt_len, image, text_only, texts))
        self._open(run)
        if not self.cross_layers:
            self._warned = self._warned or warn_without_image(self.methods, run.prompt, 3)
        self._text_outputs = None  # used up
        if self._gatherer is not None:
            self._gatherer.begin()
        try:
            yield
        finally:
            self._last, self._run = run, None

    @contextmanager
    def text_only(self) -> Iterator[None]:
        """Open a run of the same prompt without its image, before `generation`.

        Attention is plain; each layer's head outputs at the last row are kept for the next
        generation, which uses them up.

        Raises
        ------
        RuntimeError
            If a generation is open already.

        Examples
        --------
        >>> from reattend.methods import VHR
        >>> session = Session(VHR(), num_layers=2)
        >>> query, key, value = np.ones((3, 1, 2, 6, 8), dtype=np.float32)
        >>> with session.text_only():
        ...     for layer in range(2):
        ...         out = session.attend(layer, query, key, value)
        """
        run = _Run(Prompt(), text_outputs={})
        self._open(run)
        self._text_outputs = None
        try:
            yield
            self._text_outputs = run.text_outputs
        finally:
            self._run = None

    def attend(
        self,
        layer: int,
        query: Array,
        key: Array,
        value: Array,
        *,
        hidden_states: Array | None = None,
        causal: bool = True,
        key_mask: Array | None = None,
        scale: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
        bias: Array | None = None,
        out: Array | None = None,
        dtype: str | None = None,
        num_threads: int | None = None,
    ) -> Array:
        """Compute attention of one layer as the methods want it.

        Parameters
        ----------
        layer : int
            The layer, from 0.
        query, key, value, causal, key_mask, scale, window, softcap, bias, out, dtype, num_threads
            As for `reattend.attention`; keys are all those since the prompt began.
        hidden_states : array [B, N, C], optional
            States that enter the layer, before its norm. VAR needs them while the prompt is read.
            In a layer of cross-attention [B, M, C], the states that its keys are made of. There
            rows see all keys, but for those that `key_mask` or `bias` hides: `causal` means
            nothing, `window` must be None, and keys are the same in all calls.

        Returns
        -------
        array [B, H, N, Dv]

        Raises
        ------
        RuntimeError
            Outside `generation` and `text_only`, or while another thread is in a method of this
            session: a session belongs to one thread at a time.
        TypeError, ValueError
            Naming the argument, what was expected and what came.

        Examples
        --------
        See the example of the class.
        """
        leave = self._use.enter()  # what `alone` does, without passing on keywords
        try:
            return self._attend(
                layer, query, key, value, hidden_states, causal, key_mask, scale, window, softcap,
                bias, out, dtype, num_threads,
            )  # fmt: skip
        finally:
            leave()

    def _attend(
        self,
        layer: int,
        query: Array,
        key: Array,
        value: Array,
        hidden_states: Array | None,
        causal: bool,
        key_mask: Array | None,
        scale: float | None,
        window: int | None,
        softcap: float | None,
        bias: Array | None,
        out: Array | None,
        dtype: str | None,
        num_threads: int | None,
    ) -> Array:
        run = self._run
        if run is None:
            raise RuntimeError("attend() must be called inside session.generation(...)")
        if not type(query) is type(key) is type(value) is np.ndarray:
            query, key = array_or_stored("query", query), array_or_stored("key", key)
            value = array_or_stored("value", value)
        if key_mask is not None and type(key_mask) is not np.ndarray:
            key_mask = as_array("key_mask", key_mask)
        if hidden_states is not None and type(hidden_states) is not np.ndarray:
            hidden_states = numbers("hidden_states", hidden_states, "[B, N, C]")
        cross = bool(self.cross_layers) and integer("layer", layer) in self.cross_layers
        if cross:
            causal = self._check_cross(run, layer, key, window)
        edits_nothing = (
            scale is None and key_mask is None and bias is None and window is None
            and softcap is None and dtype is None
        )  # fmt: skip
        mask = (
            CAUSAL if edits_nothing and causal is True
            else MaskSpec(scale, causal, key_mask, bias, window, softcap, dtype)
        )  # fmt: skip
        if mask is not CAUSAL and (
            type(causal) is not bool
            or (scale is not None and type(scale) is not float)
            or (window is not None and type(window) is not int)
            or (softcap is not None and type(softcap) is not float)
            or (dtype is not None and (type(dtype) is not str or dtype not in DTYPES))
        ):
            mask = scalars(mask)  # methods read them before the core does
        asked = PLAIN if out is None else Request(out=out)
        first = run.seen.get(layer, 0) if cross else None
        self._check(run, layer, query, key, hidden_states, key_mask, first)
        end = key.shape[2] if first is None else first + query.shape[2]
        if run.text_outputs is not None:
            result: Any = attend(query, key, value, mask, asked, num_threads)
            store_last_rows(
                run.text_outputs, layer, result, key_mask, key.shape[2] - query.shape[2], dtype
            )
            run.seen[layer] = end
            return np.asarray(result)
        if run.prompt.length is None:  # the first call tells the prompt's length
            run.prompt = replace(run.prompt, length=end)
        steady = self._going_on(run, layer, query.shape[2], key.shape[2], mask)
        if steady is None:
            call = Call(
                layer, self.num_layers, query, key, value, run.prompt, mask, hidden_states,
                num_threads, out, cross_row=first, confidence=run.confidence,
            )  # fmt: skip
            steady = self._following_the_prompt(run, call)
            if steady is None:
                return self._asked(run, call, end, asked)
        plan, tally = steady.plan, steady.tally
        edited: tuple[Array | None, ...]
        if steady.read is not None and tally is not None:
            products = products_of(query, key, mask, num_threads)
            plan, transform, edited = steady.read.planned(products, mask, query.shape[3])
            request = Request(
                None, plan.policies, plan.wheres, transform, None, "masses", out, products=products
            )
            found = attend(query, key, value, mask, request, num_threads)
            result = found[0]
            tally.add_rows(steady.places, plan, found[1], edited)
        elif plan is None or tally is None:
            result = attend(query, key, value, mask, asked, num_threads)
        else:
            followed = steady.followed
            request = plan.of_step if followed is None else followed.request
            request = request if out is None else request._replace(out=out)
            found = attend(query, key, value, mask, request, num_threads)
            result = found[0]
            if followed is not None and self._watched:
                call = Call(
                    layer, self.num_layers, query, key, value, run.prompt, mask, hidden_states,
                    num_threads, out, confidence=run.confidence,
                )  # fmt: skip
                self._show(run, call, np.asarray(result))
            edited = ()
            if plan.beside_policies:
                plan.finish(result, dtype)
                edited = plan.edited_rows(end - query.shape[2], end)
            tally.add_rows(steady.places, plan, found[1], edited)
        run.seen[layer], run.keys[layer], run.batch = end, key.shape[2], query.shape[0]
        return np.asarray(result)

    @alone
    def note_confidence(self, confidence: Array) -> None:
        """Tell methods how sure the model was of each item's latest token.

        Methods whose strength depends on it read it in the calls that follow, as
        `Call.confidence`; `reattend.decoding.Confidence` calls this inside ``generate``.

        Parameters
        ----------
        confidence : array [B]
            The largest probability of what came next, from 0 to 1.

        Raises
        ------
        RuntimeError
            Outside `generation`.
        TypeError, ValueError
            If it is no such number for each item.

        Examples
        --------
        >>> session = Session([], num_layers=2)
        >>> with session.generation():
        ...     session.note_confidence(np.array([0.9, 0.2]))
        """
        run = self._run
        if run is None or run.text_outputs is not None:
            raise RuntimeError("note_confidence() must be called inside session.generation(...)")
        given = numbers("confidence", confidence, "[B]").astype(np.float64)
        if not ((given >= 0) & (given <= 1)).all():
            raise ValueError(f"confidence must be from 0 to 1, got {given.tolist()}")
        if run.batch is not None and len(given) != run.batch:
            raise ValueError(
                f"confidence must have one number for each of {run.batch} items, got {len(given)}"
            )
        run.confidence = given

    @alone
    def reorder(self, indices: Array) -> None:
        """Reorder the batch, as beam search does: item b becomes what item ``indices[b]`` was.

        Parameters
        ----------
        indices : array of int
            One index into the batch for each item; the batch may grow or shrink.

        Raises
        ------
        RuntimeError
            Outside `generation`.
        TypeError
            If they are no integers.
        ValueError
            If they are no items of the batch.

        Examples
        --------
        >>> session = Session([], num_layers=2)
        >>> with session.generation():
        ...     session.reorder(np.array([1, 0, 0]))
        """
        run = self._run
        if run is None or run.text_outputs is not None:
            raise RuntimeError("reorder() must be called inside session.generation(...)")
        indices = items("indices", indices, run.batch)
        run.batch = len(indices) if run.batch is not None else None
        for layer in run.steady:
            _keep_followed(run, layer)
        run.states = {place: taken(state, indices) for place, state in run.states.items()}
        run.composed.clear()
        run.steady.clear()
        run.confidence = taken(run.confidence, indices)
        if self._gatherer is not None:
            self._gatherer.reorder(indices)
        prompt = run.prompt
        run.prompt = Prompt(
            prompt.length, *taken((prompt.image, prompt.text_only, prompt.text_outputs), indices)
        )

    @alone
    def report(self) -> Report:
        """Say what the methods did in the open generation, or in the last one.

        Returns
        -------
        Report
            Its ``readings`` are data; printed, it is a table.

        Examples
        --------
        >>> print(Session([], num_layers=2).report())
        No layer was changed.
        """
        run = self._run if self._run is not None and self._run.text_outputs is None else self._last
        if run is None:
            return Report((), {})
        for layer in run.steady:
            _keep_followed(run, layer)
        readings, shares = [], {}
        sums = {layer: tally.fold() for layer, tally in run.tallies.items()}
        for layer, tally in run.tallies.items():
            shares[layer] = tally.prompt_changed / max(tally.prompt_rows, 1)
        for (place, layer), state in sorted(run.states.items(), key=lambda item: item[0][::-1]):
            method, added = self.methods[place], sums.get(layer, {}).get(place)
            found = method.readings(state)
            if added is None and not found:
                continue
            readings.append(reading(layer, method, added, found))
        return Report(tuple(readings), shares, self._recorded())

    def _repr_html_(self) -> str:
        """Give what a notebook shows: what the methods did."""
        return self.report()._repr_html_()

    def describe(self) -> list[str]:
        """Say in a few clauses what each method did in the open generation, or in the last one.

        Returns
        -------
        list of str
            Of each method in turn, see `Method.describe`.

        Examples
        --------
        >>> Session([], num_layers=2).describe()
        []
        """
        readings = self.report().readings
        return [
            clause
            for method in self.methods
            for clause in method.describe(
                [each for each in readings if each.method == type(method).__name__],
                self.num_layers,
            )
        ]

    @alone
    def _open(self, run: _Run) -> None:
        if self._run is not None:
            raise RuntimeError("a generation is open already: end it before another one begins")
        self._run = run

    def _check(
        self,
        run: _Run,
        layer: int,
        query: Array,
        key: Array,
        hidden_states: Array | None,
        key_mask: Array | None,
        cross_row: int | None,
    ) -> None:
        """Check what methods read before attention() checks the rest."""
        if type(layer) is not int:
            layer = integer("layer", layer)
        if not 0 <= layer < self.num_layers:
            raise ValueError(f"layer must be from 0 to {self.num_layers - 1}, got {layer}")
        shape, key_shape = query.shape, key.shape
        own = cross_row is None  # keys are the rows' own past
        if len(shape) != 4 or len(key_shape) != 4 or (own and shape[2] > key_shape[2]):
            raise ValueError(
                "query and key must be [B, H, N, D] and [B, H_kv, M, D] with N <= M, "
                f"got shapes {shape} and {key_shape}"
            )
        if self.num_heads is not None and shape[1] != self.num_heads:
            raise ValueError(f"query must have {self.num_heads} heads, got {shape[1]}")
        first_row, seen = key_shape[2] - shape[2], run.seen.get(layer, 0)
        if own and first_row < seen:
            raise ValueError(
                f"layer {layer}: rows before {seen} were seen already, got rows from {first_row}; "
                "a generation cannot go back, open a new one"
            )
        batch = run.prompt.batch
        if batch is not None and batch != shape[0]:
            raise ValueError(
                f"query must have the batch size of the prompt, {batch}, got {shape[0]}"
            )
        of, name = (shape, "[B, N, C] with query's B, N") if own else (
            key_shape, "[B, M, C] with key's B, M"
        )  # fmt: skip
        if hidden_states is not None and (
            hidden_states.ndim != 3 or hidden_states.shape[:2] != of[::2]
        ):
            raise ValueError(
                f"hidden_states must be {name} = {of[::2]}, got shape {hidden_states.shape}"
            )
        if key_mask is not None and (
            key_mask.dtype != bool or key_mask.shape != (key.shape[0], key.shape[2])
        ):
            raise ValueError(
                f"key_mask must be bool [B, M] of key = {(key.shape[0], key.shape[2])}, "
                f"got {key_mask.dtype} {key_mask.shape}"
            )

    @staticmethod
    def _check_cross(run: _Run, layer: int, key: Array, window: int | None) -> bool:
        """Check what is of cross-attention only; gives whether rows see earlier keys alone."""
        if run.text_outputs is not None:
            raise ValueError(
                f"layer {layer} is of cross-attention, which a prompt without its image has not: "
                "leave it out of the text-only run"
            )
        if window is not None:
            raise ValueError(
                f"window must be None in layer {layer}, which is of cross-attention, got {window}"
            )
        count = key.shape[2] if len(key.shape) == 4 else 0
        if run.keys.get(layer, count) != count:
            raise ValueError(
                f"layer {layer}: keys of cross-attention must be the same in all calls of a "
                f"generation, {run.keys[layer]}, got {count}"
            )
        return False

    def _plans(self, run: _Run, call: Call) -> tuple[list[Plan], list[int], list[Any]]:
        """Give the plans of a call, whose they are, and each method's next state."""
        plans: list[Plan] = []
        places, states = [], []
        call.computed.plans, call.computed.alone = plans, len(self.methods) == 1
        for place, method in enumerate(self.methods):
            plan, state = planned(method, call, run.states.get((place, call.layer)))
            states.append(state)
            if plan is not None:
                plans.append(plan)
                places.append(place)
        call.computed.plans = ()  # whoever looks on sees attention without them
        return plans, places, states

    def _keep(self, run: _Run, call: Call, states: Sequence[Any], end: int, result: Array) -> None:
        """Keep what a call leaves behind, once nothing can fail any more."""
        self._show(run, call, result)
        for place, state in enumerate(states):
            run.states[place, call.layer] = state
        run.seen[call.layer], run.keys[call.layer], run.batch = end, call.key_len, call.batch

    def _show(self, run: _Run, call: Call, result: Array) -> None:
        """Let those who look on see a call, before the states of its methods are kept."""
        call.computed.settled = True
        if self._recorder is not None:
            self._recorder.note(call)
        if self._gatherer is not None:
            self._gatherer.note(call, result)

    @property
    def _watched(self) -> bool:
        """Whether somebody is to see each call."""
        return bool(self._observed or self._recorder or self._gatherer)

    def _going_on(
        self, run: _Run, layer: int, rows: int, key_len: int, mask: MaskSpec
    ) -> _Steady | None:
        """Give what the step before did, if this one does the same; None: methods are asked."""
        if not self.methods:
            return None if self._watched else _PLAIN
        steady = run.steady.get(layer)
        if steady is None or steady.followed is None:
            if self._watched:
                return None
            if (
                steady is not None
                and steady.read is not None
                and not steady.read.serves(rows, mask)
            ):
                del run.steady[layer]
                return None
            return steady
        serves = steady.followed.serves(rows, key_len, mask)
        if self._observed or not serves:
            _keep_followed(run, layer)
        if not serves:
            del run.steady[layer]
            return None
        return steady

    def _asked(self, run: _Run, call: Call, end: int, asked: Request) -> Array:
        """Ask the methods for their plans, and carry them out."""
        plans, places, states = self._plans(run, call)
        if plans:
            result: Any = self._intervene(run, call, tuple(plans), tuple(places))
        elif call.computed.plain is not None:
            result = call.computed.plain.out
        else:
            asked = call.computed.known_to(asked)
            result = attend(call.query, call.key, call.value, call.mask, asked, call.num_threads)
        out: Array = np.asarray(result)
        self._keep(run, call, states, end, out)
        steady = None if call.prefill else self._steady_after(run, call, plans, places, states)
        if steady is not None:
            run.steady[call.layer] = steady
        return out

    def _following_the_prompt(self, run: _Run, call: Call) -> _Steady | None:
        """Give what the first step does if that follows from what the prompt's keys received."""
        if call.first_row != call.num_prompt or len(self.methods) != 1:
            return None
        steady = self._steady_after(run, call, [], [], [run.states.get((0, call.layer))])
        if steady is None or steady.followed is None:
            return None
        run.steady[call.layer] = steady
        return self._going_on(run, call.layer, call.query.shape[2], call.key_len, call.mask)

    def _steady_after(
        self, run: _Run, call: Call, plans: list[Plan], places: list[int], states: list[Any]
    ) -> _Steady | None:
        """Give what all steps behind this one do; None where methods are to be asked again."""
        if call.query.shape[2] != 1:
            return None  # its rows may be marked one by one; those of one row serve any number
        ways = [
            method.goes_on(call, state) for method, state in zip(self.methods, states, strict=True)
        ]
        composed = run.composed[call.layer] if plans else None
        if not all(ways) or (composed is not None and composed.heads_from is not None):
            return None
        readers = [place for place, way in enumerate(ways) if isinstance(way, RowRule)]
        if readers:
            if len(readers) > 1 or not set(places) <= set(readers):
                return None
            rule = ways[readers[0]]
            assert isinstance(rule, RowRule)
            tally = run.tally(call.layer)
            return _Steady(None, tuple(readers), tally=tally, read=ReadSteps(rule))
        followers = [place for place, way in enumerate(ways) if isinstance(way, ColumnRule)]
        if not followers and composed is None:
            return _PLAIN
        if not followers:
            return _Steady(composed, tuple(places), tally=run.tally(call.layer))
        if len(followers) > 1:
            return None
        follower, rule = followers[0], ways[followers[0]]
        assert isinstance(rule, ColumnRule)
        by_place = dict(zip(places, plans, strict=True)) | {follower: Plan(None, rule.policy)}
        places = sorted(by_place)
        plan = compose_with_columns([by_place[each] for each in places], places.index(follower))
        if plan is None:
            return None
        followed = FollowedSteps(plan, rule)
        return _Steady(plan, tuple(places), followed, follower, run.tally(call.layer))

    def _intervene(
        self, run: _Run, call: Call, plans: tuple[Plan, ...], places: tuple[int, ...]
    ) -> Array:
        plan = run.composed.get(call.layer)
        if plan is None or plan.plans != plans:  # mostly they are the very same
            plan = compose(plans, plan)
            run.composed[call.layer] = plan
        result = self._carry_out(call, plan)
        plan.finish(result.out, call.mask.dtype)
        tally = run.tally(call.layer)
        edited = plan.edited_rows(call.first_row, call.first_row + call.query.shape[2])
        if call.prefill:
            known = call.key_mask is not None and not call.cross
            valid = call.key_mask[:, call.first_row :] if known else None  # type: ignore[index]
            assert result.changed is not None
            tally.add_prompt(result.changed, valid, edited)
        else:
            assert result.masses is not None
            tally.add_rows(places, plan, result.masses, edited)
        return result.out

    @staticmethod
    def _carry_out(call: Call, plan: Composition) -> AttentionResult:
        returns = "changed" if call.prefill else "masses"
        plain, ahead = call.computed.plain, call.computed.ahead
        if plain is None and ahead is not None and plan.follows_a_pass:
            if len(plan.plans) == len(ahead.plan.plans):
                return ahead.found  # what asked for the sums has no plan
            request = plan.request_behind(ahead.plan, ahead.found, returns)
        elif plain is not None and plan.follows_a_pass:
            assert plain.logsumexp is not None
            weights = plain.column_sums if call.query.shape[2] == 1 else None
            request = plan.request_after(returns, plain.out, plain.logsumexp, weights)
        elif call.prefill or call.out is not None:
            request = plan.request(returns, call.out)
        else:
            request = plan.of_step
        if request.plain is None and plan.heads_from is None:
            request = call.computed.known_to(request)
        arrays = call.query, call.key, call.value
        if plan.heads_from is not None:
            if call.mask.bias is not None and np.ndim(call.mask.bias) > 2:
                raise ValueError(
                    f"layer {call.layer}: heads that attend as others do need a bias [N, M] that "
                    f"all heads share, or none, got shape {np.shape(call.mask.bias)}"
                )
            arrays = plan.moved(*arrays)
        found: AttentionResult = attend(*arrays, call.mask, request, call.num_threads)
        return found
