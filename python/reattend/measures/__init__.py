"""Readings that change nothing: how much goes to sinks, and which heads react to the image."""

from reattend.measures.readings import Divergence, head_divergence, sink_rate, total_divergence

__all__ = ["Divergence", "head_divergence", "sink_rate", "total_divergence"]
