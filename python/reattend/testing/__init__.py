"""The laws that every method obeys, as tests: for this package's methods and for your own."""

from reattend.testing.laws import Case, checks, parametrize_with_checks
from reattend.testing.sample import Inputs, Recorder, run, sample

__all__ = ["Case", "Inputs", "Recorder", "checks", "parametrize_with_checks", "run", "sample"]
