"""Regression tests of a model: what it makes up and where it attends, against a stored baseline."""
