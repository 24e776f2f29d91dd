"""Data sets to evaluate on: each gives cases, and counts what an answer got right."""

from reattend.evaluation.datasets import chair, pope
from reattend.evaluation.datasets.dataset import (
    Answer,
    Case,
    DataError,
    Dataset,
    Problem,
    load_dataset,
    register,
    registered_datasets,
)

__all__ = [
    "Answer",
    "Case",
    "DataError",
    "Dataset",
    "Problem",
    "chair",
    "load_dataset",
    "pope",
    "register",
    "registered_datasets",
]
