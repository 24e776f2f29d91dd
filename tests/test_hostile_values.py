"""Whatever a public function is given, it takes as NumPy would, or names the argument it refuses.

A row of the table is a call that fits; each of its arguments then takes each hostile value in turn.
What comes back must be a result, or a TypeError or ValueError that names the argument.
"""

import inspect
import re

import numpy as np
import pytest
import reattend as ra
from reattend import measures, sinks
from test_codebase import exported

RNG = np.random.default_rng(0)
QUERY = RNG.standard_normal((2, 4, 3, 8), dtype=np.float32)
KEY, VALUE = RNG.standard_normal((2, 2, 2, 5, 8), dtype=np.float32)
WEIGHTS = np.full((2, 4, 5, 5), 0.2, np.float32)  # [layers or B, H, N, M]
STATES = RNG.standard_normal((2, 5, 16), dtype=np.float32)
OUTPUTS = RNG.standard_normal((2, 4, 8), dtype=np.float32)
LABELS = np.zeros((2, 1, 5), np.uint8)
LABELS[..., 1] = 1
POLICY = ra.Reweight(weight=(1, 0.4), to=(0,))
MASK = {
    "scale": 0.3, "causal": True, "key_mask": np.ones((2, 5), bool), "window": 3, "softcap": 20.0,
}  # fmt: skip
BIAS = {"bias": np.zeros((3, 5), np.float32)}
ARRAYS = {"query": QUERY, "key": KEY, "value": VALUE}
MANY = {"dtype": None, "num_threads": 1}
SEGMENTS = {"segments": LABELS, "policy": POLICY, "where": np.ones(3, bool)}


def plain():
    return ra.attention(**ARRAYS, **MASK, **BIAS, returns="logsumexp")


def cache():
    found = ra.KVCache(2)
    found.append(0, KEY, VALUE)
    found.append(1, KEY, VALUE)
    return found


def attend(**given):
    with (session := ra.Session([ra.ACT()], num_layers=4)).generation():
        return session.attend(**given)


def generation(**given):
    with ra.Session([ra.VAR(sink_dims=(0,), tau=0.3)], num_layers=4).generation(**given):
        pass


def reorder(**given):
    with (session := ra.Session([], num_layers=1)).generation():
        session.attend(0, QUERY, KEY, VALUE)
        session.reorder(**given)


def call():
    return ra.Call(0, 4, QUERY, KEY, VALUE, ra.call.Prompt(5))


def boost():
    return ra.Transform(shift=np.zeros((2, 1, 5)), first_row=1)


def method_of(name, **fields):
    return {f"{name}": (getattr(ra, name), fields)}


