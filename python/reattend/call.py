"""Call: what one attention call knows. Costly things are computed when first read, then shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from reattend.border.core_call import attend, sums_of
from reattend.border.dtypes import to_float32
from reattend.border.prefixed import keys_between
from reattend.border.request import NO_MASK, MaskSpec, Request
from reattend.border.results import AttentionResult
from reattend.border.row_products import around, products_of, scores_of
from reattend.checks import as_array, count, integer, marks, numbers, pairs
from reattend.plan import Composition, Plan, compose
from reattend.policy import Array
from reattend.row_scope import check_scope

__all__ = ["Call", "Computed", "Prompt"]

NEVER = np.iinfo(np.int64).max  # a position after every row
_ONE = np.broadcast_to(np.int64(1), ())  # read-only, and so is what is made of it
_SUMMED = Request(returns=("logsumexp", "column_sums"))
_AHEAD = ("masses", "factors", "changed", "logsumexp", "column_sums")
_UNSUMMED = Request(returns=("logsumexp",))
_TOLD = Request(returns=("logsumexp", "score_sums"), num_segments=2)
_FEW_ROWS = 256  # whose visible keys are counted at once: memory stays small beside the mask


@dataclass(frozen=True)
class Prompt:
    """What is known of a prompt before its first call.

    Examples
    --------
    >>> Prompt(image=np.array([[False, True, True, False]])).image_end.tolist()
    [3]
    """

    length: int | None = None  # P; None until the first call, which then holds all of it
    image: Array | None = None  # bool [B, P]
    text_only: Array | None = None  # bool [B], the text-only branch of the other rows, in order
    text_outputs: Mapping[int, Array] | None = None  # layer -> [B, H, Dv], of a run of its own

    def __post_init__(self) -> None:
        image, marked = self.image, self.text_only
        length = None if self.length is None else integer("prompt_len", self.length)
        if self.text_outputs is not None:
            object.__setattr__(self, "text_outputs", _outputs(self.text_outputs))
        if image is not None:
            image = as_array("image", image)
            if image.dtype != bool or image.ndim != 2:
                raise ValueError(f"image must be bool [B, P], got {image.dtype} {image.shape}")
            length = image.shape[1] if length is None else length
            if length < image.shape[1]:
                raise ValueError(
                    f"prompt_len must be at least that of image, {image.shape[1]}, got {length}"
                )
        if length is not None and length < 1:
            raise ValueError(f"prompt_len must be at least 1, got {length}")
        if marked is not None:
            marked = as_array("text_only", marked)
            if marked.dtype != bool or marked.ndim != 1:
                raise ValueError(f"text_only must be bool [B], got {marked.dtype} {marked.shape}")
            if image is not None and len(image) != len(marked):
                raise ValueError(
                    f"text_only must have the batch size of image, {len(image)}, got {len(marked)}"
                )
            if self.text_outputs is not None:
                raise ValueError(
                    "text_only must be None beside text_outputs or after a text-only run, got both"
                )
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "text_only", marked)
        object.__setattr__(self, "length", length)

    @cached_property
    def batch(self) -> int | None:
        """Number of items, where it is known."""
        known = self.image if self.image is not None else self.text_only
        return None if known is None else len(known)

    @cached_property
    def image_end(self) -> Array | None:
        """Key after each item's first image [B], `NEVER` where an item has none."""
        if self.image is None:
            return None
        return np.array([_end_of_first_run(item.tobytes()) for item in self.image], np.int64)


@lru_cache(maxsize=16)  # all layers ask for the same
def _ones(batch: int, key_len: int) -> Array:
    return np.ndarray((batch, key_len), np.int64, _ONE, strides=(0, 0))


@lru_cache(maxsize=16)
def _zeros(batch: int) -> Array:
    zeros = np.zeros(batch, np.int64)
    zeros.flags.writeable = False
    return zeros


def _outputs(given: Any) -> dict[int, Array]:
    if not isinstance(given, Mapping):
        raise TypeError(f"text_outputs must map layers to [B, H, Dv], got {type(given).__name__}")
    return {
        integer("text_outputs", layer): numbers("text_outputs", found, "[B, H, Dv]")
        for layer, found in given.items()
    }


