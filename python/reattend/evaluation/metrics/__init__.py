"""Metrics of hallucination, with intervals."""
