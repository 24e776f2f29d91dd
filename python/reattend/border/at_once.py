"""Calls as most are, in one call of the core, which checks their arguments too.

Python's own checks take longer than a small call, above all where keys have put Python out of the
caches. What does not fit as it is, gets None here, and is checked in Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reattend import _core
from reattend.border import arguments
from reattend.border.results import AttentionResult
from reattend.policy import Reweight


def usual(
    scale: Any, causal: Any, key_mask: Any, bias: Any, window: Any, softcap: Any, dtype: Any
) -> bool:
    """Say whether nothing is masked but by ``causal``, and numbers are those of the arrays.

    Examples
    --------
    >>> usual(0.5, True, None, None, None, None, None)
    True
    >>> usual(0.5, True, None, None, 4, None, None)
    False
    """
    return (
        key_mask is None and bias is None and window is None and softcap is None and dtype is None
        and type(causal) is bool and (scale is None or type(scale) is float)
    )  # fmt: skip


def computed(
    query: Any, key: Any, value: Any, scale: float | None, causal: bool, threads: int, *,
    segments: Any = None, policy: Any = None, where: Any = None,
    weighed: bool = False, summed: bool = False, plain: AttentionResult | None = None,
) -> AttentionResult | None:  # fmt: skip
    """Compute `attention` with any number of `Reweight`, if its arguments fit as they are.

    Parameters
    ----------
    query, key, value, scale, causal, segments, policy, where
        As for `attention`.
    threads : int
        Threads to use.
    weighed, summed : bool
        Whether masses, and whether logsumexp and column sums are wanted.
    plain : AttentionResult, optional
        What this function gave without a policy, to be revised in place.

    Examples
    --------
    >>> query = key = value = np.zeros((1, 1, 2, 4), np.float32)
    >>> how = {"policy": Reweight(weight=(2,)), "weighed": True}
    >>> computed(query, key, value, None, True, 1, **how).masses.tolist()
    [[[[1.0], [1.0]]]]
    >>> computed(query.astype(int), key, value, None, True, 1) is None
    True
    """
    rules = []
    if policy is not None:
        if isinstance(policy, Reweight):
            policy, where = (policy,), (where,)
        if type(policy) is not tuple or type(where) is not tuple or len(policy) != len(where):
            return None
        for each, rows in zip(policy, where, strict=True):
            if not isinstance(each, Reweight) or not (rows is None or type(rows) is np.ndarray):
                return None
            rules.append((*each.packed, rows))
    elif segments is not None or where is not None:
        return None
    found = _core.attention_if_fit(
        query, key, value, scale, causal, threads, segments, rules, weighed, summed,
        None if plain is None else (plain.out, plain.logsumexp),
    )  # fmt: skip
    return None if found is None else AttentionResult(*found)


def applied_step(
    plain: AttentionResult, query: Any, key: Any, value: Any, *,
    segments: Any, policy: Any, where: Any, num_threads: int | None, scale: Any, causal: Any,
    **mask: Any,
) -> AttentionResult | None:  # fmt: skip
    """Do `second_pass.apply_policy` with masses, if arguments fit as they are.

    Parameters
    ----------
    plain : AttentionResult
        What `attention.plain_pass` gave in arrays of its own.

    Examples
    --------
    >>> query = key = value = np.ones((1, 1, 1, 4), np.float32)
    >>> plain = computed(query, key, value, None, True, 1, summed=True)
    >>> how = {"segments": None, "policy": Reweight(weight=(2,)), "where": None, "num_threads": 1}
    >>> mask = dict.fromkeys(("key_mask", "bias", "window", "softcap", "dtype"))
    >>> applied_step(plain, query, key, value, scale=None, causal=True, **how, **mask).out.tolist()
    [[[[2.0, 2.0, 2.0, 2.0]]]]
    """
    if not usual(scale, causal, **mask):
        return None
    return computed(
        query, key, value, scale, causal, arguments.threads(num_threads), segments=segments,
        policy=policy, where=where, weighed=True, plain=plain,
    )  # fmt: skip
