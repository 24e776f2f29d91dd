"""Readings that change nothing: where attention goes, how far, through which heads."""

from reattend.measures.across_layers import flow, rollout
from reattend.measures.activations import (
    MassiveActivations,
    cosine_to_first,
    massive_activations,
    modality_alignment,
)
from reattend.measures.distance import future_influence, local_share, mean_distance
from reattend.measures.heads import (
    jensen_shannon,
    logit_attribution,
    pruning_order,
    retrieval_score,
    ships,
)
from reattend.measures.image_maps import (
    Crop,
    best_crop,
    grounding_map,
    neighbour_rings,
    relative_map,
)
from reattend.measures.over_trust import OverTrust, over_trust
from reattend.measures.pursuit import Pursuit, head_pursuit
from reattend.measures.readings import Divergence, head_divergence, sink_rate, total_divergence
from reattend.measures.rows import attention_rows
from reattend.measures.saliency import evidence_saliency
from reattend.measures.segment_mass import (
    mass_by_document,
    mass_by_segment,
    slot_order,
    sorting_order,
)
from reattend.measures.side_branch import SideBranch, side_branch
from reattend.measures.sink_metric import dormant_heads, sink_metric, value_drain
from reattend.measures.spread import collapsed, entropy

__all__ = [
    "Crop",
    "Divergence",
    "MassiveActivations",
    "OverTrust",
    "Pursuit",
    "SideBranch",
    "attention_rows",
    "best_crop",
    "collapsed",
    "cosine_to_first",
    "dormant_heads",
    "entropy",
    "evidence_saliency",
    "flow",
    "future_influence",
    "grounding_map",
    "head_divergence",
    "head_pursuit",
    "jensen_shannon",
    "local_share",
    "logit_attribution",
    "mass_by_document",
    "mass_by_segment",
    "massive_activations",
    "mean_distance",
    "modality_alignment",
    "neighbour_rings",
    "over_trust",
    "pruning_order",
    "relative_map",
    "retrieval_score",
    "rollout",
    "ships",
    "side_branch",
    "sink_metric",
    "sink_rate",
    "slot_order",
    "sorting_order",
    "total_divergence",
    "value_drain",
]
