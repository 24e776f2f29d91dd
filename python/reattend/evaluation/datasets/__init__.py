"""Data sets to evaluate on: each gives cases, and counts what an answer got right."""

from reattend.evaluation.datasets import amber, chair, easy_vqa, hallusion_bench, mme, mmhal, pope
from reattend.evaluation.datasets.dataset import (
    Answer,
    Case,
    DataError,
    Dataset,
    Naming,
    Problem,
    load_dataset,
    register,
    registered_datasets,
)
from reattend.evaluation.datasets.emoji_world import dataset as emoji_world_dataset
from reattend.evaluation.metrics.measures import Combined

__all__ = [
    "Answer",
    "Case",
    "Combined",
    "DataError",
    "Dataset",
    "Naming",
    "Problem",
    "amber",
    "chair",
    "easy_vqa",
    "emoji_world_dataset",
    "hallusion_bench",
    "load_dataset",
    "mme",
    "mmhal",
    "pope",
    "register",
    "registered_datasets",
]
