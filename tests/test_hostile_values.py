"""Whatever a public function is given, it takes as NumPy would, or names the argument it refuses.

A row of the table is a call that fits; each of its arguments then takes each hostile value in turn.
What comes back must be a result, or a TypeError or ValueError that names the argument.
"""

import inspect
import re
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import reattend as ra
from reattend import decoding, measures, sinks
from reattend.cache import selection
from reattend.cache.selection.row import row_and_keys
from reattend.method import registered
from tensors import STRIDES
from test_codebase import exported, public

RNG = np.random.default_rng(0)
QUERY = RNG.standard_normal((2, 4, 3, 8), dtype=np.float32)
KEY, VALUE = RNG.standard_normal((2, 2, 2, 5, 8), dtype=np.float32)
WEIGHTS = np.full((2, 4, 5, 5), 0.2, np.float32)  # [layers or B, H, N, M]
STATES = RNG.standard_normal((2, 5, 16), dtype=np.float32)
OUTPUTS = RNG.standard_normal((2, 4, 8), dtype=np.float32)
LOGITS = RNG.standard_normal((2, 7))
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


def cache(batch=None):
    found = ra.KVCache(2)
    for layer in range(2):
        found.append(layer, KEY[:batch], VALUE[:batch])
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


def note_confidence(**given):
    with (session := ra.Session([], num_layers=1)).generation():
        session.attend(0, QUERY, KEY, VALUE)
        session.note_confidence(**given)


def recycled():
    found = selection.Recycled(2)
    found.note(QUERY[:, :, 0], WEIGHTS[:, :, 0])
    return found


def call():
    return ra.Call(0, 4, QUERY, KEY, VALUE, ra.call.Prompt(5))


def boost():
    return ra.Transform(shift=np.zeros((2, 1, 5)), first_row=1)


