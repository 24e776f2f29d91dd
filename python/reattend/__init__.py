"""Fast CPU attention on NumPy arrays, with attention interventions inside the pass."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from reattend.main_interpreter import refuse_subinterpreter as _refuse_subinterpreter

_refuse_subinterpreter()  # before the core, which would wait for ever

# ruff: noqa: E402
from reattend import measures, methods, reference, sinks
from reattend.attention import attention, segment_pass
from reattend.border.blocks import QuantizedBlocks
from reattend.border.config import __version__, num_threads, show_config
from reattend.border.explanation import explain
from reattend.border.prefixed import Prefixed
from reattend.border.quantized import Quantized, quantize
from reattend.border.results import AttentionResult, SegmentState, combine, merge
from reattend.cache.kv_cache import KVCache
from reattend.call import Call
from reattend.column_sums import apply_policy, column_sums
from reattend.deprecated import renamed_names as _renamed_names
from reattend.epilogue import Epilogue
from reattend.head_vectors import HeadVectors
from reattend.method import Method
from reattend.methods import *  # noqa: F403  a new one is named there alone
from reattend.plan import Plan
from reattend.policy import Reweight, Share
from reattend.session import Session
from reattend.transform import Transform

if _TYPE_CHECKING:
    from reattend import adaptors as adaptors
    from reattend import decoding as decoding
    from reattend import models as models
    from reattend import plot as plot
    from reattend import testing as testing

_old_name = _renamed_names("reattend", {"revise": ("apply_policy", apply_policy)})

# What an import of the package leaves for later.
_LAZY = ("adaptors", "decoding", "models", "plot", "testing")

__all__ = [
    "AttentionResult",
    "Call",
    "Epilogue",
    "HeadVectors",
    "KVCache",
    "Method",
    "Plan",
    "Prefixed",
    "Quantized",
    "QuantizedBlocks",
    "Reweight",
    "SegmentState",
    "Session",
    "Share",
    "Transform",
    "__version__",
    "adaptors",
    "apply_policy",
    "attention",
    "column_sums",
    "combine",
    "explain",
    "measures",
    "merge",
    "num_threads",
    "quantize",
    "reference",
    "segment_pass",
    "show_config",
    "sinks",
    "testing",
]
__all__ += methods.__all__


def __getattr__(name: str) -> _Any:
    if name in _LAZY:
        return _import_module(f"reattend.{name}")
    return _old_name(name, depth=4)


def __dir__() -> list[str]:
    return sorted({*__all__, *_LAZY})
