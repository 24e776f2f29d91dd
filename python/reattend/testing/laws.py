"""The laws that every method obeys, as tests: for this package's methods and for your own.

.. code-block:: python

    from reattend.testing import parametrize_with_checks

    @parametrize_with_checks([MyMethod()])
    def test_my_method(method, check):
        check(method)
"""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest import SkipTest

import numpy as np

from reattend import reference
from reattend.method import Method, paper
from reattend.optional import MissingPackageError
from reattend.plan import compose
from reattend.policy import Array
from reattend.row_scope import PHASES, ROWS
from reattend.session import Session
from reattend.testing.sample import Inputs, Recorder, run, sample

TOLERANCE = 2e-5  # float32 attention over some tens of keys against float64
SAME_BYTES = 0.0  # the pass does the same sums for an item, whatever the batch and the threads are
PARTS = 2e-6  # a row of segments is summed by these, whatever its factors are
PADDING = 2e-6  # padding shifts the borders of the tiles, and with them the order of the sums


__all__ = ["Case", "checks", "parametrize_with_checks"]


@dataclass(frozen=True)
class Case:
    """A method and what it promises; a bare method promises only what every method must.

    Parameters
    ----------
    method : Method
        Set up so that it acts on the inputs.
    neutral : Method, optional
        Set up so that it changes nothing.
    conserves : bool, optional
        Whether rows of attention keep the sum 1.
    idle : bool, optional
        Whether it leaves a prompt alone that has neither image nor sinks.
    one_pass : bool, optional
        Whether prompt and answer in one call give what prompt, then steps, give.
    chunks : bool, optional
        Whether the prompt may be read in chunks, with equal results.
    facts : tuple of str, optional
        Fields that only the model can tell, so that they have no default.
    inputs : callable, optional
        seed -> `Inputs` to run on; `sample` by default.

    Examples
    --------
    >>> from reattend.methods import VHR
    >>> Case(VHR(), neutral=VHR(alpha=1), idle=True).name
    'VHR'
    """

    method: Method
    neutral: Method | None = None
    conserves: bool = False
    idle: bool = False
    one_pass: bool = False
    chunks: bool = False
    facts: tuple[str, ...] = ()
    inputs: Callable[[int], Inputs] = sample

    @property
    def name(self) -> str:
        """The method's name."""
        return type(self.method).__name__


Check = Callable[["Case | Method"], None]
_laws: list[Check] = []


def checks() -> tuple[Check, ...]:
    """Give the laws: functions of a method or a `Case`, AssertionError where it breaks one.

    A law that does not apply raises `unittest.SkipTest`.

    Examples
    --------
    >>> [check.__name__ for check in checks()][:2]
    ['acts_on_the_inputs', 'equals_the_reference']
    """
    return tuple(_laws)


def parametrize_with_checks(methods: Sequence[Case | Method]) -> Any:
    """Decorate a test with every law for every method; it calls ``check(method)``.

    Parameters
    ----------
    methods : sequence of Method or Case
        Methods, or cases that say more of what they promise.

    Returns
    -------
    pytest decorator
        For a test with arguments ``method`` and ``check``.

    Examples
    --------
    >>> from reattend.methods import ACT
    >>> @parametrize_with_checks([ACT()])
    ... def test_laws(method, check):
    ...     check(method)
    """
    pytest = _pytest()
    cases = [method if isinstance(method, Case) else Case(method) for method in methods]
    return pytest.mark.parametrize(
        ("method", "check"),
        [pytest.param(c, check, id=f"{c.name}-{check.__name__}") for c in cases for check in _laws],
    )


def _law(check: Callable[[Case], None]) -> Check:
    def law(method: Case | Method) -> None:
        case = method if isinstance(method, Case) else Case(method)
        _require(
            isinstance(case.method, Method),
            f"must be made from a class derived from reattend.Method, got {case.method!r}",
        )
        try:
            check(case)
        except (AssertionError, SkipTest):
            raise
        except Exception as error:  # whatever a method of others raises
            what = (check.__doc__ or "").splitlines()[0].rstrip(".")
            raise AssertionError(
                f"{case.name} fails where this is checked: {what}: {type(error).__name__}: {error}"
            ) from error

    law.__name__ = law.__qualname__ = check.__name__.lstrip("_")
    law.__doc__ = check.__doc__
    _laws.append(law)
    return law


