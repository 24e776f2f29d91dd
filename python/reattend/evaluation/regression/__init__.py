"""Regression tests of a model: hallucination and attention against a stored baseline."""
