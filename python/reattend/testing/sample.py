"""A small generation to try methods on, and how to run them over it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reattend.call import Call
from reattend.method import Method
from reattend.plan import Plan
from reattend.planned import planned
from reattend.policy import Array
from reattend.row_scope import check_scope
from reattend.session import Session


@dataclass(frozen=True)
class Inputs:
    """Everything the attention of a model sees in one generation: a prompt, then its steps.

    Examples
    --------
    >>> inputs = sample(0)
    >>> inputs.take(np.array([2, 2])).batch
    2
    """

    query: Array  # [L, B, H, T, D], T the length of prompt and answer
    key: Array  # [L, B, H_kv, T, D]
    value: Array  # [L, B, H_kv, T, Dv]
    hidden_states: Array  # [L, B, T, C]
    image: Array | None  # bool [B, P]
    prompt_len: int  # P
    text: tuple[Array, ...] | None = None  # query, key, value of the text-only prompt
    key_mask: Array | None = None  # bool [B, T]

    @property
    def batch(self) -> int:
        """Number of items B."""
        return int(self.query.shape[1])

    @property
    def length(self) -> int:
        """Length of prompt and answer T."""
        return int(self.query.shape[3])

    def layers(self) -> Iterator[tuple[Array, Array, Array, Array]]:
        """Give query, key, value and hidden states of each layer."""
        return zip(self.query, self.key, self.value, self.hidden_states, strict=True)

    def take(self, items: Array) -> Inputs:
        """Give some items, in some order.

        Parameters
        ----------
        items : array of int
            Indices into the batch.

        Examples
        --------
        >>> sample(0).take(np.array([1])).image.shape
        (1, 24)
        """
        text = self.text and tuple(array[:, items] for array in self.text)
        return dataclasses.replace(
            self._map(lambda array, axis: array[:, items]),
            image=None if self.image is None else self.image[items],
            key_mask=None if self.key_mask is None else self.key_mask[items],
            text=text,
        )

    def pad_left(self, width: int) -> Inputs:
        """Put padding of arbitrary content before every item.

        Parameters
        ----------
        width : int
            How many positions.

        Examples
        --------
        >>> sample(0).pad_left(5).key_mask.sum(-1)
        array([27, 27, 27])
        """

        def pad(array: Array, axis: int) -> Array:
            return np.concatenate([np.take(array, range(3, 3 + width), axis) * 3, array], axis)

        key_mask = np.arange(self.length + width) >= np.full((self.batch, 1), width)
        image = None if self.image is None else np.pad(self.image, ((0, 0), (width, 0)))
        length = self.prompt_len + width
        return dataclasses.replace(
            self._map(pad), image=image, key_mask=key_mask, prompt_len=length
        )

    def cut_left(self, width: int) -> Inputs:
        """Leave out the first positions of every item.

        Parameters
        ----------
        width : int
            How many positions.

        Examples
        --------
        >>> sample(0).cut_left(2).length
        25
        """
        return dataclasses.replace(
            self._map(lambda array, axis: array.take(range(width, self.length), axis)),
            image=None if self.image is None else self.image[:, width:],
            key_mask=None if self.key_mask is None else self.key_mask[:, width:],
            prompt_len=self.prompt_len - width,
        )

    def in_scope(self, rows: str = "all", phase: str = "both") -> Array:
        """Mark the rows of prompt and answer that a plan with these words is for, bool [B, T].

        Parameters
        ----------
        rows, phase : str, optional
            As `Plan` takes them.

        Examples
        --------
        >>> sample(0).in_scope("last", "prefill").nonzero()[1]
        array([23, 23, 23])
        """
        check_scope(rows, phase)
        place = np.arange(self.length)
        named = np.ones((self.batch, self.length), bool)
        if rows == "after_image" and self.image is not None:
            first = [int(np.argmax(each)) for each in self.image]
            ends = [
                start + int(np.argmin([*each[start:], False]))
                for start, each in zip(first, self.image, strict=True)
            ]
            behind = place >= np.array(ends)[:, None]
            named = behind & self.image.any(-1, keepdims=True)
        elif rows == "after_image":
            named[:] = False
        elif rows == "last":
            valid = np.ones_like(named) if self.key_mask is None else self.key_mask
            prompt = valid[:, : self.prompt_len]
            last = self.prompt_len - 1 - prompt[:, ::-1].argmax(-1)
            named = (place >= self.prompt_len) | (place == last[:, None])
        wanted = {"prefill": place < self.prompt_len, "decode": place >= self.prompt_len}
        return np.asarray(named & wanted.get(phase, True))

    def strided(self) -> Inputs:
        """Give the same numbers in arrays with heads behind positions, and gaps."""

        def gaps(array: Array, axis: int) -> Array:
            wide = np.repeat(array.swapaxes(2, -2), 2, axis=0)  # [2 L, B, T, H, D]
            return wide[::2].swapaxes(2, -2)

        states = np.repeat(self.hidden_states, 2, axis=-1)[..., ::2]
        return dataclasses.replace(self._map(gaps), hidden_states=states)

    def quiet(self) -> Inputs:
        """Give a prompt without image and sinks: even attention, no massive activation."""
        return dataclasses.replace(
            self,
            query=np.zeros_like(self.query),
            hidden_states=np.sign(self.hidden_states),
            image=None,
            text=None,
        )

    def _map(self, change: object) -> Inputs:
        """Change the arrays that have positions, told which axis these are."""
        assert callable(change)
        return dataclasses.replace(
            self,
            query=change(self.query, 3),
            key=change(self.key, 3),
            value=change(self.value, 3),
            hidden_states=change(self.hidden_states, 2),
        )


def sample(seed: int) -> Inputs:
    """Make a generation of three items: one image, two images, none; with text and visual sinks.

    Sinks get much attention, and their hidden states have massive activations in dimensions 7 and
    100, as in real models.

    Parameters
    ----------
    seed : int
        Of the random numbers.

    Returns
    -------
    Inputs
        5 layers, 4 heads that share 2 key heads, a prompt of 24 tokens and 3 steps.

    Examples
    --------
    >>> sample(0).image.sum(-1)
    array([10, 12,  0])
    """
    rng = np.random.default_rng(seed)
    num_layers, batch, heads, kv_heads, length, steps, size = 5, 3, 4, 2, 24, 3, 16
    total = length + steps
    image = np.zeros((batch, length), dtype=bool)
    image[0, 4:14] = image[1, 3:9] = image[1, 12:18] = True
    sink = np.zeros((batch, total), dtype=bool)
    sink[:, 0] = sink[0, 6] = sink[0, 11] = sink[1, 5] = sink[1, 14] = sink[:, 19] = True

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape, dtype=np.float32)

    pull = 1.5 * sink  # [B, T], what draws attention: sinks, then the image
    pull[:, :length] += 0.4 * image
    direction = normal(num_layers, 1, 1, 1, size)
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    query = normal(num_layers, batch, heads, total, size) + size**0.5 * direction
    key = normal(num_layers, batch, kv_heads, total, size) * 0.7
    key = (key + pull[None, :, None, :, None] * direction).astype(np.float32)
    value = normal(num_layers, batch, kv_heads, total, size)
    states = normal(num_layers, batch, total, 512)
    states[..., [7, 100]] = np.where(sink[..., None], (3000, 900), states[..., [7, 100]])
    short = length - 10
    text = tuple(normal(num_layers, batch, h, short, size) for h in (heads, kv_heads, kv_heads))
    return Inputs(query, key, value, states, image, length, text)


def run(
    methods: Method | Sequence[Method],
    inputs: Inputs,
    *,
    chunks: Sequence[int] = (),
    one_pass: bool = False,
    reorder: Array | None = None,
    num_threads: int | None = None,
    session: Session | None = None,
) -> Array:
    """Run methods over a generation and give what attention gave, [L, B, H, T, Dv].

    Parameters
    ----------
    methods : Method or sequence of Method
        What runs.
    inputs : Inputs
        Prompt, steps and text-only branch.
    chunks : sequence of int, optional
        Where to cut the prompt.
    one_pass : bool, optional
        Whether prompt and steps are one call.
    reorder : array of int, optional
        The new order of the batch between the prompt and the first step.
    num_threads : int, optional
        Threads to use.
    session : Session, optional
        Runs in this session, instead of a new one.

    Examples
    --------
    >>> from reattend.methods import ACT
    >>> run(ACT(), sample(0)).shape
    (5, 3, 4, 27, 16)
    """
    if session is None:
        session = Session(methods, num_layers=len(inputs.query))
    if inputs.text is not None:
        with session.text_only():
            for layer, (query, key, value) in enumerate(zip(*inputs.text, strict=True)):
                session.attend(layer, query, key, value, num_threads=num_threads)
    steps = range(inputs.prompt_len + 1, inputs.length + 1)
    cuts = [inputs.length] if one_pass else [*chunks, inputs.prompt_len, *steps]
    outputs: list[Array] = []
    start = 0
    with _generation(session, inputs):
        for end in cuts:
            if reorder is not None and start == inputs.prompt_len:
                session.reorder(reorder)
                inputs = inputs.take(reorder)
                outputs = [out[:, reorder] for out in outputs]
            mask = None if inputs.key_mask is None else inputs.key_mask[:, :end]
            out = [
                session.attend(
                    layer, query[:, :, start:end], key[:, :, :end], value[:, :, :end],
                    hidden_states=states[:, start:end], key_mask=mask, num_threads=num_threads,
                )
                for layer, (query, key, value, states) in enumerate(inputs.layers())
            ]  # fmt: skip
            outputs.append(np.stack(out))
            start = end
    return np.concatenate(outputs, axis=3)


@contextmanager
def _generation(session: Session, inputs: Inputs) -> Iterator[None]:
    """Open a generation; that a method finds no image is what some laws are about."""
    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* will change nothing")
            stack.enter_context(session.generation(inputs.image, prompt_len=inputs.prompt_len))
        yield


@dataclass(frozen=True)
class Recorder(Method):
    """Another method, whose plans are kept for a test to look at.

    Paper: none, a test's instrument.

    Examples
    --------
    >>> from reattend.methods import ACT
    >>> Recorder(ACT()).plans
    []
    """

    method: Method  # the other method
    plans: list[Plan | None] = field(default_factory=list)  # one for each call

    def plan(self, call: Call, state: Any) -> tuple[Plan | None, Any]:
        """Do what the method does."""
        plan, state = planned(self.method, call, state)
        self.plans.append(plan)
        return plan, state

    def readings(self, state: Any) -> Any:
        """Do what the method does."""
        return self.method.readings(state)
