"""The search for the heads of a model in which a method helps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from reattend import __version__
from reattend.evaluation.calibration.significance import choose, mean_interval
from reattend.evaluation.metrics.counts import Estimate
from reattend.evaluation.runner.journal import Journal
from reattend.evaluation.runner.progress import Progress, silent
from reattend.policy import Array

Heads = Mapping[int, tuple[int, ...]]  # layer -> heads
Candidate = tuple[int, int]  # layer, head
STRATEGIES = ("single", "forward")


class HeadScores(Protocol):
    """Scores a model with a method switched on in some heads, sample by sample; more is better.

    A scorer may also have ``layer_scores(base, layer, heads)``, which gives what it gives for
    ``base`` with each of these heads of a layer added, [len(heads), n]; and ``identity()``, which
    says what decides its scores, as JSON can hold it.
    """

    def __call__(self, heads: Heads) -> Array:
        """Score with the method in these heads, and in no others, [n]."""


class HeadSearch(NamedTuple):
    """What a search found."""

    heads: dict[int, tuple[int, ...]]  # the chosen ones
    candidates: tuple[Candidate, ...]
    gains: Array  # [C], mean gain of each alone over the plain model
    p_values: Array  # [C], adjusted for their number if the rule does so
    plain: float  # mean score of the plain model
    gain: Estimate  # of all chosen heads together, where they were searched: too good to be true
    confirmed: Estimate | None  # the same on samples that the search has not seen
    steps: tuple[tuple[Candidate, float], ...] = ()  # of forward: what was added, and the gain

    @property
    def verdict(self) -> str:
        """What the held-out samples say: confirmed, refuted, no difference shown, not asked."""
        if self.confirmed is None:
            return "not asked"
        if self.confirmed.low > 0:
            return "confirmed"
        return "refuted" if self.confirmed.high < 0 else "no difference shown"


def head_candidates(num_layers: int, num_heads: int) -> list[Candidate]:
    """Give the heads that ACT's search tries: all but those of layers 0, 1 and the last.

    Parameters
    ----------
    num_layers, num_heads : int
        Of the model.

    Examples
    --------
    >>> head_candidates(5, 2)
    [(2, 0), (2, 1), (3, 0), (3, 1)]
    """
    return [(layer, head) for layer in range(2, num_layers - 1) for head in range(num_heads)]


def search_heads(
    evaluate: HeadScores,
    candidates: Iterable[Candidate],
    *,
    strategy: str = "single",
    rule: str = "above",
    level: float = 0.05,
    most: int | None = None,
    confirm: HeadScores | None = None,
    journal: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    seed: int = 0,
) -> HeadSearch:
    """Search the heads in which a method helps.

    ``"single"`` is ACT's search: each candidate is switched on alone, and those that score above
    the plain model are kept. ``"forward"`` adds the best candidate to those that are there already,
    as long as one gains by the rule.

    Every score is kept in the journal, so a search that was killed goes on where it was, and finds
    what it would have found. The chosen heads' own gain is the best of many and therefore too
    large; what the method is worth, the samples of ``confirm`` say.

    Parameters
    ----------
    evaluate : callable
        Of a mapping layer -> heads; gives a score for each sample, more is better. `PromptScores`
        and `AnswerScores` are ready ones; see `HeadScores`.
    candidates : iterable of (int, int)
        Layer and head, such as `head_candidates` gives.
    strategy : {"single", "forward"}, optional
        How.
    rule : {"above", "holm", "bootstrap"}, optional
        Which gains count, as for `choose`.
    level : float, optional
        As for `choose`; of each step of ``"forward"``.
    most : int, optional
        How many heads ``"forward"`` adds at most.
    confirm : callable, optional
        As ``evaluate``, with samples that it has not: the chosen heads are scored on them.
    journal : path, optional
        Where scores are kept.
    identity : mapping, optional
        What decides the scores, those of ``confirm`` included, if a scorer does not say so by
        ``identity()``: a journal of another model, of other data or of another version of reattend
        is refused.
    progress : callable, optional
        Is told how many candidates of how many are done; see `ProgressBar`.
    seed : int, optional
        Of intervals.

    Returns
    -------
    HeadSearch

    Raises
    ------
    JournalError
        If the journal is of another search.
    TypeError
        If a scorer gives no numbers, or as many as another time.
    ValueError
        If there are no candidates, there is no such strategy or rule, or a journal is to be kept
        of a scorer that does not say what it is.

    Examples
    --------
    Two of four heads help; one of them only where the other does not:

    >>> def evaluate(heads):
    ...     on = {(layer, head) for layer in heads for head in heads[layer]}
    ...     return np.arange(8) / 8 + 0.5 * bool(on & {(2, 0), (3, 1)}) - len(on) / 8
    >>> search_heads(evaluate, head_candidates(5, 2)).heads
    {2: (0,), 3: (1,)}
    >>> found = search_heads(evaluate, head_candidates(5, 2), strategy="forward")
    >>> found.heads, found.steps
    ({2: (0,)}, (((2, 0), 0.375),))
    """
    tried = tuple(dict.fromkeys((int(layer), int(head)) for layer, head in candidates))
    if not tried:
        raise ValueError("candidates must hold at least one (layer, head), got none")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    choose(np.zeros((0, 2)), rule, level=level)  # what cannot be meant is refused at once
    book = None
    if journal is not None:
        book = Journal(Path(journal), _run(evaluate, confirm, tried, identity))
    search = _Search(evaluate, tried, book, progress)
    plain = search.scores({})
    alone = search.around({}, 0)  # [C, n]
    first, p_values = choose(alone - plain, rule, level=level, seed=seed)
    steps: list[tuple[Candidate, float]] = []
    if strategy == "single":
        chosen = [tried[place] for place in np.flatnonzero(first)]
    else:
        chosen = []
        around, base = alone, plain
        while most is None or len(chosen) < most:
            left = [place for place, each in enumerate(tried) if each not in chosen]
            gains = (around - base)[left]
            fits, _ = choose(gains, rule, level=level, seed=seed)
            if not fits.any():
                break
            means = np.where(fits, gains.mean(1), -np.inf)
            best = int(means.argmax())
            chosen.append(tried[left[best]])
            steps.append((chosen[-1], float(means[best])))
            if len(left) == 1:
                break
            base = around[left[best]]
            around = search.around(as_heads(chosen), len(chosen))
    heads = as_heads(chosen)
    gain = mean_interval(search.scores(heads) - plain, seed=seed)
    confirmed = None
    if confirm is not None:
        held = _Search(confirm, tried, book, silent, "held out")
        confirmed = mean_interval(held.scores(heads) - held.scores({}), seed=seed)
    return HeadSearch(
        heads, tried, (alone - plain).mean(1), p_values, float(plain.mean()), gain, confirmed,
        tuple(steps),
    )  # fmt: skip


def as_heads(candidates: Iterable[Candidate]) -> dict[int, tuple[int, ...]]:
    """Give candidates as a mapping layer -> heads.

    Parameters
    ----------
    candidates : iterable of (int, int)
        Layer and head, in any order.

    Examples
    --------
    >>> as_heads([(3, 1), (2, 0), (3, 0)])
    {2: (0,), 3: (0, 1)}
    """
    heads: dict[int, tuple[int, ...]] = {}
    for layer, head in sorted(candidates):
        heads[layer] = (*heads.get(layer, ()), head)
    return heads


class _Search:
    """Scores of head sets, from the journal or from the scorer."""

    def __init__(
        self, evaluate: HeadScores, candidates: Sequence[Candidate], journal: Journal | None,
        progress: Progress, part: str = "searched",
    ) -> None:  # fmt: skip
        self._evaluate, self._candidates, self._journal = evaluate, candidates, journal
        self._progress, self._part = progress, part
        self._count: int | None = None
        self._plain: Array | None = None

    def scores(self, heads: Heads) -> Array:
        """Score one set of heads, [n]."""
        key = [self._part, _listed(heads)]
        scores = self._kept(key, lambda: np.asarray(self._evaluate(heads), np.float64), ())
        if not heads:
            self._plain = scores
        return scores

    def around(self, base: Heads, step: int) -> Array:
        """Score each candidate added to ``base``, [C, n]; nan for what is in it already."""
        found: dict[Candidate, Array] = {}
        left = [each for each in self._candidates if each[1] not in base.get(each[0], ())]
        before, whole = step * len(self._candidates), step * len(self._candidates) + len(left)
        for layer, heads in self._pieces(left):
            key = [self._part, _listed(base), layer, heads]
            rows = self._kept(key, partial(self._added, base, layer, heads), (len(heads),))
            found |= {(layer, head): row for head, row in zip(heads, rows, strict=True)}
            self._progress(before + len(found), whole, partial(self._so_far, found))
        nothing = np.full(self._count or 0, np.nan)
        return np.stack([found.get(each, nothing) for each in self._candidates])

    def _pieces(self, candidates: Sequence[Candidate]) -> Iterator[tuple[int, list[int]]]:
        """Give what is one evaluation: a layer's heads, or a single one."""
        whole = hasattr(self._evaluate, "layer_scores")
        for layer, some in groupby(sorted(candidates), lambda each: each[0]):
            heads = [head for _, head in some]
            yield from [(layer, heads)] if whole else ((layer, [head]) for head in heads)

    def _added(self, base: Heads, layer: int, heads: list[int]) -> Array:
        if hasattr(self._evaluate, "layer_scores"):
            return np.asarray(self._evaluate.layer_scores(base, layer, heads), np.float64)
        (head,) = heads
        own = tuple(sorted({*base.get(layer, ()), head}))
        return np.asarray(self._evaluate({**base, layer: own}), np.float64)[None]

    def _kept(self, key: list[Any], score: Callable[[], Array], shape: tuple[int, ...]) -> Array:
        """Give scores [*shape, n] of the journal, or find them and write them down."""
        if self._journal is not None and key in self._journal:
            return self._checked(np.array(self._journal.get(key), np.float64), shape)
        found = self._checked(score(), shape)
        if self._journal is not None:
            self._journal.add(key, found.tolist())
        return found

    def _checked(self, scores: Array, shape: tuple[int, ...]) -> Array:
        if self._count is None and scores.ndim:
            self._count = scores.shape[-1]
        if not scores.size or scores.shape != (*shape, self._count):
            raise TypeError(
                f"evaluate must give one score for each of {self._count or 'some'} samples, got "
                f"an array of shape {scores.shape}"
            )
        if not np.isfinite(scores).all():
            raise ValueError("evaluate must give finite scores, got nan or inf")
        return scores

    def _so_far(self, found: Mapping[Candidate, Array]) -> str:
        """Say which head is best so far, with the interval of its gain."""
        assert self._plain is not None
        gains = {each: row - self._plain for each, row in found.items()}
        best = max(gains, key=lambda each: float(gains[each].mean()))
        gain = mean_interval(gains[best]).written("+.4f")
        above = sum(float(each.mean()) > 0 for each in gains.values())
        return f"{above} of {len(gains)} heads gain, most {best[0]}.{best[1]}: {gain}"


def _listed(heads: Heads) -> list[list[Any]]:
    return [[layer, [*some]] for layer, some in sorted(heads.items()) if some]


def _run(
    evaluate: HeadScores, confirm: HeadScores | None, candidates: Sequence[Candidate],
    identity: Mapping[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """Say what decides the scores."""

    def of(scorer: Any) -> Any:
        return scorer.identity() if hasattr(scorer, "identity") else None

    own = {"searched": of(evaluate), "held out": of(confirm)}
    unknown = own["searched"] is None or (confirm is not None and own["held out"] is None)
    if identity is None and unknown:
        raise ValueError(
            "identity must say what decides the scores where a journal is kept and a scorer has "
            "no identity(), got None"
        )
    return {"reattend": __version__, "search": _listed(as_heads(candidates)), **own,
            **({} if identity is None else {"identity": dict(identity)})}  # fmt: skip