def parameters_of(*classes):
    """Give a row for each class: its parameters as they are by default."""
    return {
        f"{each.__module__.removeprefix('reattend.')}.{each.__name__}": (
            each, {field.name: getattr(each(), field.name) for field in fields(each) if field.init}
        )
        for each in classes
    }  # fmt: skip


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
    "border.quantized.quantize": (
        ra.quantize, {"array": KEY, "name": "array", "bits": 4, "by_channel": True}
    ),
    "border.blocks.QuantizedBlocks.from_ggml": (
        ra.QuantizedBlocks.from_ggml,
        {"blocks": np.zeros((2, 2, 5, 34), np.uint8), "layout": "q8_0"},
    ),
    "border.results.combine": (
        ra.combine, {"partials": np.ones((2, 4, 3, 2, 8)), "factors": np.ones((2, 4, 3, 2))}
    ),
    "border.results.merge": (ra.merge, {"states": [ra.segment_pass(**ARRAYS, segments=None)] * 2}),
    "cache.kv_cache.KVCache": (ra.KVCache, {"num_layers": 2, "dtype": "float32"}),
    "cache.kv_cache.KVCache.append": (
        lambda **given: cache().append(**given), {"layer": 0, "key": KEY, "value": VALUE}
    ),
    "cache.kv_cache.KVCache.crop": (lambda **given: cache().crop(**given), {"length": 2}),
    "cache.kv_cache.KVCache.fork": (lambda **given: cache(1).fork(**given), {"batch": 3}),
    "cache.kv_cache.KVCache.keep": (
        lambda **given: cache().keep(**given), {"layer": 0, "indices": np.array([0, 3])}
    ),
    "cache.kv_cache.KVCache.length": (lambda **given: cache().length(**given), {"layer": 1}),
    "cache.kv_cache.KVCache.reorder": (
        lambda **given: cache().reorder(**given), {"indices": np.array([1, 0])}
    ),
    "cache.selection.scores.forgetting_scores": (
        selection.forgetting_scores, {"weights": WEIGHTS, "num_kv_heads": 2, "forget": 0.9}
    ),
    "cache.selection.scores.highest": (
        selection.highest, {"scores": np.ones((2, 2, 5)), "count": 2}
    ),
    "cache.selection.scores.last_row_scores": (
        selection.last_row_scores, {"weights": WEIGHTS[:, :, -1:], "num_kv_heads": 2}
    ),
    "cache.selection.scores.observed_scores": (
        selection.observed_scores, {"column_sums": WEIGHTS[:, :, 0], "num_kv_heads": 2}
    ),
    "cache.selection.scores.streaming": (
        selection.streaming, {"num_keys": 9, "sinks": 1, "recent": 2}
    ),
    "cache.selection.scores.window_scores": (
        selection.window_scores, {"weights": WEIGHTS[:, :, -2:], "num_kv_heads": 2, "pool": 3}
    ),
    "cache.selection.blocks.chunk_scores": (
        selection.chunk_scores, {"query": QUERY[:, :, 0], "key": KEY, "starts": np.array([0, 2])}
    ),
    "cache.selection.blocks.tree_keys": (
        selection.tree_keys, {"query": QUERY[:, :, 0], "key": KEY, "keep": 1, "block": 2}
    ),
    "cache.selection.compensation.compensated": (
        selection.compensated, {"key": KEY, "value": VALUE, "indices": np.array([0, 3])}
    ),
    "cache.selection.compensation.image_tiers": (
        selection.image_tiers, {"scores": np.ones((2, 2, 5)), "core": 1, "stored": 3}
    ),
    "cache.selection.layers.centre_distance": (
        selection.centre_distance, {"head_outputs": OUTPUTS}
    ),
    "cache.selection.layers.lazy_share": (
        selection.lazy_share, {"weights": WEIGHTS[:, :, 0], "sinks": 1, "recent": 2}
    ),
    "cache.selection.layers.sinks_recent_middle": (
        selection.sinks_recent_middle,
        {"scores": np.ones((2, 2, 5)), "sinks": 1, "recent": 1, "middle": 1},
    ),
    "cache.selection.row.row_and_keys": (
        row_and_keys, {"query": QUERY[:, :, 0], "key": KEY}
    ),
    "cache.selection.low_rank.key_components": (selection.key_components, {"key": KEY}),
    "cache.selection.low_rank.low_rank_scores": (
        selection.low_rank_scores,
        {"query": QUERY[:, :, 0], "key": KEY, "components": np.stack([np.eye(8)] * 2), "rank": 2,
         "scale": 0.3},
    ),
    "cache.selection.sparse.Recycled": (
        selection.Recycled, {"count": 2, "every": 3, "similarity": 0.5}
    ),
    "cache.selection.sparse.Recycled.keys": (
        lambda **given: recycled().keys(**given), {"query": QUERY[:, :, 0], "num_keys": 6}
    ),
    "cache.selection.sparse.Recycled.note": (
        lambda **given: recycled().note(**given),
        {"query": QUERY[:, :, 0], "weights": WEIGHTS[:, :, 0]},
    ),
    "cache.selection.sparse.selection_bias": (
        selection.selection_bias, {"indices": np.array([[[0, 2]]]), "num_keys": 5}
    ),
    "cache.selection.sparse.stripes": (
        selection.stripes, {"weights": WEIGHTS, "share": 0.9}
    ),
    "call.Call.column_sums": (
        lambda **given: call().column_sums(**given), {"heads": np.ones(4, bool)}
    ),
    "call.Call.in_scope": (
        lambda **given: call().in_scope(**given), {"rows": "last", "phase": "prefill"}
    ),
    "call.Call.in_spans": (lambda **given: call().in_spans(**given), {"spans": [(0, 2)]}),
    "call.Call.score_sums": (
        lambda **given: call().score_sums(**given),
        {"keys": np.ones((2, 5), bool), "rows": np.array([False, True, True])},
    ),
    "call.Call.row_scores": (
        lambda **given: call().row_scores(**given), {"keys": np.ones((2, 5), bool)}
    ),
    "call.Call.weights_of_row": (lambda **given: call().weights_of_row(**given), {"row": 1}),
    "decoding.context.context_votes": (
        decoding.context_votes,
        {"weights": np.full((3, 4), 0.1), "ids": np.array([0, 2, 2, 1]), "vocab_size": 7,
         "head_weights": np.ones(3), "probe": None, "logits": LOGITS[0], "top_rank": 3},
    ),
    "decoding.contrastive.contrast": (
        decoding.contrast, {"logits": LOGITS, "other": LOGITS + 1, "alpha": 1.0, "beta": 0.1}
    ),
    "decoding.distortion.diffusion_noise": (
        decoding.diffusion_noise, {"pixels": np.zeros((3, 4, 4)), "step": 5, "rng": RNG}
    ),
    "decoding.distortion.faint_tokens": (
        decoding.faint_tokens,
        {"weights": WEIGHTS[0], "image": np.array([False, True, True, True, False]),
         "gamma": 0.5, "lamb": 1.0},
    ),
    "decoding.distortion.outlier_patches": (
        decoding.outlier_patches, {"query": np.ones(16), "keys": STATES[0], "k": 2}
    ),
    "decoding.mixing.comparable": (
        decoding.mixing.comparable, {"scores": LOGITS, "mixed": LOGITS}
    ),
    "decoding.mixing.floats_of": (
        decoding.mixing.floats_of, {"name": "given", "given": LOGITS}
    ),
    "decoding.mixing.log_softmax": (decoding.log_softmax, {"logits": LOGITS}),
    "decoding.mixing.mix": (
        decoding.mix,
        {"logits": LOGITS, "others": [LOGITS + 1], "own": 2.0, "weights": [-1.0],
         "keep": np.ones((2, 7), bool)},
    ),
    "decoding.mixing.nucleus": (decoding.nucleus, {"logits": LOGITS, "top_k": 3, "top_p": 0.8}),
    "decoding.mixing.plausible": (decoding.plausible, {"logits": LOGITS, "beta": 0.1}),
    "decoding.mixing.softmax": (decoding.softmax, {"logits": LOGITS}),
    **parameters_of(
        decoding.AvisC, decoding.CausalMM, decoding.DAGCD, decoding.DAMRO, decoding.DeCo,
        decoding.DoLa, decoding.Guidance, decoding.ICD, decoding.M3ID, decoding.ONLY,
        decoding.VCD,
    ),
    "epilogue.Epilogue": (
        ra.Epilogue, {"scale": 0.5, "shift": np.zeros((1, 4, 1, 8))}
    ),
    "epilogue.Epilogue.gate": (ra.Epilogue.gate, {"logits": np.zeros((2, 4, 3, 1))}),
    "epilogue.Epilogue.take": (
        ra.Epilogue(shift=np.zeros((2, 1, 1, 1))).take, {"indices": np.array([1, 0])}
    ),
    "head_vectors.HeadVectors": (
        ra.HeadVectors, {"vectors": {0: np.ones((4, 8))}, "amounts": None, "model": {}}
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
    "measures.over_trust.over_trust": (
        measures.over_trust, {"weights": WEIGHTS, "scale": 50.0, "base": 1e-7}
    ),
    "measures.pursuit.head_pursuit": (
        measures.head_pursuit, {"head_outputs": STATES[0], "dictionary": np.eye(16), "k": 2}
    ),
    "measures.saliency.evidence_saliency": (
        measures.evidence_saliency, {"weights": WEIGHTS, "tau": 2.0, "share": 0.5}
    ),
    "measures.side_branch.side_branch": (
        measures.side_branch,
        {"weights": WEIGHTS[:, :, 0], "value": VALUE,
         "image": np.array([[False, False, False, True, True]] * 2),
         "key_mask": np.ones((2, 5), bool)},
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
        {"query": QUERY, "key": KEY, "scale": 0.3, "causal": True, "window": 3, **BIAS,
         "softcap": 2.0, "key_mask": np.ones((2, 5), bool), "num_threads": 1},
    ),
    "method.Method.check_model": (
        ra.VHR(layers=(1,)).check_model, {"num_layers": 4, "num_heads": 4, "hidden_size": 16}
    ),
    **parameters_of(*registered().values()),
    "methods.pai.PAI.boosted": (ra.PAI().boosted, {"num_layers": 4}),
    "methods.scaling_vis.ScalingVis.adapted": (
        ra.ScalingVis.adapted, {"confidence": 0.5, "threshold": 0.3, "low": 0.5, "high": 1.2}
    ),
    "methods.caac.CAAC.strengths": (ra.CAAC().strengths, {"confidence": np.array([0.9, 0.1])}),
    "methods.middle_layers.MiddleLayers.layers_for": (
        ra.MiddleLayers().layers_for, {"num_layers": 4}
    ),
    "methods.paint.PAINT.from_vision": (
        ra.PAINT.from_vision, {"first": np.ones(9), "late": np.ones((2, 9)), "share": 0.5}
    ),
    "methods.paint.PAINT.layers_for": (ra.PAINT().layers_for, {"num_layers": 4}),
    "methods.vaf.VAF.changed": (ra.VAF().changed, {"num_layers": 4}),
    "methods.vhr.VHR.layers_for": (ra.VHR().layers_for, {"num_layers": 4}),
    "plan.Plan": (
        ra.Plan,
        {"segments": LABELS, "policy": POLICY, "where": np.ones(3, bool), "transform": None,
         "null_logit": np.zeros((2, 4, 3)), "heads_from": np.zeros((1, 4), int),
         "epilogue": None, "rows": "last", "phase": "decode"},
    ),
    "plan.Plan.only": (
        ra.Plan(None, POLICY).only, {"rows": np.array([False, True, True]), "first_row": 2}
    ),
    "plan.Plan.edited_rows": (
        ra.Plan(None, ra.Reweight((1,)), transform=boost()).edited_rows, {"rows": np.arange(3)}
    ),
    "plan.Plan.take": (ra.Plan(LABELS, POLICY).take, {"indices": np.array([1, 0])}),
    "policy.Reweight": (
        ra.Reweight, {"weight": (1, 0.4), "to": (0,), "when": (), "power": (1, 0.5)}
    ),
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
    "session.Session.note_confidence": (
        note_confidence, {"confidence": np.array([0.5, 0.25])}
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
         "slope": np.zeros((2, 1, 5)), "first_row": 1, "beyond": False,
         "heads": np.ones((2, 4), bool)},
    ),
    "transform.Transform.from_row": (boost().from_row, {"first_row": np.array([2])}),
    "transform.Transform.reaches": (boost().reaches, {"rows": np.arange(3)}),
    "transform.Transform.take": (boost().take, {"indices": np.array([1, 0])}),
}  # fmt: skip
# Public names that are not called with a user's numbers, and where they are tested.
ELSEWHERE = (
    "adaptors.transformers.",  # tests/adaptors
    "head_vectors.HeadVectors.",  # files, a model: tests/methods/test_outputs.py
    "border.config.show_config",  # a file to write to
    "decoding.confidence.",  # a session
    "decoding.contrastive.Branch", "decoding.contrastive.ModelBranch", "decoding.contrastive.Two",
    "decoding.layers.EarlyLayers",  # models and what generate() calls: tests/decoding
    "method.Method.plan", "method.Method.goes_on",  # a session's calls
    "method.Method.readings", "method.Method.describe",
    "testing.",  # tests/test_laws.py
)  # fmt: skip
OF_METHODS = (".plan", ".goes_on", ".readings", ".describe", ".check_model")  # what a session calls

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
    [(name, each) for name, (_, fits) in TABLE.items() for each in fits],
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