def _pytest() -> Any:
    try:
        import pytest
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "pytest is not installed; install it by: pip install pytest, or call each function of "
            "reattend.testing.checks() with the method"
        ) from error
    return pytest


def _fields(method: Any) -> Sequence[Any]:
    _require(dataclasses.is_dataclass(method), "must be a dataclass: @dataclass(frozen=True)")
    return dataclasses.fields(method)


def _close(actual: Array, expected: Array, tolerance: float, law: str) -> None:
    difference = float(np.max(np.abs(actual - expected), initial=0))
    if not difference <= tolerance:
        raise AssertionError(f"{law}: differs by {difference:.3g}, allowed are {tolerance:.3g}")


def _require(holds: Any, law: str) -> None:
    if not holds:
        raise AssertionError(law)


@_law
def _acts_on_the_inputs(case: Case) -> None:
    """On the inputs it changes something, or the other laws say nothing."""
    inputs = case.inputs(0)
    changed = (run(case.method, inputs) != run((), inputs)).any()
    _require(changed, f"{case.name} changes nothing here: give Case(inputs=...) on which it acts")


@_law
def _equals_the_reference(case: Case) -> None:
    """Each call gives what the full matrix gives under its plan."""
    inputs, recorder = case.inputs(0), Recorder(case.method)
    out = run(recorder, inputs)
    plans = iter(recorder.plans)
    cuts = [0, *range(inputs.prompt_len, inputs.length + 1)]
    for start, end in pairwise(cuts):
        for layer, (query, key, value, _) in enumerate(inputs.layers()):
            plan = next(plans)
            what: dict[str, Any] = {}
            arrays = query[:, :, start:end], key[:, :, :end], value[:, :, :end]
            if plan is not None:
                both = compose([plan])
                what = {"segments": both.segments, "policy": both.policies, "where": both.wheres}
                what |= both.edits
                what |= {"heads_from": both.heads_from, "epilogue": both.epilogue}
            expected = reference.attention(*arrays, causal=True, **what)
            message = f"layer {layer}, rows {start} to {end - 1} against the reference"
            _close(out[layer][:, :, start:end], np.asarray(expected), TOLERANCE, message)


@_law
def _neutral_equals_plain(case: Case) -> None:
    """At its neutral setting it is plain attention."""
    if case.neutral is None:
        raise SkipTest("has no neutral setting")
    inputs = case.inputs(0)
    _close(run(case.neutral, inputs), run((), inputs), TOLERANCE, "neutral setting against plain")


@_law
def _nothing_to_do_is_plain(case: Case) -> None:
    """Without image and sinks it gives the bytes of plain attention."""
    if not case.idle:
        raise SkipTest("acts on any prompt")
    quiet = case.inputs(0).quiet()
    _require(
        np.array_equal(run(case.method, quiet), run((), quiet)),
        "without image and sinks the bytes of plain attention are expected",
    )


@_law
def _rows_keep_their_sum(case: Case) -> None:
    """Rows of attention sum to 1, as far as it says so."""
    if not case.conserves:
        raise SkipTest("does not conserve row sums")
    inputs = case.inputs(0)
    ones = dataclasses.replace(inputs, value=np.ones_like(inputs.value))
    _close(run(case.method, ones), np.ones_like(inputs.query[..., :1]), TOLERANCE, "row sums")


@_law
def _prompt_and_steps_equal_one_pass(case: Case) -> None:
    """The prompt and then its steps give what one call over both gives, where it says so."""
    if not case.one_pass:
        raise SkipTest("a step differs from the row of a longer prompt")
    inputs = case.inputs(0)
    _close(
        run(case.method, inputs), run(case.method, inputs, one_pass=True), TOLERANCE,
        "prompt and steps against one pass",
    )  # fmt: skip


