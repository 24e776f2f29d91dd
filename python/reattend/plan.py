"""Plans: what a method asks of one attention call, as data; and how several plans become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from reattend.border.dtypes import to_float32, write
from reattend.border.prefixed import Prefixed
from reattend.border.quantized import Stored
from reattend.border.request import PassAhead, Request
from reattend.border.results import AttentionResult
from reattend.checks import as_array, count, integers, items, marks, numbers
from reattend.epilogue import Epilogue, for_rows
from reattend.policy import KEEP, MAX_SEGMENTS, Array, Policy, Reweight, Share
from reattend.row_scope import check_scope
from reattend.transform import Transform

__all__ = ["Composition", "Plan", "compose", "compose_with_columns", "taken"]

_NEVER = np.iinfo(np.int64).max  # after every row, of this call and of all that use its plan again


@dataclass(frozen=True, eq=False)
class Composition:
    """Several plans as one: what `attention` takes, and what each part was to each plan."""

    segments: Array | None  # uint8 [B, 1 or H, M'], the common refinement
    policies: tuple[Policy, ...]
    wheres: tuple[Array | None, ...]
    labels: tuple[Array, ...]  # of each plan, int [G]: the label it gave to each common part
    plans: tuple[Plan, ...]  # what was composed
    transform: Transform | None = None
    null_logit: Array | None = None
    heads_from: Array | None = None
    epilogue: Epilogue | None = None

    def moved(self, query: Array, key: Array, value: Array) -> tuple[Array, Array, Array]:
        """Give each head the query and key of the head that it attends as; others if all their own.

        Keys and values then have a head for each of the query's.
        """
        if self.heads_from is None:
            return query, key, value
        heads, group = query.shape[1], query.shape[1] // key.shape[1]
        if self.heads_from.shape[0] not in (1, len(query)) or self.heads_from.shape[1] != heads:
            raise ValueError(
                f"heads_from must be [B, H] = {(len(query), heads)}, got {self.heads_from.shape}"
            )
        if self.heads_from.max(initial=0) >= heads:
            raise ValueError(f"heads_from must hold heads below {heads}, got {self.heads_from}")
        chosen = np.broadcast_to(self.heads_from, (len(query), heads))
        key = to_float32(key) if isinstance(key, Stored | Prefixed) else key
        value = to_float32(value) if isinstance(value, Stored | Prefixed) else value
        items = np.arange(len(query))[:, None]
        return query[items, chosen], key[items, chosen // group], np.repeat(value, group, axis=1)

    def finish(self, outputs: Array, dtype: str | None = None) -> None:
        """Let the epilogue change outputs, which are written to."""
        if self.epilogue is None:
            return
        place = next(i for i, plan in enumerate(self.plans) if plan.epilogue is self.epilogue)
        where, epilogue = self.wheres[place], self.epilogue
        if where is not None and where.ndim and where.shape[-1] == outputs.shape[2] > 1:
            marked = np.flatnonzero(where.any(tuple(range(where.ndim - 1))))
            if not len(marked):
                return
            some = slice(int(marked[0]), int(marked[-1]) + 1)  # of a prompt often the last alone
            where, epilogue = where[..., some], for_rows(epilogue, outputs.shape, some)
            outputs = outputs[:, :, some]
        narrow = outputs.dtype != np.float64
        numbers = to_float32(outputs, dtype) if narrow else outputs
        changed = epilogue(numbers, where)
        write(changed.astype(np.float32) if narrow else changed, outputs, dtype)

    def request(self, returns: str | tuple[str, ...], out: Array | None = None) -> Request:
        """Give what is asked of the core."""
        return Request(
            self.segments, self.policies, self.wheres, self.transform, self.null_logit, returns, out
        )  # fmt: skip

    def request_after(
        self, returns: str, out: Array, logsumexp: Array, weights: Array | None
    ) -> Request:
        """Give what is asked where ``out`` holds plain attention, of one row with its weights."""
        return Request(
            self.segments, self.policies, self.wheres, None, None, returns, out, None, None, None,
            logsumexp, weights,
        )  # fmt: skip

    def request_behind(self, ahead: Composition, found: AttentionResult, returns: str) -> Request:
        """Give what is asked where ``found`` is of the first plans alone, which ``ahead`` is."""
        count = len(ahead.plans)
        own, before = (
            list(zip(*(labels.tolist() for labels in each), strict=True))
            for each in (self.labels, ahead.labels)
        )
        of = bytes(before.index(part[:count]) for part in own)
        touched = sum(1 << g for g, part in enumerate(own) if any(part[count:]))
        assert found.masses is not None
        assert found.factors is not None
        return Request(
            self.segments, self.policies, self.wheres, returns=returns, out=found.out,
            plain=found.logsumexp,
            ahead=PassAhead(count, touched, of, found.masses, found.factors),
        )  # fmt: skip

    @cached_property
    def edits_scores(self) -> bool:
        """Whether anything is done before the softmax."""
        edits = self.transform, self.null_logit, self.heads_from
        return any(edit is not None for edit in edits)

    @cached_property
    def beside_policies(self) -> bool:
        """Whether anything is done beside policies."""
        return self.edits_scores or self.epilogue is not None

    @property
    def goes_beyond(self) -> bool:
        """Whether one call of the core is not all of it."""
        return self.heads_from is not None or self.epilogue is not None

    @cached_property
    def follows_a_pass(self) -> bool:
        """Whether it can be applied to attention that was computed without it."""
        return not self.edits_scores and all(isinstance(p, Reweight) for p in self.policies)

    def edited_rows(self, first_row: int, key_len: int) -> tuple[Array | None, ...]:
        """Give, of each plan, which of some rows it edits beside its policy; empty if none does.

        Of a single row behind all that edits begin with it is the same object at every step.
        """
        if not self.beside_policies:
            return ()
        if key_len - first_row == 1 and first_row >= self._edits_begin:
            return self._edited_of_step
        rows = np.arange(first_row, key_len)
        return tuple(plan.edited_rows(rows) for plan in self.plans)

    @cached_property
    def _edits_begin(self) -> int:
        """The position from which all rows have the same edits."""
        return 0 if self.transform is None else int(self.transform.packed[2].max(initial=0))

    @cached_property
    def _edited_of_step(self) -> tuple[Array | None, ...]:
        row = np.array([self._edits_begin])
        return tuple(plan._edited(row) for plan in self.plans)

    @cached_property
    def of_step(self) -> Request:
        """What is asked in every step: the same object as long as no plan changes."""
        return self.request("masses")

    @property
    def edits(self) -> dict[str, Any]:
        """What is done before the softmax, as `attention` takes it; empty where nothing is."""
        both = {"transform": self.transform, "null_logit": self.null_logit}
        return {name: edit for name, edit in both.items() if edit is not None}

    def serves(self, plans: Sequence[Plan]) -> bool:
        """Whether plans differ from those composed in nothing but their rows.

        Parameters
        ----------
        plans : sequence of Plan
            The plans of another call.

        Examples
        --------
        >>> plan = Plan(None, Reweight(weight=(2,)))
        >>> compose([plan]).serves([Plan(None, plan.policy, np.array([True]))])
        True
        """
        return len(plans) == len(self.plans) and all(
            old.segments is new.segments and old.policy is new.policy
            for old, new in zip(self.plans, plans, strict=True)
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """Segments of keys, a policy over their masses, and the rows it is meant for; edits of scores.

    Parameters
    ----------
    segments : array of uint8 [B, 1 or H, M'], or None
        Label of each key, 0 is the rest. Keys beyond M' are in segment 0, so a plan made at the
        prompt serves every decoding step. None: all keys are one segment.
    policy : callable
        A `Reweight`, or any callable masses [B, H, N, G] -> factors [B, H, N, G].
    where : array of bool, optional
        Rows the policy is meant for, broadcastable to [B, H, N]; all of them by default.
    transform : Transform, optional
        What scores become before the softmax.
    null_logit : array that broadcasts to [B, H, N], optional
        Score of a key without a value that joins each row's denominator.
    heads_from : array of int [B or 1, H], optional
        The head whose query and key each head attends with, its values its own.
    epilogue : Epilogue, optional
        What becomes of the outputs of the rows of ``where``, at last.
    rows : {"last", "after_image", "all"}, optional
        Which rows it is for, among those of ``where``, policy and edits alike. ``"last"``: those
        that say what comes next, each item's last row of the prompt that is no padding and the
        answer's. ``"after_image"``: those behind an item's first image. A session brings a plan to
        each call's rows.
    phase : {"prefill", "decode", "both"}, optional
        Whether for rows of the prompt, for those behind it, or for either.

    Examples
    --------
    >>> labels = np.array([[[0, 1, 0, 0]]], dtype=np.uint8)
    >>> plan = Plan(labels, Reweight(weight=(1, 0.4), to=(0,)))
    >>> plan.num_segments
    2
    """

    segments: Array | None
    policy: Policy
    where: Array | None = None
    transform: Transform | None = None
    null_logit: Array | None = None
    heads_from: Array | None = None
    epilogue: Epilogue | None = None
    rows: str = "all"
    phase: str = "both"

    def __post_init__(self) -> None:
        check_scope(self.rows, self.phase)
        for name in ("segments", "where"):
            given = getattr(self, name)
            if given is not None and type(given) is not np.ndarray:
                object.__setattr__(self, name, as_array(name, given))
        if self.segments is not None and (
            self.segments.ndim != 3 or self.segments.dtype != np.uint8
        ):
            raise ValueError(
                "segments must be uint8 [B, 1 or H, M'], got "
                f"{self.segments.dtype} of shape {self.segments.shape}"
            )
        if not callable(self.policy):
            raise TypeError(f"policy must be a Reweight or a callable, got {self.policy!r}")
        if self.where is not None and (self.where.dtype != bool or self.where.ndim > 3):
            raise ValueError(
                "where must be bool and broadcast to [B, H, N], got "
                f"{self.where.dtype} of shape {self.where.shape}"
            )
        if self.transform is not None and not isinstance(self.transform, Transform):
            raise TypeError(f"transform must be a Transform, got {self.transform!r}")
        if self.null_logit is not None:
            numbers("null_logit", self.null_logit)
        if self.heads_from is not None:
            heads = integers("heads_from", self.heads_from, "[B, H]")
            if (heads < 0).any():
                raise ValueError(f"heads_from must hold heads from 0, got {heads.tolist()}")
            object.__setattr__(self, "heads_from", heads)
        if self.epilogue is not None and not isinstance(self.epilogue, Epilogue):
            raise TypeError(f"epilogue must be an Epilogue, got {self.epilogue!r}")

    @cached_property
    def everywhere(self) -> bool:
        """Whether its two words leave out no row of any call."""
        return (self.rows, self.phase) == ("all", "both")

    @cached_property
    def unscoped(self) -> Plan:
        """The same for all rows of ``where``; always the same object."""
        return self if self.everywhere else replace(self, rows="all", phase="both")

    @property
    def num_segments(self) -> int:
        """Number of segments G that the policy sees."""
        if isinstance(self.policy, Reweight):
            return self.policy.num_segments
        return (
            1 if self.segments is None or not self.segments.size else int(self.segments.max()) + 1
        )

    def edited_rows(self, rows: Array) -> Array | None:
        """Give the rows that are edited beside the policy; None if this plan has no such edit.

        Parameters
        ----------
        rows : array of int [N]
            Their positions, counted as keys.

        Examples
        --------
        >>> boost = Transform(shift=np.ones((1, 1, 4)), first_row=5)
        >>> plan = Plan(None, Reweight(weight=(1,)), transform=boost)
        >>> plan.edited_rows(np.array([4, 5])).tolist()
        [[[False, True]]]
        """
        return self._edited(integers("rows", rows, "[N]"))

    def _edited(self, rows: Array) -> Array | None:
        edited = None if self.transform is None else self.transform.reaches(rows)
        if self.null_logit is not None:
            joined = np.asarray(self.null_logit) > -np.inf
            edited = joined if edited is None else edited | joined
        if self.heads_from is not None:
            other = (self.heads_from != np.arange(self.heads_from.shape[1]))[..., None]
            edited = other if edited is None else edited | other
        if self.epilogue is not None:
            ended = np.atleast_3d(self.epilogue.changes) & np.ones(len(rows), bool)
            ended = ended if self.where is None else ended & self.where
            edited = ended if edited is None else edited | ended
        return edited

    def only(self, rows: Array, first_row: int = 0) -> Plan | None:
        """Give the plan for some of a call's rows, whatever its words; None where there are none.

        Parameters
        ----------
        rows : array of bool [N] or [B or 1, N]
            The rows.
        first_row : int, optional
            Position of the first of them, counted as keys, from which scores are transformed.

        Raises
        ------
        TypeError, ValueError
            If they are no such rows, or the plan cannot be for these alone: the rows whose scores
            are transformed must be the call's last ones, and those of heads that attend as others
            all of an item's.

        Examples
        --------
        >>> Plan(None, Reweight(weight=(2,))).only(np.array([False, True])).where.tolist()
        [[[False, True]]]
        """
        rows = as_array("rows", rows)
        rows = marks("rows", rows, "[N]")[None] if rows.ndim == 1 else marks("rows", rows, "[B, N]")
        first_row = count("first_row", first_row, 0)
        if not rows.any():
            return None
        if rows.all():
            return self.unscoped
        some: dict[str, Any] = {"rows": "all", "phase": "both"}
        if self.epilogue is not None or self.policy is not KEEP:
            some["where"] = rows[:, None] if self.where is None else rows[:, None] & self.where
        if self.transform is not None:
            first = np.where(rows.any(-1), rows.argmax(-1) + first_row, _NEVER)  # [B or 1]
            if (rows != (np.arange(rows.shape[1]) + first_row >= first[:, None])).any():
                raise ValueError(
                    "rows whose scores are transformed must be the last ones of a call: with "
                    "phase='prefill' prompt and answer must come in calls of their own"
                )
            some["transform"] = self.transform.from_row(first)
        if self.null_logit is not None:
            some["null_logit"] = np.where(rows[:, None], self.null_logit, np.float32(-np.inf))
        if self.heads_from is not None:
            if (rows.any(-1) != rows.all(-1)).any():
                raise ValueError(
                    "rows of heads that attend as others do must be all of an item's in a call: "
                    "give rows='all', and prompt and answer in calls of their own"
                )
            own = np.arange(self.heads_from.shape[1])
            some["heads_from"] = np.where(rows.any(-1, keepdims=True), self.heads_from, own)
        return replace(self, **some)

    def take(self, indices: Array) -> Plan:
        """Give the plan of a reordered batch: item b of it is item ``indices[b]`` of this one.

        Parameters
        ----------
        indices : array of int
            One index into the batch for each item.

        Examples
        --------
        >>> labels = np.array([[[0, 1]], [[1, 0]]], dtype=np.uint8)
        >>> Plan(labels, Reweight(weight=(1, 0.4))).take(np.array([1, 1])).segments.tolist()
        [[[1, 0]], [[1, 0]]]
        """
        indices, policy = items("indices", indices, self._batch()), self.policy
        if isinstance(policy, Reweight) and isinstance(policy.weight, np.ndarray):
            policy = replace(policy, weight=_take(policy.weight, indices))
        segments = None if self.segments is None else self.segments[indices]
        where, null_logit = (
            None if each is None else _take(each, indices) for each in (self.where, self.null_logit)
        )
        transform = None if self.transform is None else self.transform.take(indices)
        heads = self.heads_from
        if heads is not None and len(heads) > 1:
            heads = heads[indices]
        epilogue = None if self.epilogue is None else self.epilogue.take(indices)
        return Plan(
            segments, policy, where, transform, null_logit, heads, epilogue, self.rows, self.phase
        )  # fmt: skip

    def _batch(self) -> int | None:
        """Number of items; None where nothing tells."""
        if self.segments is not None:
            return len(self.segments)
        shapes = [np.shape(each) for each in (self.where, self.null_logit) if each is not None]
        sizes = [shape[0] for shape in shapes if len(shape) == 3 and shape[0] != 1]
        if self.heads_from is not None and len(self.heads_from) != 1:
            sizes.append(len(self.heads_from))
        return max(sizes, default=None)


def compose(plans: Sequence[Plan], known: Composition | None = None) -> Composition:
    """Bring plans onto the common refinement of their segments, to be applied in order.

    Parameters
    ----------
    plans : sequence of Plan
        At least one. Each policy sees the masses that the ones before it left.
    known : Composition, optional
        Of an earlier call. If it serves these plans, only their rows are taken.

    Returns
    -------
    Composition

    Raises
    ------
    ValueError
        If the segments have more than 16 common parts, two plans edit scores, or one with an
        epilogue is followed by a policy.

    Examples
    --------
    >>> image = np.array([[[0, 1, 1, 0]]], dtype=np.uint8)
    >>> sinks = np.array([[[1, 1, 0, 0]]], dtype=np.uint8)
    >>> both = compose([Plan(image, Reweight((1, 2))), Plan(sinks, Reweight((1, 0.5)))])
    >>> both.segments.tolist()
    [[[1, 3, 2, 0]]]
    >>> both.policies[1].weight
    (1.0, 0.5, 1.0, 0.5)
    """
    if not plans:
        raise ValueError("plans must hold at least one plan, got none")
    if len(plans) == 1 and known is not None and plans[0].everywhere and known.serves(plans):
        plan = plans[0]
        return Composition(
            known.segments, known.policies, (plan.where,), known.labels, (plan,), plan.transform,
            plan.null_logit, plan.heads_from, plan.epilogue,
        )  # fmt: skip
    if not all(plan.everywhere for plan in plans):
        raise ValueError(
            "plans must be for the rows of one call, got rows and phase that a session brings to "
            "each: Plan.only gives a plan for some rows"
        )
    edits = (
        _only(plans, [plan.transform for plan in plans], "transform"),
        _only(plans, [plan.null_logit for plan in plans], "null_logit"),
        _only(plans, [plan.heads_from for plan in plans], "heads_from"),
        _only(plans, [plan.epilogue for plan in plans], "epilogue"),
    )
    _check_last(plans)
    wheres = tuple(plan.where for plan in plans)
    if known is not None and known.serves(plans):
        transform, null_logit, heads_from, epilogue = edits
        return replace(
            known, wheres=wheres, plans=tuple(plans), transform=transform, null_logit=null_logit,
            heads_from=heads_from, epilogue=epilogue,
        )  # fmt: skip
    labelled = [plan for plan in plans if plan.segments is not None]
    if len(plans) == 1 or not labelled:
        labels = tuple(np.arange(plan.num_segments) for plan in plans)
        segments = labelled[0].segments if labelled else None
        policies = tuple(plan.policy for plan in plans)
        return Composition(segments, policies, wheres, labels, tuple(plans), *edits)
    if len(labelled) > 1:  # else the core looks at them
        for plan in labelled:
            _check_labels(plan)
    segments = labelled[0].segments
    assert segments is not None
    own = [np.arange(labelled[0].num_segments)]  # of each labelled plan: its label of each part
    for plan in labelled[1:]:
        assert plan.segments is not None
        segments, left, right = _refine(segments, plan.segments)
        own = [each[left] for each in own] + [right]
    rest = np.zeros(len(own[0]), dtype=np.intp)
    parts = iter(own)
    labels = tuple(rest if plan.segments is None else next(parts) for plan in plans)
    policies = tuple(map(_on_parts, plans, labels))
    return Composition(segments, policies, wheres, labels, tuple(plans), *edits)


def compose_with_columns(plans: Sequence[Plan], place: int) -> Composition | None:
    """Compose plans of which one has no labels: the core finds its segments 0 and 1 in a step.

    Each segment g of the others is two, 2 g and 2 g + 1, as `FollowedColumns` has them.

    Parameters
    ----------
    plans : sequence of Plan
        The plans in order.
    place : int
        Which of them that is.

    Returns
    -------
    Composition or None
        None where others do more than weigh few segments.

    Examples
    --------
    >>> image = Plan(np.array([[[0, 1]]], dtype=np.uint8), Reweight((1, 2)))
    >>> both = compose_with_columns([image, Plan(None, Reweight((1, 0.5)))], 1)
    >>> [policy.weight for policy in both.policies]
    [(1.0, 1.0, 2.0, 2.0), (1.0, 0.5, 1.0, 0.5)]
    """
    others = [*plans[:place], *plans[place + 1 :]]
    fixed = compose(others) if others else None
    labels: list[Array] = [] if fixed is None else list(fixed.labels)
    sizes = {len(each) for each in labels} or {1}
    count = max(sizes)
    simple = fixed is None or (fixed.follows_a_pass and fixed.epilogue is None)
    if not simple or len(sizes) > 1 or 2 * count > MAX_SEGMENTS:
        return None
    own = [np.repeat(each, 2) for each in labels]
    own.insert(place, np.tile([0, 1], count))
    segments = None if fixed is None else fixed.segments
    if segments is None and count > 1:
        return None
    policies = tuple(map(_on_parts, plans, own))
    if not all(isinstance(policy, Reweight) for policy in policies):
        return None
    return Composition(
        segments, policies, tuple(plan.where for plan in plans), tuple(own), tuple(plans)
    )


@dataclass(frozen=True, eq=False)
class _OnParts:
    """A callable policy on a refinement: sums parts into its own segments, spreads its factors."""

    policy: Policy
    labels: Array  # the policy's own label of each part
    num_segments: int

    def __call__(self, masses: Array) -> Array:
        own = np.zeros((*masses.shape[:-1], self.num_segments), dtype=masses.dtype)
        for part, label in enumerate(self.labels):
            own[..., label] += masses[..., part]
        factors: Array = self.policy(own)[..., self.labels]
        return factors


def _on_parts(plan: Plan, own: Array) -> Policy:
    policy = plan.policy
    if not isinstance(policy, Reweight):
        return _OnParts(policy, own, plan.num_segments)
    if np.array_equal(own, np.arange(policy.num_segments)):
        return policy
    if policy.power is not None:  # of the whole mass, not of each part's
        return _OnParts(policy, own, plan.num_segments)

    def parts(labels: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(part for part, label in enumerate(own) if label in labels)

    to = parts(policy.to)
    if policy.to and not to:  # no key is a receiver, so no row changes; `to=()` would lose the mass
        return Reweight(np.ones(len(own)))
    when = tuple(
        Share(parts(s.segments), s.at_least, None if s.within is None else parts(s.within))
        for s in policy.when
    )
    return Reweight(np.asarray(policy.weight)[..., own], to, when)


def _check_labels(plan: Plan) -> None:
    """Refuse labels that are no segment, as the core does where a plan is alone."""
    largest = int(np.max(plan.segments, initial=0)) if plan.segments is not None else 0
    if largest >= plan.num_segments:
        raise ValueError(
            f"segments must hold labels below {plan.num_segments}, the number of segments, got "
            f"{largest}"
        )


def _refine(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Label the common parts of two labellings; also give each part's label in either of them."""
    length = max(a.shape[-1], b.shape[-1])
    a, b = (np.pad(x, ((0, 0), (0, 0), (0, length - x.shape[-1]))) for x in (a, b))
    pairs = a * np.uint8(MAX_SEGMENTS) + b  # [B, 1 or H, M'], below 256
    found = np.bincount(pairs.ravel(), minlength=MAX_SEGMENTS**2)
    found[0] = 1  # segment 0 stays segment 0
    codes = np.flatnonzero(found)
    if len(codes) > MAX_SEGMENTS:
        raise ValueError(
            f"plans must have at most {MAX_SEGMENTS} common segments when they are composed, "
            f"got {len(codes)}: give the methods fewer segments, or run fewer of them at once"
        )
    labels = np.zeros(MAX_SEGMENTS**2, dtype=np.uint8)
    labels[codes] = np.arange(len(codes))
    return labels[pairs], codes // MAX_SEGMENTS, codes % MAX_SEGMENTS


def _only(plans: Sequence[Plan], edits: list[Any], name: str) -> Any:
    """Give the one edit of scores that plans have, if any."""
    found = [edit for edit in edits if edit is not None]
    if len(found) > 1:
        raise ValueError(
            f"plans must have at most one {name} when they are composed, got {len(found)}: the "
            "second would have to see what the first left; run one such method at once"
        )
    return found[0] if found else None


def _check_last(plans: Sequence[Plan]) -> None:
    """Refuse policies behind an epilogue: what it adds to an output is no attention."""
    ends = [place for place, plan in enumerate(plans) if plan.epilogue is not None]
    for plan in plans[ends[0] + 1 :] if ends else ():
        policy = plan.policy
        if not (
            isinstance(policy, Reweight) and policy.power is None
            and np.all(np.asarray(policy.weight) == 1)
        ):  # fmt: skip
            raise ValueError(
                "plans must have no policy behind an epilogue when they are composed: what it adds "
                "to an output is no attention, so put the method that has it last"
            )


def _take(array: Array, indices: Array) -> Array:
    """Reorder the batch axis of what broadcasts to [B, H, N or G], if it has one."""
    return array[indices] if array.ndim == 3 and array.shape[0] > 1 else array


def taken(state: Any, indices: Array) -> Any:
    """Reorder the batch of a method's state: arrays, plans, and tuples and dictionaries of them.

    Parameters
    ----------
    state
        What a method's `plan` returned.
    indices : array of int
        Which item each item becomes.

    Examples
    --------
    >>> taken((np.array([1, 2]), None), np.array([1, 0]))
    (array([2, 1]), None)
    """
    if isinstance(state, np.ndarray):
        return state[indices]
    if isinstance(state, Plan):
        return state.take(indices)
    if isinstance(state, dict):
        return {name: taken(value, indices) for name, value in state.items()}
    if isinstance(state, tuple):
        parts = (taken(value, indices) for value in state)
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state
