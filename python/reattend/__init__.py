"""Fast CPU attention on NumPy arrays, with attention interventions inside the pass."""

from reattend import adaptors, measures, reference, sinks, testing
from reattend.attention import attention, segment_pass
from reattend.border.config import __version__, show_config
from reattend.border.explanation import explain
from reattend.border.quantized import Quantized, quantize
from reattend.border.results import AttentionResult, SegmentState, combine, merge
from reattend.cache.kv_cache import KVCache
from reattend.call import Call
from reattend.column_sums import column_sums, revise
from reattend.method import Method
from reattend.methods import (
    ACT,
    ADHH,
    PAI,
    PASTA,
    SPIN,
    VAF,
    VAR,
    VHR,
    FarSight,
    HeadMask,
    ScalingVis,
    SplitSoftmax,
)
from reattend.plan import Plan
from reattend.policy import Reweight, Share
from reattend.session import Session
from reattend.transform import Transform

__all__ = [
    "ACT",
    "ADHH",
    "PAI",
    "PASTA",
    "SPIN",
    "VAF",
    "VAR",
    "VHR",
    "AttentionResult",
    "Call",
    "FarSight",
    "HeadMask",
    "KVCache",
    "Method",
    "Plan",
    "Quantized",
    "Reweight",
    "ScalingVis",
    "SegmentState",
    "Session",
    "Share",
    "SplitSoftmax",
    "Transform",
    "__version__",
    "adaptors",
    "attention",
    "column_sums",
    "combine",
    "explain",
    "measures",
    "merge",
    "quantize",
    "reference",
    "revise",
    "segment_pass",
    "show_config",
    "sinks",
    "testing",
]