# What to call, and arguments that fit.
TABLE = {
    "attention.attention": (
        ra.attention,
        {**ARRAYS, **MASK, **BIAS, **SEGMENTS, **MANY, "returns": ("masses",), "transform": None,
         "null_logit": np.zeros((2, 4, 3)), "out": np.empty((2, 4, 3, 8), np.float32)},
    ),
    "attention.segment_pass": (
        ra.segment_pass,
        {**ARRAYS, **MASK, **BIAS, **MANY, "segments": LABELS, "num_segments": 2},
    ),
    "border.explanation.explain": (
        ra.explain,
        {**ARRAYS, **MASK, **BIAS, **SEGMENTS, **MANY, "returns": ("masses",), "transform": None,
         "null_logit": np.zeros((2, 4, 3)), "out": np.empty((2, 4, 3, 8), np.float32)},
    ),
    "column_sums.column_sums": (
        ra.column_sums,
        {"query": QUERY, "key": KEY, **MASK, **BIAS, **MANY, "heads": np.ones(4, bool),
         "logsumexp": np.zeros((2, 4, 3), np.float32)},
    ),
    "column_sums.apply_policy": (
        lambda **given: ra.apply_policy(given.pop("plain", plain()), **given),
        {**ARRAYS, **MASK, **BIAS, **SEGMENTS, **MANY, "returns": ("masses",)},
    ),
    "border.quantized.quantize": (ra.quantize, {"array": KEY, "name": "array"}),
    "border.results.combine": (
        ra.combine, {"partials": np.ones((2, 4, 3, 2, 8)), "factors": np.ones((2, 4, 3, 2))}
    ),
    "border.results.merge": (ra.merge, {"states": [ra.segment_pass(**ARRAYS, segments=None)] * 2}),
    "cache.kv_cache.KVCache": (ra.KVCache, {"num_layers": 2, "dtype": "float32"}),
    "cache.kv_cache.KVCache.append": (
        lambda **given: cache().append(**given), {"layer": 0, "key": KEY, "value": VALUE}
    ),
    "cache.kv_cache.KVCache.crop": (lambda **given: cache().crop(**given), {"length": 2}),
    "cache.kv_cache.KVCache.keep": (
        lambda **given: cache().keep(**given), {"layer": 0, "indices": np.array([0, 3])}
    ),
    "cache.kv_cache.KVCache.length": (lambda **given: cache().length(**given), {"layer": 1}),
    "cache.kv_cache.KVCache.reorder": (
        lambda **given: cache().reorder(**given), {"indices": np.array([1, 0])}
    ),
    "call.Call.column_sums": (
        lambda **given: call().column_sums(**given), {"heads": np.ones(4, bool)}
    ),
    "call.Call.in_spans": (lambda **given: call().in_spans(**given), {"spans": [(0, 2)]}),
    "call.Call.score_sums": (
        lambda **given: call().score_sums(**given),
        {"keys": np.ones((2, 5), bool), "rows": np.array([False, True, True])},
    ),
    "measures.across_layers.flow": (measures.flow, {"weights": WEIGHTS[0], "row": -1}),
    "measures.across_layers.rollout": (measures.rollout, {"weights": WEIGHTS[0]}),
    "measures.activations.cosine_to_first": (
        measures.cosine_to_first, {"hidden_states": STATES}
    ),
    "measures.activations.massive_activations": (
        measures.massive_activations,
        {"hidden_states": STATES, "k": 3, "at_least": 100.0, "times": 1000.0},
    ),
    "measures.activations.modality_alignment": (
        measures.modality_alignment,
        {"hidden_states": STATES, "image": np.array([True, True, False, False, False])},
    ),
    "measures.distance.future_influence": (
        measures.future_influence,
        {"query": RNG.standard_normal((2, 4, 5, 8), dtype=np.float32), "key": KEY, "first": 1,
         "last": 3, "scale": 0.3, "key_mask": np.ones((2, 5), bool), "softcap": None,
         "num_threads": 1},
    ),
    "measures.distance.local_share": (
        measures.local_share,
        {"query": QUERY, "key": KEY, "window": 2, "scale": 0.3, "causal": True,
         "key_mask": np.ones((2, 5), bool), "softcap": 20.0, "num_threads": 1},
    ),
    "measures.distance.mean_distance": (
        measures.mean_distance,
        {"query": QUERY, "key": KEY, "clip": 3, "scale": 0.3, "key_mask": np.ones((2, 5), bool),
         "softcap": 20.0, "num_threads": 1},
    ),
    "measures.heads.jensen_shannon": (measures.jensen_shannon, {"weights": WEIGHTS}),
    "measures.heads.logit_attribution": (
        measures.logit_attribution,
        {"head_outputs": OUTPUTS, "projection": np.ones((32, 16), np.float32).T,
         "unembedding": np.ones((7, 16), np.float32)},
    ),
    "measures.heads.pruning_order": (
        measures.pruning_order, {"importance": np.ones((3, 4))}
    ),
    "measures.heads.retrieval_score": (
        measures.retrieval_score,
        {"weights": np.full((2, 4, 5), 0.2), "prompt_ids": np.arange(5),
         "generated_ids": np.array([2, 3]), "needle": (2, 4)},
    ),
    "measures.heads.ships": (
        measures.ships, {"logits": np.zeros(7), "without_head": np.ones((4, 7))}
    ),
    "measures.image_maps.best_crop": (
        measures.best_crop, {"patches": np.ones((4, 4)), "sizes": ((2, 2), (3, 3))}
    ),
    "measures.image_maps.grounding_map": (
        measures.grounding_map, {"weights": np.full((3, 4, 16), 0.1), "num_heads": 2}
    ),
    "measures.image_maps.neighbour_rings": (
        measures.neighbour_rings, {"weights": np.full((4, 16, 16), 0.1), "grid": (4, 4)}
    ),
    "measures.image_maps.relative_map": (
        measures.relative_map,
        {"weights": np.full(16, 0.1), "generic": np.full(16, 0.2), "lamb": 1.0},
    ),
    "measures.readings.head_divergence": (
        measures.head_divergence, {"head_outputs": OUTPUTS, "text_outputs": OUTPUTS + 1}
    ),
    "measures.readings.sink_rate": (
        measures.sink_rate, {"column_means": np.full((2, 4, 5), 0.2), "key": 0, "threshold": 0.3}
    ),
    "measures.readings.total_divergence": (
        measures.total_divergence, {"divergence": np.ones((3, 2, 4)), "k": 2}
    ),
    "measures.rows.attention_rows": (
        measures.attention_rows,
        {"query": QUERY, "key": KEY, **MASK, "rows": np.array([0, 2]), "dtype": None},
    ),
    "measures.segment_mass.mass_by_document": (
        measures.mass_by_document,
        {"weights": np.full((4, 5), 0.2), "documents": np.array([0, 0, 1, 1, 1])},
    ),
    "measures.segment_mass.mass_by_segment": (
        measures.mass_by_segment,
        {"query": QUERY, "key": KEY, "segments": LABELS, "num_segments": 2},
    ),
    "measures.segment_mass.slot_order": (
        measures.slot_order,
        {"profile": np.array([0.5, 0.2, 0.3]), "relevance": np.array([1.0, 3.0, 2.0])},
    ),
    "measures.segment_mass.sorting_order": (
        measures.sorting_order, {"masses": np.array([0.5, 0.2, 0.3])}
    ),
    "measures.sink_metric.dormant_heads": (
        measures.dormant_heads, {"sink_mass": np.ones((3, 4)), "threshold": 0.9}
    ),
    "measures.sink_metric.sink_metric": (
        measures.sink_metric,
        {"column_sums": np.full((2, 4, 5), 0.2), "row_counts": np.full((2, 1, 5), 3),
         "threshold": 0.3},
    ),
    "measures.sink_metric.value_drain": (
        measures.value_drain, {"value": VALUE, "sinks": np.array([[True] + [False] * 4] * 2)}
    ),
    "measures.spread.collapsed": (
        measures.collapsed, {"entropies": np.ones((3, 4)), "at_most": 0.1}
    ),
    "measures.spread.entropy": (
        measures.entropy,
        {"query": QUERY, "key": KEY, "scale": 0.3, "causal": True, "window": 3,
         "key_mask": np.ones((2, 5), bool), "num_threads": 1},
    ),
    "method.Method.check_model": (
        ra.VHR(layers=(1,)).check_model, {"num_layers": 4, "num_heads": 4, "hidden_size": 16}
    ),
    "methods.pai.PAI.boosted": (ra.PAI().boosted, {"num_layers": 4}),
    "methods.vaf.VAF.changed": (ra.VAF().changed, {"num_layers": 4}),
    "methods.vhr.VHR.layers_for": (ra.VHR().layers_for, {"num_layers": 4}),
    "plan.Plan": (
        ra.Plan,
        {"segments": LABELS, "policy": POLICY, "where": np.ones(3, bool), "transform": None,
         "null_logit": np.zeros((2, 4, 3))},
    ),
    "plan.Plan.edited_rows": (
        ra.Plan(None, ra.Reweight((1,)), transform=boost()).edited_rows, {"rows": np.arange(3)}
    ),
    "plan.Plan.take": (ra.Plan(LABELS, POLICY).take, {"indices": np.array([1, 0])}),
    "policy.Reweight": (ra.Reweight, {"weight": (1, 0.4), "to": (0,), "when": ()}),
    "policy.Share": (ra.Share, {"segments": (0,), "at_least": 0.3, "within": (0, 1)}),
    "session.Session": (
        ra.Session, {"methods": [ra.ACT()], "num_layers": 4, "num_heads": 4}
    ),
    "session.Session.attend": (
        attend,
        {"layer": 2, **ARRAYS, **MASK, **BIAS, "hidden_states": RNG.standard_normal((2, 3, 16)),
         "out": np.empty((2, 4, 3, 8), np.float32), "dtype": None, "num_threads": 1},
    ),
    "session.Session.generation": (
        generation,
        {"image": np.ones((2, 5), bool), "prompt_len": 5, "text_only": np.array([True, False]),
         "text_outputs": None},
    ),
    "session.Session.reorder": (reorder, {"indices": np.array([1, 0])}),
    "sinks.massive_activations": (
        sinks.massive_activations, {"hidden_states": STATES, "key_mask": np.ones((2, 5), bool)}
    ),
    "sinks.sink_dims": (
        sinks.sink_dims, {"hidden_states": STATES, "key_mask": np.ones((2, 5), bool)}
    ),
    "sinks.sink_score": (
        sinks.sink_score, {"hidden_states": STATES, "sink_dims": np.array([0, 3])}
    ),
    "sinks.sink_tokens": (
        sinks.sink_tokens,
        {"hidden_states": STATES, "sink_dims": np.array([0, 3]), "tau": 0.5},
    ),
    "sinks.column_sinks": (
        sinks.column_sinks, {"column_means": np.full((2, 4, 5), 0.2), "theta": 0.1}
    ),
    "sinks.update_column_sinks": (
        sinks.update_column_sinks,
        {"column_sums": np.ones((2, 4, 5), np.float32), "row_counts": np.ones((2, 5), np.int64),
         "first_key": np.zeros(2, int), "theta": 0.1, "heads": np.ones(4, bool),
         "before": None, "known": None},
    ),
    "transform.Transform": (
        ra.Transform,
        {"scale": np.ones((2, 1, 5)), "shift": np.zeros((2, 1, 5)),
         "slope": np.zeros((2, 1, 5)), "first_row": 1},
    ),
    "transform.Transform.reaches": (boost().reaches, {"rows": np.arange(3)}),
    "transform.Transform.take": (boost().take, {"indices": np.array([1, 0])}),
}  # fmt: skip
METHODS = (
    "ACT",
    "ADHH",
    "FarSight",
    "HeadMask",
    "PAI",
    "PASTA",
    "SPIN",
    "ScalingVis",
    "SplitSoftmax",
    "VAF",
    "VAR",
    "VHR",
)