@_law
def _chunks_equal_one_prefill(case: Case) -> None:
    """A prompt in chunks gives what it gives at once, where it says so."""
    if not case.chunks:
        raise SkipTest("needs the prompt at once")
    inputs = case.inputs(0)
    for cuts in ((1, 5), (inputs.prompt_len // 2,), (7, inputs.prompt_len - 1)):
        chunked = run(case.method, inputs, chunks=cuts)
        _close(chunked, run(case.method, inputs), TOLERANCE, f"prompt cut at {cuts} against whole")


@_law
def _rows_outside_its_scope_are_plain(case: Case) -> None:
    """With other words for its rows, it leaves the rows that they do not name as they are."""
    fields = {each.name for each in _fields(case.method)}
    words = [("rows", each) for each in ROWS] + [("phase", each) for each in PHASES]
    words = [(name, word) for name, word in words if name in fields]
    if not words:
        raise SkipTest("has no words for its rows")
    inputs = case.inputs(0)
    own: Any = case.method  # a dataclass, as its fields say
    plain, whole = run((), inputs), run(own, inputs)
    for name, word in words:
        try:
            method = dataclasses.replace(own, **{name: word})
        except ValueError:  # it says that it cannot be for these
            continue
        both = {"rows": "last", "phase": "both"}  # where a method has no word for it
        both |= {each: getattr(method, each) for each in ("rows", "phase") if each in fields}
        recorder = Recorder(method)
        out = run(recorder, inputs)
        parts = any(plan is not None and plan.segments is not None for plan in recorder.plans)
        named = inputs.in_scope(**both)[:, None]  # [B, 1, T]
        what = f"rows that {name}={word!r} does not name, against plain"
        outside = np.where(named[..., None], plain, out)
        _close(outside, plain, PARTS if parts else SAME_BYTES, what)
        if method == own:
            _close(out, whole, SAME_BYTES, f"{name}={word!r}, its own, against not giving it")


@_law
def _batch_equals_its_items(case: Case) -> None:
    """A batch gives each item the bytes it gets alone."""
    inputs = case.inputs(0)
    out = run(case.method, inputs)
    for item in range(inputs.batch):
        alone = run(case.method, inputs.take(np.array([item])))
        _close(out[:, item : item + 1], alone, SAME_BYTES, f"item {item} in a batch against alone")


@_law
def _left_padding_changes_nothing(case: Case) -> None:
    """Padding at the left, as a batch of unequal prompts has it, changes no row."""
    inputs = case.inputs(0)
    padded = inputs.pad_left(5)
    out = run(case.method, padded)[..., 5:, :]
    _close(out, run(case.method, inputs), PADDING, "left-padded against not")


@_law
def _unequal_padding_equals_the_items(case: Case) -> None:
    """Items with padding of their own give what they give alone."""
    inputs = case.inputs(0)
    drop = np.arange(inputs.batch) % 3  # the first rows become padding
    masked = dataclasses.replace(
        inputs, key_mask=np.arange(inputs.length) >= drop[:, None], text=inputs.text
    )
    out = run(case.method, masked)
    for item, start in enumerate(drop):
        alone = run(case.method, inputs.take(np.array([item])).cut_left(int(start)))
        _close(out[:, item : item + 1, :, start:], alone, PADDING, f"item {item} padded by {start}")


@_law
def _state_follows_reorder(case: Case) -> None:
    """When beam search reorders the batch, state goes with it."""
    inputs = case.inputs(0)
    order = np.arange(inputs.batch)[::-1].copy()
    out = run(case.method, inputs, reorder=order)
    _close(out, run(case.method, inputs)[:, order], SAME_BYTES, "reordered against not")
    wider = np.repeat(order, 2)
    out = run(case.method, inputs, reorder=wider)
    _close(out, run(case.method, inputs)[:, wider], SAME_BYTES, "each item twice against once")


@_law
def _steady_plans_stay(case: Case) -> None:
    """Where the plan of the first step is said to be that of all steps, it is."""
    method = case.method
    if not (method.steady or type(method).goes_on is not Method.goes_on):
        raise SkipTest("plans each step anew")
    inputs = case.inputs(0)
    asked = run(Recorder(method), inputs)  # in every step
    tolerance = SAME_BYTES if method.steady else TOLERANCE  # a rule's means are summed otherwise
    _close(run(method, inputs), asked, tolerance, "the first step's plan against each one's")


@_law
def _threads_change_nothing(case: Case) -> None:
    """One thread and two give the same bytes."""
    inputs = case.inputs(0)
    one = run(case.method, inputs, num_threads=1)
    _close(run(case.method, inputs, num_threads=2), one, SAME_BYTES, "two threads against one")


@_law
def _nothing_stays_behind(case: Case) -> None:
    """A second generation of a session gives the bytes of the first: state ends with it."""
    inputs = case.inputs(0)
    session = Session(case.method, num_layers=len(inputs.query))
    first = run(case.method, inputs, session=session)
    run(case.method, case.inputs(1), session=session)
    again = run(case.method, inputs, session=session)
    _require(np.array_equal(first, again), "a generation depends on the ones before it")


@_law
def _inputs_stay_as_they_are(case: Case) -> None:
    """It writes to none of its inputs."""
    inputs = case.inputs(0)
    before = pickle.dumps(inputs)
    run(case.method, inputs)
    _require(pickle.dumps(inputs) == before, "inputs were written to")


@_law
def _strides_do_not_matter(case: Case) -> None:
    """Arrays of other strides give the same bytes."""
    inputs = case.inputs(0)
    out = run(case.method, inputs.strided())
    _close(out, run(case.method, inputs), SAME_BYTES, "strided arrays against contiguous")


@_law
def _output_has_the_type_of_query(case: Case) -> None:
    """The output has the query's type and rows, and the value's head size."""
    inputs = case.inputs(0)
    out = run(case.method, inputs)
    _require(out.dtype == inputs.query.dtype, f"output is {out.dtype}, not {inputs.query.dtype}")
    shape = (*inputs.query.shape[:-1], inputs.value.shape[-1])
    _require(out.shape == shape, f"output has shape {out.shape}, not {shape}")


@_law
def _is_frozen(case: Case) -> None:
    """It is a frozen dataclass: it keeps nothing between calls."""
    _require(dataclasses.is_dataclass(case.method), "must be a dataclass")
    frozen: Any = getattr(type(case.method), "__dataclass_params__", None)
    _require(frozen is not None and frozen.frozen, "must be frozen: @dataclass(frozen=True)")


@_law
def _is_printable(case: Case) -> None:
    """Printed, it shows its name and its fields."""
    text = repr(case.method)
    for item in _fields(case.method):
        _require(f"{item.name}=" in text, f"repr must show {item.name}, got {text}")
    _require(text.startswith(case.name), f"repr must begin with its name, got {text}")


@_law
def _is_picklable(case: Case) -> None:
    """A pickled copy is equal, and does the same."""
    run(case.method, case.inputs(0))  # what it may have cached must be picklable too
    copy = pickle.loads(pickle.dumps(case.method))
    _require(copy == case.method, "a pickled copy must be equal")
    _require(hash(copy) == hash(case.method), "a pickled copy must have the same hash")


@_law
def _is_default_constructible(case: Case) -> None:
    """Its parameters have defaults, but for the model's facts."""
    facts = {name: getattr(case.method, name) for name in case.facts}
    _require(isinstance(type(case.method)(**facts), Method), "must be made without arguments")


@_law
def _names_its_paper(case: Case) -> None:
    """Its docstring says in one sentence what it does, and names the paper."""
    sentence = (type(case.method).__doc__ or "").strip().splitlines()[:1]
    _require(sentence and sentence[0].endswith("."), "docstring must begin with one sentence")
    _require(paper(type(case.method)), "docstring must have a line 'Paper: ...'")


@_law
def _documents_its_fields(case: Case) -> None:
    """Each field has a comment beside it, or an entry in the docstring."""
    method = type(case.method)
    try:
        source = inspect.getsource(method)
    except (OSError, TypeError) as error:  # it was written in a notebook, or at a prompt
        raise SkipTest("its source cannot be read here") from error
    for item in _fields(case.method):
        comment = re.search(rf"^ +{item.name}:.*#", source, re.MULTILINE)
        entry = re.search(rf"^ *{item.name} : ", method.__doc__ or "", re.MULTILINE)
        _require(comment or entry, f"field {item.name} must have a comment that says what it is")
