"""Measuring what methods do: data sets, metrics, runs, calibration and reports."""