def arrays_in(found):
    """Give the arrays of a result, in order."""
    if isinstance(found, np.ndarray):
        return [found]
    if isinstance(found, dict):
        found = list(found.values())
    elif is_dataclass(found):
        found = [getattr(found, each.name) for each in fields(found)]
    return [x for each in found for x in arrays_in(each)] if isinstance(found, tuple | list) else []


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        (name, each)
        for name, (_, fits) in TABLE.items()
        for each, value in fits.items()
        if isinstance(value, np.ndarray) and value.itemsize > 1 and each != "out"
        if "rng" not in fits  # draws anew at each call
    ],
)
@pytest.mark.filterwarnings("ignore:.* will change nothing")
def test_arrays_may_lie_anywhere(name, argument):
    """A sanitizer says where numbers are read as if they were aligned: .ci/sanitize address."""
    function, fits = TABLE[name]
    expected = arrays_in(function(**fits))
    for lie in ("unaligned", "all-backwards"):
        found = arrays_in(function(**{**fits, argument: STRIDES[lie](fits[argument])}))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)  # NumPy's sums differ by layout


def test_a_session_takes_lists_as_attention_does():
    mask = {"key_mask": [[False, True, True, True, True]] * 2, "bias": BIAS["bias"].tolist()}
    with (session := ra.Session([ra.ACT()], num_layers=4)).generation():
        for layer in range(3):
            found = session.attend(layer, QUERY, KEY, VALUE, **mask)
    arrays = {name: np.array(each) for name, each in mask.items()}
    with (session := ra.Session([ra.ACT()], num_layers=4)).generation():
        for layer in range(3):
            wanted = session.attend(layer, QUERY, KEY, VALUE, **arrays)
    assert np.array_equal(found, wanted)


