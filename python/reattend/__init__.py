"""Fast CPU attention on NumPy arrays, with attention interventions inside the pass."""

from reattend.attention import attention, column_sums, combine, merge, segment_pass
from reattend.config import __version__, show_config
from reattend.plan import Plan
from reattend.policy import Reweight, Share
from reattend.results import AttentionResult, SegmentState

__all__ = [
    "AttentionResult",
    "Plan",
    "Reweight",
    "SegmentState",
    "Share",
    "__version__",
    "attention",
    "column_sums",
    "combine",
    "merge",
    "segment_pass",
    "show_config",
]
