"""What a candidate must give: each method as its page has it, with the full matrix in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import VISUAL, VISUAL_SINK, Arrays, Case
from numpy.typing import NDArray
from reattend import Reweight, Share, measures, reference

# A float32 score carries an error of some 1e-6, which exp hands on to its weight; the outputs'
# largest magnitude is about 1. A key too many, or a factor left out, is a hundred times that. In
# the 16-bit types peers round scores and weights too, to 8 and 11 bits; a row of these is off by
# several roundings where it decides between two factors.
TOLERANCE = {"float32": 2e-5, "float16": 1e-2, "bfloat16": 8e-2}


def checked_heads(case: Case) -> tuple[int, ...]:
    """Give the heads whose full matrix is made: calibrated and not, and the last one."""
    return tuple(sorted({0, case.num_heads // 2 - 1, case.num_heads - 1}))


# A case's arrays are always the same, and what is right of them is asked for by every peer.
_known: dict[tuple[Case, str, int], list[NDArray[np.float64]]] = {}


def expected(case: Case, arrays: Arrays, method: str, head: int) -> list[NDArray[np.float64]]:
    """Give the output of one head, [N, D], and what the method gives beside it."""
    plan: dict[str, Any] = {}
    scale = 1.0
    if method in ("masses", "column_sums"):
        segments = arrays.labels[None, None]
        found = reference.attention(
            *_one_head(case, arrays, head), causal=True, segments=segments, returns=(method,)
        )
        return [found.out[0, 0], getattr(found, method)[0, 0]]
    if method in ("VAR", "policy"):
        plan = var_plan(case, arrays)
    elif method == "ACT" or (method == "ACT-10%" and head in case.calibrated):
        plan = _act(case, arrays, head)
    elif method == "VHR":
        scale = 2.0 if _reinforced(case, arrays)[head] else 1.0
    out = reference.attention(*_one_head(case, arrays, head), causal=True, **plan)
    return [scale * np.asarray(out)[0, 0]]


def error(case: Case, arrays: Arrays, method: str, found: Any) -> float:
    """Give the largest error over the checked heads, relative to their largest magnitude."""
    found = [each for each in (found if isinstance(found, tuple) else (found,)) if each is not None]
    worst = 0.0
    for head in checked_heads(case):
        place = case, method, head
        if place not in _known:
            _known[place] = expected(case, arrays, method, head)
        for one, right in zip(found, _known[place], strict=True):
            numbers = _numbers(one).reshape(case.batch, case.num_heads, *right.shape)[0, head]
            off = float(np.abs(numbers - right).max() / np.abs(right).max())
            worst = max(worst, off if np.isfinite(off) else np.inf)
    return worst


def _numbers(found: Any) -> NDArray[np.float64]:
    """Give an array's or a tensor's numbers; NumPy cannot read a tensor of 16 bits."""
    return np.asarray(found.float() if hasattr(found, "float") else found, np.float64)


def _one_head(case: Case, arrays: Arrays, head: int) -> tuple[NDArray[Any], ...]:
    kv_head = head * case.num_kv_heads // case.num_heads
    few = slice(kv_head, kv_head + 1)
    return arrays.query[:1, head : head + 1], arrays.key[:1, few], arrays.value[:1, few]


def var_plan(case: Case, arrays: Arrays) -> dict[str, Any]:
    """Give what VAR asks of `attention`: segments, policy and the rows it is for."""
    assert case.image is not None
    image = (VISUAL_SINK, VISUAL)
    rows = np.arange(case.key_len - case.query_len, case.key_len)
    policy = Reweight(
        weight=(1, 0.6, 0.6, 1),  # rest, text sinks, visual sinks, image
        to=(VISUAL,),
        when=(Share(image, 0.2), Share((VISUAL,), 0.5, within=image)),
    )
    return {"segments": arrays.labels[None, None], "policy": policy, "where": rows >= case.image[1]}


def _act(case: Case, arrays: Arrays, head: int) -> dict[str, Any]:
    query, key, _ = _one_head(case, arrays, head)
    runs = [(query, case.key_len)]
    if case.decode:  # the prompt, the step before, and this one
        prompt = arrays.prompt[:, head : head + 1]
        runs += [(prompt, case.prompt_len), (prompt[:, :, -1:], case.key_len - 1)]
    sums, counts = np.zeros(case.key_len), np.zeros(case.key_len)
    for rows, num_keys in runs:
        matrix, _, seen = reference.weights(rows, key[:, :, :num_keys], causal=True)
        sums[:num_keys] += matrix[0, 0].sum(0)
        counts[:num_keys] += seen[0, 0].sum(0)
    sink = sums / np.maximum(counts, 1) > 0.15
    sink[0] = False
    segments = sink.astype(np.uint8)[None, None]
    return {"segments": segments, "policy": Reweight(weight=(1, 0.4), to=(0,))}


def _reinforced(case: Case, arrays: Arrays) -> NDArray[np.bool_]:
    """Give the heads that react more than the median one to the image, bool [H]."""
    length = case.prompt_len if case.decode else case.key_len
    assert arrays.image is not None
    outputs = []
    for keys in (np.ones(length, bool), ~arrays.image[0]):  # with the image, and without
        key, value = (each[:, :, :length][:, :, keys] for each in (arrays.key, arrays.value))
        out = np.asarray(reference.attention(arrays.prompt[:, :, -1:], key, value))
        outputs.append(out[:, :, 0])  # [1, H, D]
    return np.asarray(measures.head_divergence(*outputs).chosen[0])