def test_a_batch_has_no_items_counted_from_its_end():
    with (session := ra.Session([], num_layers=1)).generation():
        session.attend(0, QUERY, KEY, VALUE)
        for refuse in (session.reorder, cache().reorder, ra.Plan(LABELS, POLICY).take):
            with pytest.raises(ValueError, match="indices must be one axis of items from 0 to 1"):
                refuse([-1, -2])


def test_a_window_near_the_largest_integer_hides_nothing():
    wide, open_ = (
        ra.Call(0, 1, QUERY, KEY, VALUE, ra.call.Prompt(5), mask=ra.call.MaskSpec(window=window))
        for window in (2**63 - 1, None)
    )
    assert np.array_equal(wide.row_counts, open_.row_counts)
    rows = [measures.attention_rows(QUERY, KEY, window=window) for window in (2**63 - 1, None)]
    assert np.array_equal(*rows)


def test_a_call_has_no_rows_beyond_its_own():
    for row in (-1, QUERY.shape[2]):
        with pytest.raises(ValueError, match=r"row must be .*got"):
            call().weights_of_row(row)


def test_measures_take_keys_in_8_bits():
    stored = ra.quantize(KEY)
    packed = ra.quantize(np.tile(KEY, (1, 1, 13, 1)), bits=4, by_channel=True)
    assert np.allclose(
        measures.attention_rows(QUERY, packed), measures.attention_rows(QUERY, packed.to_float32())
    )
    query = RNG.standard_normal((2, 4, 5, 8), dtype=np.float32)
    for measure, more in (
        (measures.local_share, {"window": 2}),
        (measures.mean_distance, {}),
        (measures.future_influence, {}),
        (measures.mass_by_segment, {"segments": LABELS}),
    ):
        found = measure(query, stored, **more)
        wanted = measure(query, stored.to_float32(), **more)
        assert np.allclose(found, wanted, atol=1e-5, equal_nan=True)


