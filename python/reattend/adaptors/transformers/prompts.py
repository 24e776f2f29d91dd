"""What the adaptor keeps of a prompt, from its first forward to its last step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, ref

import numpy as np

from reattend.adaptors.transformers.protocols import Cache, Tensor
from reattend.policy import Array
from reattend.session import Session


@dataclass(eq=False)
class Prompt:
    """One generation: its session, open until the next prompt of the same cache or the end."""

    session: Session
    length: int
    image: Array | None  # bool [B, P]
    text_outputs: dict[int, Array] | None = None  # [B, H, Dv], of the text-only branch
    text_seconds: float | None = None  # what the text-only branch cost
    text_tokens: int = 0
    keys: int = 0  # that forwards have read so far
    batch: int = 0  # items of the latest
    _open: ExitStack = field(default_factory=ExitStack)

    def begin(self) -> None:
        """Open the session's generation."""
        self._open.enter_context(
            self.session.generation(
                self.image, prompt_len=self.length, text_outputs=self.text_outputs
            )
        )

    def end(self) -> None:
        """Close it; its report can still be read."""
        self._open.close()


class Prompts:
    """The prompts that are open, one for each cache, so that several generations can take turns."""

    def __init__(self) -> None:
        self._of_cache: WeakKeyDictionary[Cache, Prompt] = WeakKeyDictionary()
        self.last: Prompt | None = None  # the latest, for reports

    def begin(self, prompt: Prompt, cache: Cache | None, *, last: bool = True) -> None:
        """Open a prompt, which reports are of if it is the last; one of this cache is over."""
        prompt.begin()
        if last or self.last is None:
            self.last = prompt
        if cache is not None:
            self.bind(prompt, cache)

    def bind(self, prompt: Prompt, cache: Cache) -> None:
        """Tie a prompt to the cache that holds its keys, and follow what is done to its batch."""
        old = self._of_cache.get(cache)
        if old is prompt:
            return
        if old is None:
            _follow(cache, self)
        else:
            old.end()
        self._of_cache[cache] = prompt

    def of(self, cache: Cache | None) -> Prompt | None:
        """Give the prompt of a cache."""
        return None if cache is None else self._of_cache.get(cache)

    def end(self) -> None:
        """Close all, and let go of their caches."""
        for cache, prompt in list(self._of_cache.items()):
            prompt.end()
            for name in _BATCH_CHANGES:
                vars(cache).pop(name, None)
        if self.last is not None:
            self.last.end()
        self._of_cache.clear()


_BATCH_CHANGES = ("reorder_cache", "batch_repeat_interleave", "batch_select_indices")


class _Following:
    """A method of one cache that changes its batch, and its prompt's states with it."""

    def __init__(self, cache: Cache, prompts: Prompts, name: str) -> None:
        self._cache = ref(cache)  # the cache must not hold itself through this
        self._prompts, self._name = prompts, name

    def __call__(self, argument: Tensor | int) -> None:
        cache = self._cache()
        getattr(type(cache), self._name)(cache, argument)
        prompt = self._prompts.of(cache)
        if prompt is None:
            return
        rows = np.arange(prompt.batch)
        repeated = self._name == "batch_repeat_interleave"
        rows = rows.repeat(int(argument)) if repeated else rows[np.asarray(argument)]
        prompt.session.reorder(rows)
        prompt.batch = len(rows)

    def __deepcopy__(self, memo: dict[int, Cache]) -> _Following:  # the cache's own copy is in it
        return _Following(memo[id(self._cache())], self._prompts, self._name)


def _follow(cache: Cache, prompts: Prompts) -> None:
    """Let the states of a cache's prompt be reordered with it: beam search calls nobody else."""
    for name in _BATCH_CHANGES:
        if getattr(type(cache), name, None) is not None:
            setattr(cache, name, _Following(cache, prompts, name))


def image_of(
    given: Array | None,
    ids: Array | None,
    tokens: Sequence[int],
    batch: int,
    length: int,
    repeats: int = 1,
) -> Array | None:
    """Find a prompt's image tokens.

    Parameters
    ----------
    given : array of bool [B, P] or [P], optional
        What the user says: of each prompt, or of all.
    ids : array of int [B, P], optional
        The prompt's token ids, where they are known.
    tokens : sequence of int
        The ids that stand for a part of an image.
    batch, length : int
        Of the prompt.
    repeats : int, optional
        How often beams and returned sequences have repeated each of its items.

    Returns
    -------
    array of bool [batch, length], or None without any image

    Raises
    ------
    ValueError
        If ``given`` does not fit.

    Examples
    --------
    >>> image_of(None, np.array([[9, 7, 7, 4]]), [7], batch=2, length=4, repeats=2)
    array([[False,  True,  True, False],
           [False,  True,  True, False]])
    """
    if given is not None:
        found = np.atleast_2d(given)
        prompts = batch // max(repeats, 1)
        if found.ndim != 2 or found.shape[1] != length or len(found) not in (1, prompts, batch):
            raise ValueError(
                f"image must be bool [B, P] = {(prompts, length)}, True at the prompt's image "
                f"tokens, got shape {np.shape(given)}"
            )
    elif ids is None or not tokens:
        return None
    else:
        found = np.isin(ids, tokens)
    found = np.repeat(found, batch // len(found), axis=0)
    return found if found.any() else None


def spans(image: Array | None) -> list[list[tuple[int, int]]]:
    """Give each item's runs of image tokens, as first key and the key behind the last.

    Parameters
    ----------
    image : array of bool [B, P], optional

    Examples
    --------
    >>> spans(np.array([[False, True, True, False, True]]))
    [[(1, 3), (4, 5)]]
    """
    if image is None:
        return []
    edges = np.diff(np.pad(image, ((0, 0), (1, 1))).astype(np.int8))
    return [_runs(row) for row in edges]


def _runs(edges: Sequence[int] | Array) -> list[tuple[int, int]]:
    edges = np.asarray(edges)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))