def _end_of_first_run(marks: bytes) -> int:
    start = marks.find(1)
    if start < 0:
        return int(NEVER)
    end = marks.find(0, start)
    return len(marks) if end < 0 else end


class Ahead(NamedTuple):
    """A pass under the first plans of a call."""

    plan: Composition
    found: AttentionResult


@dataclass
class Computed:
    """What methods have asked a call to compute; a session goes on from what is there."""

    plain: AttentionResult | None = None  # attention without any policy
    plans: Sequence[Plan] = ()  # of the methods before the one that is asked
    ahead: Ahead | None = None  # what these made of it, where a method asked for column sums
    products: Array | None = None  # query . key of a single row, [B, H, 1, M]
    alone: bool = False  # whether the method that is asked is the only one
    # Whether the call's result stands: who looks on writes nothing to its room, and `plain` may
    # hold the output that was corrected since.
    settled: bool = False

    def known_to(self, request: Request) -> Request:
        """Tell a pass over all keys what is known of it: it then reads values alone."""
        return request if self.products is None else request._replace(products=self.products)


@dataclass(frozen=True, init=False)
class Call:
    """One attention call, as a method sees it.

    Positions count keys: row i of N stands at key ``M - N + i``. In cross-attention, where keys are
    an image's, they count rows, from the prompt's first one: ``cross_row`` is that of row 0.

    Examples
    --------
    >>> query = key = value = np.ones((1, 2, 3, 4), dtype=np.float32)
    >>> call = Call(2, 8, query, key, value, Prompt(3), mask=MaskSpec(causal=True))
    >>> call.prefill, call.rows.tolist(), call.row_counts.tolist()
    (True, [0, 1, 2], [[3, 2, 1]])
    """

    layer: int  # from 0
    num_layers: int
    query: Array  # [B, H, N, D]
    key: Array  # [B, H_kv, M, D]
    value: Array  # [B, H_kv, M, Dv]
    prompt: Prompt
    mask: MaskSpec = NO_MASK
    states: Array | None = None  # [B, N, C], read it as `hidden_states`
    num_threads: int | None = None
    out: Array | None = None  # where the output goes
    computed: Computed = field(default_factory=Computed, repr=False, compare=False)
    cross_row: int | None = None  # in cross-attention the position of row 0
    confidence: Array | None = None  # [B], of each item's last token, if the loop told the session
    cross: bool = field(init=False, repr=False)  # whether keys are an image's, not the rows' past
    batch: int = field(init=False, repr=False)  # B
    num_heads: int = field(init=False, repr=False)  # H, of the query
    num_kv_heads: int = field(init=False, repr=False)  # H_kv, of keys and values
    key_len: int = field(init=False, repr=False)  # M, how many keys there are so far
    first_row: int = field(init=False, repr=False)  # its position
    num_prompt: int = field(init=False, repr=False)  # P, the prompt's length
    prefill: bool = field(init=False, repr=False)  # whether rows of the prompt are among these
    last_chunk: bool = field(init=False, repr=False)  # whether the prompt's last row is

    def __init__(
        self,
        layer: int,
        num_layers: int,
        query: Array,
        key: Array,
        value: Array,
        prompt: Prompt,
        mask: MaskSpec = NO_MASK,
        states: Array | None = None,
        num_threads: int | None = None,
        out: Array | None = None,
        computed: Computed | None = None,
        cross_row: int | None = None,
        confidence: Array | None = None,
    ) -> None:
        batch, num_heads, num_rows, _ = query.shape
        _, num_kv_heads, key_len, _ = key.shape
        first_row = key_len - num_rows if cross_row is None else cross_row
        end = first_row + num_rows
        num_prompt = end if prompt.length is None else prompt.length
        prefill = first_row < num_prompt
        # At once: a frozen dataclass's own sets one by one, which takes 1 us of a layer's step.
        known = {
            "layer": layer, "num_layers": num_layers, "query": query, "key": key, "value": value,
            "prompt": prompt, "mask": mask, "states": states, "num_threads": num_threads,
            "out": out, "computed": computed or Computed(), "confidence": confidence,
            "batch": batch, "num_heads": num_heads, "num_kv_heads": num_kv_heads,
            "key_len": key_len, "first_row": first_row, "num_prompt": num_prompt,
            "prefill": prefill, "last_chunk": prefill and num_prompt <= end,
            "cross_row": cross_row, "cross": cross_row is not None,
        }  # fmt: skip
        object.__setattr__(self, "__dict__", known)

    @cached_property
    def rows(self) -> Array:
        """Position of each row, int [N]."""
        return np.arange(self.first_row, self.first_row + self.query.shape[2])

    def in_scope(self, rows: str = "all", phase: str = "both") -> Array:
        """Mark the rows that a plan with these words is for.

        Parameters
        ----------
        rows : {"last", "after_image", "all"}, optional
            ``"last"``: the rows that say what comes next, each item's last row of the prompt that
            is no padding and those behind it. ``"after_image"``: those behind an item's first
            image; none of an item without one.
        phase : {"prefill", "decode", "both"}, optional
            Whether rows of the prompt, those behind it, or either.

        Returns
        -------
        array of bool [B or 1, N]

        Raises
        ------
        TypeError, ValueError
            If these are no such words; where the prompt's last row of an item was in an earlier
            call, for its padding came at the right.

        Examples
        --------
        >>> query = key = np.zeros((1, 1, 3, 4), np.float32)
        >>> call = Call(0, 1, query, key, key, Prompt(2))
        >>> call.in_scope("last").tolist(), call.in_scope("last", "decode").tolist()
        ([[False, True, True]], [[False, False, True]])
        """
        check_scope(rows, phase)
        found = np.ones((1, self.query.shape[2]), bool)
        if rows == "last" and self.prefill:
            found = self.rows >= np.reshape(self.last_prompt_row, (-1, 1))
        elif rows == "after_image":
            found = self.rows >= self.image_end[:, None]
        if phase != "both":
            found = found & ((self.rows < self.num_prompt) == (phase == "prefill"))
        return np.asarray(found)

    @cached_property
    def last_prompt_row(self) -> Array:
        """Position of each item's last row of the prompt that is no padding, int [B or 1]."""
        if self.key_mask is None or self.cross or self.key_len < self.num_prompt:
            return np.array([self.num_prompt - 1])
        return self.first_row + self._last_before(self.num_prompt)

    @cached_property
    def last_rows(self) -> Array:
        """Place among these rows of each item's last one that is no padding, int [B]."""
        if self.key_mask is None or self.cross:
            return np.full(self.batch, self.query.shape[2] - 1)
        return self._last_before(self.key_len)

    def _last_before(self, end: int) -> Array:
        """Place of each item's last row before a position that is no padding, int [B]."""
        assert self.key_mask is not None
        valid = self.key_mask[:, self.first_row : end]
        before = self.key_mask[:, : self.first_row].any(-1) & ~valid.any(-1)
        if self.last_chunk and before.any():
            raise ValueError(
                f"layer {self.layer}: the last prompt row of every item must be in the call that "
                f"ends the prompt, got items {np.flatnonzero(before).tolist()} of which this call "
                "has padding alone; put padding at the left, or read the prompt in one call"
            )
        return np.asarray(valid.shape[1] - 1 - valid[:, ::-1].argmax(-1))

    @cached_property
    def answer_row(self) -> Array | None:
        """Place among these rows of the one that says what comes next, int [B]; None without one.

        For what is computed from one row. Several such rows in a call raise ValueError: a method
        that reads them would have to give each keys of its own.
        """
        position = int(self.first_row + self.query.shape[2] - 1)
        if position < self.num_prompt - 1:
            return None
        if position > max(self.first_row, self.num_prompt - 1):
            raise ValueError(
                f"layer {self.layer}: what is read off the row that chooses a word needs prompt "
                "and answer, and each row of the answer, in calls of their own, got rows "
                f"{self.first_row} to {position} of a prompt of {self.num_prompt}"
            )
        return self.last_rows

    def row_scores(self, keys: Array) -> Array:
        """Give the scores of each item's last row that is no padding on some keys, [B, H, M].

        They are those before the softmax and a bias.

        Parameters
        ----------
        keys : array of bool [B, M]
            The keys.

        Returns
        -------
        array [B, H, M]
            float32, after scale and softcap; 0 at other keys, and at keys that the row's window or
            the padding hides.

        Raises
        ------
        TypeError, ValueError
            If the keys do not fit.

        Examples
        --------
        >>> query = key = np.ones((1, 1, 2, 4), dtype=np.float32)
        >>> call = Call(0, 1, query, key, key, Prompt(2))
        >>> call.row_scores(np.array([[False, True]])).tolist()
        [[[0.0, 2.0]]]
        """
        keys = marks("keys", keys, "[B, M]", (self.batch, self.key_len))
        seen = keys if self.key_mask is None else keys & self.key_mask
        if self._window is not None:
            last = self.first_row + self.last_rows[:, None]
            seen = seen & (np.arange(self.key_len) > last - self._window)
        scores = np.zeros((self.batch, self.num_heads, self.key_len), np.float32)
        near = around(seen)
        if self.query.shape[2] == 1:
            found = self._scores_of_step(near)
        else:
            query = self.query[np.arange(self.batch), :, self.last_rows, None]  # [B, H, 1, D]
            found = self._told("scores", query, near)[:, :, 0]
        np.copyto(scores[..., near], found, where=seen[:, None, near])
        return scores

    def _scores_of_step(self, keys: slice) -> Array:
        """Give a single row's scores [B, H, keys], of products that no later pass makes again."""
        if self.computed.products is None:
            found = products_of(self.query, self.key, self.mask, self.num_threads)
            self.computed.products = found
        products = self.computed.products[:, :, 0, keys]
        return scores_of(products, self.mask, self.query.shape[3])

    def _told(self, name: str, query: Array, keys: slice, segments: Array | None = None) -> Array:
        """Give what some rows tell of keys that they all see, before a bias."""
        near = keys_between(self.key, keys)
        mask = self.mask._replace(causal=False, key_mask=None, bias=None, window=None)
        request = Request(segments, returns=(name,), instead="nothing", num_segments=2)
        found = attend(query, near, near, mask, request, self.num_threads)
        return np.asarray(getattr(found, name))

    @cached_property
    def row_weights(self) -> Array:
        """Plain attention of each item's last row that is no padding, [B, H, M].

        From a pass over these rows alone; of a single row that of the step, which costs nothing.
        """
        if self.query.shape[2] == 1:
            return self.column_sums()
        found = np.zeros((*self.query.shape[:2], self.key_len), np.float32)
        for row in np.unique(self.last_rows):
            some = self.last_rows == row
            found[some] = self.weights_of_row(int(row))[some]
        return found

    def weights_of_row(self, row: int) -> Array:
        """Give plain attention of one row of all items, [B, H, M], by a pass for itself.

        Parameters
        ----------
        row : int
            Its place among the call's rows, from 0.

        Returns
        -------
        array [B, H, M]
            float32; 0 at keys that the row does not see.

        Raises
        ------
        TypeError, ValueError
            If there is no such row.

        Examples
        --------
        >>> query = key = np.zeros((1, 1, 2, 4), dtype=np.float32)
        >>> call = Call(0, 1, query, key, key, Prompt(2), MaskSpec(causal=True))
        >>> call.weights_of_row(0).tolist(), call.weights_of_row(1).tolist()
        ([[[1.0, 0.0]]], [[[0.5, 0.5]]])
        """
        row = count("row", row, 0, self.query.shape[2] - 1)
        end = self.key_len if self.cross else self.first_row + row + 1
        bias = self.mask.bias
        if bias is not None:
            bias = np.broadcast_to(bias, (*self.query.shape[:3], self.key_len))
            bias = bias[:, :, row : row + 1, :end]
        key_mask = None if self.key_mask is None else self.key_mask[:, :end]
        mask = self.mask._replace(key_mask=key_mask, bias=bias)
        key, value = (keys_between(each, slice(end)) for each in (self.key, self.value))
        found: AttentionResult = attend(
            self.query[:, :, row : row + 1], key, value, mask,
            Request(returns=("column_sums",)), self.num_threads,
        )  # fmt: skip
        return np.pad(np.asarray(found.column_sums), ((0, 0), (0, 0), (0, self.key_len - end)))

    def own_weights(self) -> Array:
        """Give what each row attends to its own key, [B, H, M]; 0 at keys that are no rows of this.

        Raises
        ------
        ValueError
            In cross-attention, or under a bias.

        Examples
        --------
        >>> query = key = np.zeros((1, 1, 2, 4), dtype=np.float32)
        >>> call = Call(0, 1, query, key, key, Prompt(2), MaskSpec(causal=True))
        >>> call.own_weights().round(6).tolist()
        [[[1.0, 0.5]]]
        """
        if self.mask.bias is not None or self.cross:
            raise ValueError(
                f"layer {self.layer}: a row's weight on its own key needs self-attention "
                "without a bias"
            )
        dtype, scale, softcap = self.mask.dtype, self.mask.scale, self.mask.softcap
        group = self.num_heads // self.num_kv_heads
        query = to_float32(self.query, dtype).astype(np.float64)
        own: Any = to_float32(self.key, dtype)[:, :, self.first_row :].repeat(group, axis=1)
        scores = np.einsum("bhnd,bhnd->bhn", query, own)
        scores *= query.shape[-1] ** -0.5 if scale is None else scale
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        logsumexp = np.asarray(self.plain.logsumexp, np.float64)
        found = np.exp(scores - np.where(np.isneginf(logsumexp), np.inf, logsumexp))
        if self.key_mask is not None:
            found = np.where(self.key_mask[:, None, self.first_row :], found, 0)
        weights = np.zeros((self.batch, self.num_heads, self.key_len))
        weights[:, :, self.first_row :] = found
        return weights

    def in_spans(self, spans: Sequence[tuple[int, int]]) -> Array:
        """Mark the keys of spans of the prompt, counted from its first key that is no padding.

        Parameters
        ----------
        spans : sequence of (int, int)
            Where each begins, and the position after its end.

        Returns
        -------
        array of bool [B, M]

        Examples
        --------
        >>> query = key = np.ones((1, 1, 4, 8), dtype=np.float32)
        >>> mask = MaskSpec(key_mask=np.array([[False, True, True, True]]))
        >>> Call(0, 1, query, key, key, Prompt(4), mask).in_spans([(0, 2)]).tolist()
        [[False, True, True, False]]
        """
        place = np.arange(self.key_len) - self.first_key[:, None]
        inside = np.zeros(place.shape, bool)
        for start, end in pairs("spans", spans, "pairs (start, end)"):
            inside |= (place >= start) & (place < end)
        return inside & (np.arange(self.key_len) < self.num_prompt)

    def score_sums(self, keys: Array, rows: Array) -> Array:
        """Sum the scores, before the softmax and a bias, of some rows over some keys, [B, H, R].

        In a call of one row this is read off the plain pass, from which the session goes on.

        Parameters
        ----------
        keys : array of bool [B, M]
            The keys, all of which the rows must see.
        rows : array of bool [N]
            The R rows.

        Raises
        ------
        TypeError, ValueError
            If keys or rows do not fit.

        Examples
        --------
        >>> query = key = np.ones((1, 1, 2, 4), dtype=np.float32)
        >>> call = Call(0, 1, query, key, key, Prompt(2))
        >>> call.score_sums(np.array([[True, True]]), np.array([False, True])).tolist()
        [[[4.0]]]
        """
        keys = marks("keys", keys, "[B, M]", (self.batch, self.key_len))
        rows = marks("rows", rows, "[N]", self.query.shape[2:3])
        seen = keys if self.key_mask is None else keys & self.key_mask
        single = self.query.shape[2] == 1 and rows.all() and self._window is None
        if single and self.mask.bias is None and self.computed.plain is None:
            # Beside what the session does next, the sums cost next to nothing.
            labels = seen[:, None].view(np.uint8)
            self.computed.plain = self._pass(_TOLD._replace(segments=labels))
            return np.asarray(self.computed.plain.score_sums)[..., 1]
        positions, window = self.rows[rows], self._window
        sums = np.empty((self.batch, self.num_heads, len(positions)), np.float32)
        for i in range(1 if window is None else len(positions)):
            some = slice(None) if window is None else slice(i, i + 1)
            if window is not None:
                seen = seen & (np.arange(self.key_len) > positions[i] - window)  # ever fewer
            near = around(seen)
            labels = seen[:, None, near].astype(np.uint8)
            found = self._told("score_sums", self.query[:, :, rows][:, :, some], near, labels)
            sums[:, :, some] = found[..., 1]
        return sums

    @cached_property
    def after_image(self) -> Array:
        """Text keys behind the first image, bool [B, M], new ones included; of items with one."""
        if self.image is None:
            return np.zeros((self.batch, self.key_len), bool)
        behind = np.arange(self.key_len) >= self.image_end[:, None]
        return np.asarray(behind & ~self.image)

    @property
    def key_mask(self) -> Array | None:
        """Keys that are no padding, bool [B, M], or None where all are."""
        return self.mask.key_mask

    @cached_property
    def first_key(self) -> Array:
        """Position of each item's first key that is no padding, int [B]; M while there is none.

        In cross-attention none is a sequence's first one, so there it is M too.
        """
        if self.cross:
            return np.full(self.batch, self.key_len)
        if self.key_mask is None:
            return _zeros(self.batch)
        return np.where(self.key_mask.any(-1), self.key_mask.argmax(-1), self.key_len)

    @cached_property
    def image(self) -> Array | None:
        """Image keys, bool [B, M]: the prompt's image mask over the keys there are so far.

        In cross-attention all that are no padding, of items that have an image.
        """
        image = self.prompt.image
        if self.cross:
            found = np.ones((self.batch, self.key_len), bool)
            found &= True if self.key_mask is None else self.key_mask
            found &= True if image is None else image.any(-1, keepdims=True)
            return found
        if image is None:
            return None
        if image.shape[1] < self.key_len:
            found = np.zeros((len(image), self.key_len), bool)  # np.pad takes ten times as long
            found[:, : image.shape[1]] = image
            return found
        return image[:, : self.key_len]

    @cached_property
    def image_span(self) -> slice:
        """Keys from the first to the last of an image in any item."""
        return slice(0, 0) if self.image is None else around(self.image)

    @cached_property
    def image_end(self) -> Array:
        """Key after each item's first image, int [B]; a position after every row without one.

        In cross-attention 0: every row stands behind it.
        """
        if self.cross:
            return _zeros(self.batch)
        end = self.prompt.image_end
        return np.full(self.batch, NEVER) if end is None else end

    @property
    def hidden_states(self) -> Array:
        """Hidden states that enter this layer, before its norm, one for each row [B, N, C].

        In cross-attention those that the keys are made of, [B, M, C].
        """
        if self.states is None:
            what = "[B, M, C] that the keys are made of" if self.cross else "[B, N, C] of its rows"
            raise ValueError(
                f"layer {self.layer}: hidden_states are needed while the prompt is read; pass "
                f"session.attend(..., hidden_states=x), the states {what}"
            )
        return self.states

    @property
    def _window(self) -> int | None:
        """The window, no wider than what it slides over: a sum with it stays within int64."""
        window = self.mask.window
        return None if window is None else min(window, self.key_len + 1)

    @cached_property
    def row_counts(self) -> Array:
        """How many of these rows may attend to each key, int [B, M], as the mask says.

        A bias hides where it is -inf. Rows that stand at padding do not count.
        """
        bias = self.mask.bias
        if bias is not None and (hides := np.asarray(bias) == -np.inf).any():
            return self._row_counts_under(hides)
        window = self._window
        if self.query.shape[2] == 1 and window is None and self.key_mask is None:
            return _ones(self.batch, self.key_len)
        if self.cross:
            keys = True if self.key_mask is None else self.key_mask
            return np.broadcast_to(
                np.where(keys, self.query.shape[2], 0), (self.batch, self.key_len)
            ).astype(np.int64)
        column = np.arange(self.key_len)
        window = self.key_len + 1 if window is None else window
        causal = bool(self.mask.causal)
        # Row r sees key j for j <= r < j + window, or j - window < r < j + window.
        first = np.clip(column if causal else column - window + 1, self.first_row, self.key_len)
        end = np.clip(column + window, self.first_row, self.key_len)
        if self.key_mask is None:
            return np.broadcast_to(np.maximum(end - first, 0), (self.batch, self.key_len))
        valid = self.key_mask[:, self.first_row :]  # [B, N]
        before = np.zeros((self.batch, valid.shape[1] + 1), dtype=np.int64)
        np.cumsum(valid, axis=1, out=before[:, 1:])
        counts = (
            before[:, np.maximum(end, first) - self.first_row] - before[:, first - self.first_row]
        )
        return np.where(self.key_mask, counts, 0)

    def _row_counts_under(self, hides: Array) -> Array:
        """Count row by row, some at a time, where a bias hides keys."""
        hides = hides.reshape((1,) * (4 - hides.ndim) + hides.shape)
        hidden = hides[:, 0]  # [B, N, M], where any may be 1
        if (hides != hidden[:, None]).any():
            raise ValueError(
                f"layer {self.layer}: bias must hide the same keys in all heads where rows are "
                "counted, got heads that see different keys"
            )
        column = np.arange(self.key_len)
        window, causal = self._window, bool(self.mask.causal)
        counts = np.zeros((self.batch, self.key_len), dtype=np.int64)
        for start in range(0, len(self.rows), _FEW_ROWS):
            row = self.rows[start : start + _FEW_ROWS, None]
            some = hidden if hidden.shape[1] == 1 else hidden[:, start : start + _FEW_ROWS]
            seen = np.broadcast_to(~some, (self.batch, len(row), self.key_len))
            if causal:
                seen = seen & (column <= row)
            if window is not None:
                seen = seen & (column > row - window) & (column < row + window)
            if self.key_mask is not None and not self.cross:  # a row at padding is none
                seen = seen & self.key_mask[:, row[:, 0], None]
            counts += seen.sum(1, dtype=np.int32)
        return counts if self.key_mask is None else np.where(self.key_mask, counts, 0)

    @property
    def plain(self) -> AttentionResult:
        """Attention without any policy: output [B, H, N, Dv] and logsumexp [B, H, N].

        Of a single row also the column sums, which are its weights and cost nothing beside it.
        Whoever reads this pays for the pass, and the session then only corrects what plans change.
        """
        if self.computed.plain is None or self.computed.settled:
            single = self.query.shape[2] == 1
            self.computed.plain = self._pass(_SUMMED if single else _UNSUMMED)
        return self.computed.plain

    def _pass(self, request: Request, heads: Array | None = None) -> AttentionResult:
        out = None if self.computed.settled else self.out
        if heads is not None or out is not None:
            heads = None if heads is None else heads[None].repeat(self.batch, axis=0)
            request = request._replace(out=out, heads=heads)
        request = self.computed.known_to(request)
        found: AttentionResult = attend(
            self.query, self.key, self.value, self.mask, request, self.num_threads
        )
        return found

    def column_sums(self, heads: Array | None = None) -> Array:
        """Give the attention that each key receives from these rows, [B, H, M].

        Rows that stand at padding do not count.

        Parameters
        ----------
        heads : array of bool [H], optional
            The heads to do; what others hold means nothing.

        Returns
        -------
        array [B, H, M]
            Not to be written to.

        Examples
        --------
        >>> query = key = np.zeros((1, 1, 2, 4), dtype=np.float32)
        >>> call = Call(2, 8, query, key, key, Prompt(2), MaskSpec(causal=True))
        >>> call.column_sums().tolist()
        [[[1.5, 0.5]]]
        """
        single = self.query.shape[2] == 1
        if heads is not None:
            heads = marks("heads", heads, "[H]", (self.num_heads,))
        valid = None  # only if causal does the core know where a row stands
        if self.key_mask is not None and not self.mask.causal and not self.cross:
            valid = self.key_mask[:, None, self.first_row :]  # [B, 1, N]
        ahead = self.computed.ahead
        if ahead is None and self.computed.plain is None and valid is None and not single:
            ahead = self._run_ahead(heads)
            if ahead is not None:
                return np.asarray(ahead.found.column_sums)
        if ahead is not None:
            return sums_of(
                self.query, self.key, ahead.found.logsumexp, self.mask, heads, self.num_threads
            )
        plain = self.computed.plain
        if plain is None and valid is None:  # both in one pass
            # A single row's sums are its weights, of all heads.
            plain = self.computed.plain = self._pass(_SUMMED, None if single else heads)
            return np.asarray(plain.column_sums)
        plain = self.plain if plain is None else plain
        logsumexp, sums = plain.logsumexp, plain.column_sums
        if sums is not None and single:
            return np.asarray(sums if valid is None else np.where(valid, sums, np.float32(0)))
        assert logsumexp is not None
        if valid is not None:  # -inf is a row that sees no key
            logsumexp = np.where(valid, logsumexp, np.float32(-np.inf))
        return sums_of(self.query, self.key, logsumexp, self.mask, heads, self.num_threads)

    def _run_ahead(self, heads: Array | None) -> Ahead | None:
        """Carry out the plans so far, if they have segments of which one pass is to be made.

        What comes behind a method that asks for column sums mostly concerns few keys, and then only
        corrects what this gives.
        """
        plans = tuple(self.computed.plans)
        if all(plan.segments is None for plan in plans):
            return None
        plan = compose(plans)
        if not plan.follows_a_pass or plan.goes_beyond:
            return None
        found = self._pass(plan.request(_AHEAD), heads)
        self.computed.ahead = Ahead(plan, found)
        return self.computed.ahead

    @cached_property
    def head_outputs(self) -> Array:
        """Plain attention of each item's last prompt row that is no padding, [B, H, Dv]."""
        length = self.num_prompt
        if not self.last_chunk:
            raise ValueError(
                f"layer {self.layer}: the last prompt row of every item must be in one call, got "
                f"rows {self.first_row} to {self.key_len - 1} of a prompt of {length}; "
                "read the prompt in one call"
            )
        last = np.broadcast_to(self.last_prompt_row - self.first_row, self.batch)
        items = np.arange(self.batch)
        computed = self.computed  # among others its bits would hang on what these ask for
        plain = computed.plain if computed.alone and not computed.settled else None
        if plain is not None and plain.out.dtype == np.float32:
            return np.asarray(plain.out[items, :, last])
        start = int(last.min(initial=length - 1 - self.first_row))
        rows = self.query[:, :, start:]
        out = np.empty((*rows.shape[:3], self.value.shape[3]), np.float32)
        mask = self._mask_from(start)
        attend(rows, self.key, self.value, mask, Request(out=out), self.num_threads)
        return np.asarray(out[items, :, last - start])

    def _mask_from(self, start: int) -> MaskSpec:
        """Give the mask arguments of the rows from ``start`` on."""
        bias = self.mask.bias
        if bias is None or np.ndim(bias) < 2 or bias.shape[-2] == 1:
            return self.mask
        return self.mask._replace(bias=bias[..., start:, :])

    @property
    def has_text_branch(self) -> bool:
        """Whether the same prompt without its image is known."""
        return self.prompt.text_only is not None or self.prompt.text_outputs is not None

    @cached_property
    def text_outputs(self) -> Array:
        """Head outputs at the last row of the same prompt without its image, [B, H, Dv].

        Rows that are the text-only branch themselves get their own. In cross-attention, which is
        attention to the image, it is 0.
        """
        if self.cross:  # without an image there is nothing to attend to
            return np.zeros_like(self.head_outputs)
        if self.prompt.text_outputs is not None:
            if self.layer not in self.prompt.text_outputs:
                raise ValueError(
                    f"layer {self.layer}: the text-only run has not called this layer; run "
                    "session.text_only() over all layers"
                )
            text = self.prompt.text_outputs[self.layer]
            if text.shape != self.head_outputs.shape:
                raise ValueError(
                    f"layer {self.layer}: the text-only run must have the batch, heads and head "
                    f"size of this prompt, {self.head_outputs.shape}, got {text.shape}"
                )
            return text
        marked = self.prompt.text_only
        if marked is None:
            raise ValueError(
                f"layer {self.layer}: the same prompt without its image is needed; run it first "
                "inside session.text_only(), or put it into the batch and pass "
                "session.generation(image, text_only=rows)"
            )
        if len(marked) != self.batch or 2 * int(marked.sum()) != self.batch:
            raise ValueError(
                f"text_only must mark one row for each unmarked one of {self.batch}, "
                f"got {int(marked.sum())} of {len(marked)}"
            )
        outputs = self.head_outputs.copy()
        outputs[~marked] = outputs[marked]
        return outputs