def test_unsigned_numbers_are_ordered_as_numbers():
    order = measures.slot_order(np.array([5, 0, 3], np.uint8), np.array([1, 2, 0], np.uint8))
    assert order.tolist() == [1, 2, 0]


def what_users_call():
    """Give what is exported, and the functions and parameters of rooms without a list of names."""
    rooms = ("sinks.", "decoding.", "cache.selection.", "methods.")
    found = {name.removeprefix("reattend."): item for name, item in exported().items()}
    for name, item in public().items():
        short = name.removeprefix("reattend.")
        if (item.__doc__ or "").startswith("Old name of"):
            continue
        if short.startswith(rooms) and (inspect.isfunction(item) or is_dataclass(item)):
            found.setdefault(short, item)
    return found


def test_every_public_parameter_is_in_the_table():
    missing = []
    for name, item in what_users_call().items():
        wanted = {
            p.name
            for p in inspect.signature(item).parameters.values()
            if p.name not in ("self", "unknown", "mask") and p.kind is not p.VAR_KEYWORD
        }
        if name.startswith(ELSEWHERE) or name.endswith(OF_METHODS) or not wanted:
            continue
        have = set(TABLE[name][1]) if name in TABLE else set()
        missing += [f"{name}: {each}" for each in sorted(wanted - have - {"plain"})]
    assert not missing, "\n".join(missing)
