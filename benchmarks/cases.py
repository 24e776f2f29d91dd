"""The cases: shapes with a model's name, and arrays in which the methods find something to do."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

REST, TEXT_SINK, VISUAL_SINK, VISUAL = range(4)  # labels, as in VAR's page
METHODS = ("plain", "VAR", "VHR", "ACT", "ACT-10%")  # ACT in all heads, and in a tenth of them
IMAGE_METHODS = ("VAR", "VHR")
SINK_DIM = 5  # the hidden states' massive dimension
LATER_SINK = 20  # a sink at a word in front of the image: what ACT calibrates


@dataclass(frozen=True)
class Case:
    """One attention call of a model. A decode case is one step behind a prompt."""

    name: str
    num_heads: int
    num_kv_heads: int
    query_len: int
    key_len: int
    head_dim: int = 128
    prompt_len: int = 640  # of a decode case; a prefill's prompt is all of it
    image: tuple[int, int] | None = (36, 612)  # 576 tokens behind a system prompt
    hidden_size: int = 4096

    @property
    def decode(self) -> bool:
        return self.query_len == 1

    @property
    def methods(self) -> tuple[str, ...]:
        return METHODS if self.image else tuple(m for m in METHODS if m not in IMAGE_METHODS)

    @property
    def calibrated(self) -> tuple[int, ...]:
        """Heads of the case ACT-10%."""
        return tuple(range(0, self.num_heads, 10))[: max(1, self.num_heads // 10)]


CASES = (
    Case("llava-1.5-7b prefill 640", 32, 32, 640, 640),
    Case("llava-1.5-7b prefill 2048", 32, 32, 2048, 2048),
    Case("llava-next-7b prefill 2880", 32, 32, 2880, 2880, image=(36, 2340)),
    Case("smollm2-135m prefill 512", 9, 3, 512, 512, 64, image=None, hidden_size=576),
    Case("llava-1.5-7b decode 640", 32, 32, 1, 640, prompt_len=638),
    Case("llava-1.5-7b decode 4096", 32, 32, 1, 4096),
    Case("llava-1.5-7b decode 32768", 32, 32, 1, 32768),
    Case("llama3-llava-next-8b decode 4096", 32, 8, 1, 4096),
    Case("smollm2-135m decode 4096", 9, 3, 1, 4096, 64, image=None, hidden_size=576),
)
QUICK = (
    Case("quick prefill 160", 4, 2, 160, 160, 32, image=(36, 132), hidden_size=64),
    Case("quick decode 600", 4, 2, 1, 600, 32, 160, image=(36, 132), hidden_size=64),
)


class Candidate(NamedTuple):
    """A call to be timed; it returns what `np.asarray` takes, reshapable to [1, H, N, D]."""

    run: Callable[[], Any]
    before: Callable[[], Any] | None = None  # what each call needs first, off the clock
    own_bytes: int = 0  # of inputs and outputs in a layout of its own


class Arrays(NamedTuple):
    """What every candidate of a case gets."""

    query: NDArray[np.float32]  # [1, H, N, D]
    key: NDArray[np.float32]  # [1, H_kv, M, D]
    value: NDArray[np.float32]  # [1, H_kv, M, D]
    prompt: NDArray[np.float32]  # [1, H, P, D], queries of the prompt
    labels: NDArray[np.uint8]  # [P], the prompt's segments for VAR
    image: NDArray[np.bool_] | None  # [1, P]
    hidden_states: NDArray[np.float32] | None  # [1, P, C]


def make(case: Case) -> Arrays:
    """Make a case's arrays; the same ones each time.

    Keys' first coordinate is what they add to every score, set so that a row that sees all keys
    spends about a quarter of its attention on key 0, a fifth on a later sink at a word, a quarter
    on the image and a tenth on the dozen of visual sinks in it: VAR's tests pass behind the image,
    and ACT finds a sink. The other coordinates are normal.
    """
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    length = case.prompt_len if case.decode else case.key_len
    shape = (1, case.num_kv_heads, case.key_len, case.head_dim)
    query = rng.standard_normal((1, case.num_heads, case.query_len, case.head_dim), np.float32)
    key, value = rng.standard_normal(shape, np.float32), rng.standard_normal(shape, np.float32)
    prompt = query
    if case.decode:
        prompt = rng.standard_normal((1, case.num_heads, length, case.head_dim), np.float32)

    labels = np.full(length, REST, np.uint8)
    labels[[0, LATER_SINK]] = TEXT_SINK
    shares = {TEXT_SINK: 0.45, REST: 0.55}
    image = None
    if case.image is not None:
        begin, end = case.image
        labels[begin:end] = VISUAL
        labels[rng.choice(np.arange(begin, end), 12, replace=False)] = VISUAL_SINK
        image = np.isin(labels, (VISUAL_SINK, VISUAL))[None]
        shares = {TEXT_SINK: 0.45, VISUAL_SINK: 0.1, VISUAL: 0.25, REST: 0.2}

    sinks = np.flatnonzero((labels == TEXT_SINK) | (labels == VISUAL_SINK))
    key[:, :, sinks] *= 0.1  # sinks' keys hardly vary
    whole = np.pad(labels, (0, case.key_len - length))
    count = np.bincount(whole, minlength=4)
    for label, share in shares.items():
        ratio = share / count[label] * count[REST] / shares[REST]
        noise = 0.5 if label in (TEXT_SINK, VISUAL_SINK) else 0.0  # the log of E exp(normal)
        key[..., whole == label, 0] = np.log(ratio) + noise
    key[:, :, 0, 0] += 0.1  # a quarter and a fifth, not twice the same
    key[:, :, LATER_SINK, 0] -= 0.1
    for some in (query, prompt):
        some[..., 0] = case.head_dim**0.5

    hidden_states = None
    if image is not None:
        hidden_states = rng.standard_normal((1, length, case.hidden_size), np.float32)
        hidden_states[..., SINK_DIM] = np.where(np.isin(np.arange(length), sinks), 1500, 0)
    return Arrays(query, key, value, prompt, labels, image, hidden_states)
