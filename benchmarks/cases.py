"""The cases: shapes with a model's name, and arrays in which the methods find something to do."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

REST, TEXT_SINK, VISUAL_SINK, VISUAL = range(4)  # labels, as in VAR's page
# ACT in all heads, and in a tenth of them; then what one call gives beside its output. `policy` is
# VAR's segments and policy handed to one call, without the session around it.
METHODS = ("plain", "VAR", "VHR", "ACT", "ACT-10%", "policy", "masses", "column_sums")
IMAGE_METHODS = ("VAR", "VHR", "policy", "masses")
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
    dtype: str = "float32"  # of query, key, value and the output; or "bfloat16", "float16"
    batch: int = 1
    window: int | None = None

    @property
    def decode(self) -> bool:
        return self.query_len == 1

    @property
    def visible(self) -> int:
        """Pairs of a query and a key that it sees, of one head."""
        rows = np.arange(self.key_len - self.query_len, self.key_len)
        return int(np.minimum(rows + 1, self.window or self.key_len).sum())

    @property
    def flops(self) -> int:
        """Of both matrix products, over visible pairs only."""
        return 2 * 2 * self.head_dim * self.visible * self.num_heads * self.batch

    @property
    def cache_bytes(self) -> int:
        """Of keys and values: what a decode step must read."""
        item = 4 if self.dtype == "float32" else 2
        return 2 * self.batch * self.num_kv_heads * self.key_len * self.head_dim * item

    @property
    def methods(self) -> tuple[str, ...]:
        return METHODS if self.image else tuple(m for m in METHODS if m not in IMAGE_METHODS)

    @property
    def calibrated(self) -> tuple[int, ...]:
        """Heads of the case ACT-10%."""
        return tuple(range(0, self.num_heads, 10))[: max(1, self.num_heads // 10)]


def _typed(dtype: str, *cases: Case) -> tuple[Case, ...]:
    return tuple(replace(case, name=f"{case.name} {dtype}", dtype=dtype) for case in cases)


_TEXT: dict[str, Any] = {"head_dim": 64, "image": None, "hidden_size": 576}  # SmolLM2
_PREFILLS = (
    Case("llava-1.5-7b prefill 640", 32, 32, 640, 640),
    Case("llava-1.5-7b prefill 2048", 32, 32, 2048, 2048),
    Case("llava-next-7b prefill 2880", 32, 32, 2880, 2880, image=(36, 2340)),
    Case("smollm2-135m prefill 512", 9, 3, 512, 512, **_TEXT),
)
_DECODES = (
    Case("llava-1.5-7b decode 640", 32, 32, 1, 640, prompt_len=638),
    Case("llava-1.5-7b decode 4096", 32, 32, 1, 4096),
    Case("llava-1.5-7b decode 32768", 32, 32, 1, 32768),
    Case("llama3-llava-next-8b decode 4096", 32, 8, 1, 4096),
    Case("smollm2-135m decode 4096", 9, 3, 1, 4096, **_TEXT),
    Case("smollm2-135m decode 64", 9, 3, 1, 64, prompt_len=62, **_TEXT),
)
_HALVES = (*_PREFILLS[:2], _DECODES[1], *_DECODES[3:5])
CASES = (
    *_PREFILLS,
    *_DECODES,
    *_typed("bfloat16", *_HALVES),
    *_typed("float16", _PREFILLS[1], _DECODES[1]),
)
_QUICK = (
    Case("quick prefill 160", 4, 2, 160, 160, 32, image=(36, 132), hidden_size=64),
    Case("quick decode 600", 4, 2, 1, 600, 32, 160, image=(36, 132), hidden_size=64),
)
QUICK = (*_QUICK, *_typed("bfloat16", *_QUICK), *_typed("float16", *_QUICK))


class Candidate(NamedTuple):
    """A call to be timed.

    It returns its output, reshapable to [B, H, N, D], as an array or a tensor; for `masses` and
    `column_sums` a pair of that and these.
    """

    run: Callable[[], Any]
    before: Callable[[], Any] | None = None  # what each call needs first, off the clock
    own_bytes: int = 0  # of inputs and outputs in a layout of its own


class Arrays(NamedTuple):
    """What every candidate of a case gets; the first four are of the case's type."""

    query: NDArray[Any]  # [B, H, N, D]
    key: NDArray[Any]  # [B, H_kv, M, D]
    value: NDArray[Any]  # [B, H_kv, M, D]
    prompt: NDArray[Any]  # [B, H, P, D], queries of the prompt
    labels: NDArray[np.uint8]  # [P], the prompt's segments for VAR
    image: NDArray[np.bool_] | None  # [B, P]
    hidden_states: NDArray[np.float32] | None  # [B, P, C]


def make(case: Case) -> Arrays:
    """Make a case's arrays; the same ones each time.

    Keys' first coordinate is what they add to every score, set so that a row that sees all keys
    spends about a quarter of its attention on key 0, a fifth on a later sink at a word, a quarter
    on the image and a tenth on the dozen of visual sinks in it: VAR's tests pass behind the image,
    and ACT finds a sink. The other coordinates are normal.
    """
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    length = case.prompt_len if case.decode else case.key_len
    shape = (case.batch, case.num_kv_heads, case.key_len, case.head_dim)
    rows = (case.batch, case.num_heads, case.query_len, case.head_dim)
    query = rng.standard_normal(rows, np.float32)
    key, value = rng.standard_normal(shape, np.float32), rng.standard_normal(shape, np.float32)
    prompt = query
    if case.decode:
        prompt = rng.standard_normal((*rows[:2], length, case.head_dim), np.float32)

    labels = np.full(length, REST, np.uint8)
    labels[[0, LATER_SINK]] = TEXT_SINK
    shares = {TEXT_SINK: 0.45, REST: 0.55}
    image = None
    if case.image is not None:
        begin, end = case.image
        labels[begin:end] = VISUAL
        labels[rng.choice(np.arange(begin, end), 12, replace=False)] = VISUAL_SINK
        image = np.isin(labels, (VISUAL_SINK, VISUAL))[None].repeat(case.batch, 0)
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
        hidden_states = rng.standard_normal((case.batch, length, case.hidden_size), np.float32)
        hidden_states[..., SINK_DIM] = np.where(np.isin(np.arange(length), sinks), 1500, 0)
    if case.dtype == "bfloat16":
        import ml_dtypes  # noqa: F401  teaches NumPy the name
    numbers = (laid(each.astype(case.dtype, copy=False)) for each in (query, key, value, prompt))
    return Arrays(*numbers, labels, image, hidden_states)


def laid(array: Any) -> Any:
    """Lay an array at the beginning of a cache line, as torch and `KVCache` do; NumPy does not."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    found = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found
