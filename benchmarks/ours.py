"""reattend as a candidate: plain calls, and methods as users run them, through a Session."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from cases import SINK_DIM, Arrays, Candidate, Case
from expected import var_plan

# Of the decoding model. Each step that is timed takes a layer that has not taken it yet; the
# methods leave the first two layers and the last alone.
NUM_LAYERS = 40
LAYERS = range(2, NUM_LAYERS - 1)


def reattend(case: Case, arrays: Arrays, method: str, threads: int) -> Candidate | None:
    """Time `reattend.attention` alone, and methods through `Session.attend`.

    A prefill's clock covers the opening of the generation, the search for sinks and all that a
    method does; not VHR's run without the image, which is a pass of the whole model. A decode's
    clock covers one layer in one step; the prompt and the step before are read in front of it.
    """
    import reattend as ra

    call = functools.partial(
        ra.attention, *arrays[:3], causal=True, window=case.window, num_threads=threads
    )
    labels = arrays.labels[None, None].repeat(case.batch, axis=0)
    if method == "plain":
        return Candidate(call)
    if method == "policy":
        plan = {**var_plan(case, arrays), "segments": labels}
        return Candidate(functools.partial(call, **plan))
    if method == "masses":
        return Candidate(functools.partial(call, segments=labels, returns="masses"))
    if method == "column_sums":
        return Candidate(functools.partial(call, returns="column_sums"))
    methods = {
        "VAR": ra.VAR(sink_dims=(SINK_DIM,), tau=20 / 64),
        "VHR": ra.VHR(layers=tuple(LAYERS)),
        "ACT": ra.ACT(),
        "ACT-10%": ra.ACT(heads=dict.fromkeys(LAYERS, case.calibrated)),
    }
    session = ra.Session(methods[method], num_layers=NUM_LAYERS, num_heads=case.num_heads)
    model = _Model(case, arrays, session, method == "VHR", threads)
    if case.decode:
        return Candidate(model.step, model.to_the_last_step)
    return Candidate(model.prefill, model.without_image if method == "VHR" else None)


class _Model:
    """A model of which only the attention is there: all its layers see the same arrays."""

    def __init__(
        self, case: Case, arrays: Arrays, session: Any, text_branch: bool, threads: int
    ) -> None:
        self.case, self.arrays, self.session = case, arrays, session
        self.text_branch, self.threads = text_branch, threads
        self.layer = LAYERS[0]
        self.layers: Iterator[int] = iter(())  # those that have read the prompt only
        self.generation = ExitStack()

    def prefill(self) -> Any:
        with self.session.generation(self.arrays.image):
            return self._attend(self.arrays.query, self.case.key_len, self.arrays.hidden_states)

    def step(self) -> Any:
        return self._attend(self.arrays.query, self.case.key_len)

    def to_the_last_step(self) -> None:
        """Bring a layer to where the timed step is next."""
        layer = next(self.layers, None)
        if layer is None:
            layer = self._read_prompts()
        self.layer = layer
        self._attend(self.arrays.prompt[:, :, -1:], self.case.key_len - 1)

    def without_image(self) -> None:
        with self.session.text_only():
            self._read_text()

    def _read_prompts(self) -> int:
        """Read the prompt in all layers at once: it drives what steps read out of the caches."""
        self.generation.close()
        if self.text_branch:
            with self.session.text_only():
                for self.layer in LAYERS:
                    self._read_text()
        self.generation.enter_context(self.session.generation(self.arrays.image))
        for self.layer in LAYERS:
            self._attend(self.arrays.prompt, self.case.prompt_len, self.arrays.hidden_states)
        self.layers = iter(LAYERS)
        return next(self.layers)

    def _read_text(self) -> None:
        arrays = self.arrays
        assert arrays.image is not None
        text = ~arrays.image[0]
        length = len(text)
        rows = (x[:, :, :length][:, :, text] for x in (arrays.prompt, arrays.key, arrays.value))
        self.session.attend(self.layer, *rows, num_threads=self.threads)

    def _attend(self, query: Any, length: int, hidden_states: Any = None) -> Any:
        arrays = self.arrays
        return self.session.attend(
            self.layer, query, arrays.key[:, :, :length], arrays.value[:, :, :length],
            hidden_states=hidden_states, num_threads=self.threads,
        )  # fmt: skip