NOT_YET = ("measures.",)  # rows whose arguments are not all checked

# Public names without an argument of numbers, or that only methods' authors and tests call.
ELSEWHERE = {
    "adaptors.transformers.attach.attached": "tests/adaptors/test_attaching.py",
    "border.config.show_config": "a file to write to",
    "method.Method.describe": "called with a session's readings",
    "method.Method.plan": "called by a session",
    "method.Method.readings": "called by a session",
}

HOSTILE = {
    "None": None,
    "text": "no",
    "bytes": b"no",
    "object": object(),
    "list": [1, 2],
    "ragged": [[1, 2], [3]],
    "dict": {"a": 1},
    "set": {1, 2},
    "nan": float("nan"),
    "inf": float("inf"),
    "negative": -1,
    "huge": 2**70,
    "fraction": 0.5,
    "complex": 1j,
    "array of objects": np.array([object(), None]),
    "array of text": np.array(["a", "b"]),
    "complex array": np.ones((2, 4, 3, 8), complex),
    "no axis": np.array(1.0),
    "empty": np.zeros(0),
    "no items": np.zeros((0, 4, 3, 8), np.float32),
    "too many axes": np.ones((1,) * 9, np.float32),
    "records": np.zeros(3, [("a", "i4")]),
    "dates": np.zeros(3, "M8[s]"),
    "masked": np.ma.masked_array(np.ones(3), mask=[1, 0, 0]),
    "type": int,
    "function": len,
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_fits(name):
    function, fits = TABLE[name]
    function(**fits)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        (name, each)
        for name, (_, fits) in TABLE.items()
        for each in fits
        if not name.startswith(NOT_YET)
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numbers that are none
@pytest.mark.filterwarnings("ignore:.* will change nothing")  # without an image
def test_hostile_values_are_taken_or_refused_by_name(name, argument):
    function, fits = TABLE[name]
    wrong = []
    for kind, value in HOSTILE.items():
        if argument == "policy" and callable(value):  # a policy of the user's own
            continue
        try:
            function(**{**fits, argument: value})
        except (TypeError, ValueError) as error:
            if not re.search(rf"\b{argument}\b", str(error)):
                wrong.append(f"{kind}: does not name it: {type(error).__name__}: {error}")
        except Exception as error:
            wrong.append(f"{kind}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


def test_every_public_parameter_is_in_the_table():
    missing = []
    for name, item in exported().items():
        short = name.removeprefix("reattend.")
        wanted = {
            p.name
            for p in inspect.signature(item).parameters.values()
            if p.name not in ("self", "unknown", "mask") and p.kind is not p.VAR_KEYWORD
        }
        if short in ELSEWHERE or short.startswith("testing.") or not wanted:
            continue
        have = set(TABLE[short][1]) if short in TABLE else set()
        missing += [f"{short}: {each}" for each in sorted(wanted - have - {"plain"})]
    assert not missing, "\n".join(missing)
