"""Calibrating a model: the heads and the strengths at which a method helps, kept as a profile."""

from reattend.evaluation.calibration.answer_descriptions import AnswerDescriptions
from reattend.evaluation.calibration.answer_scores import (
    AnswerScores,
    question_scores,
    right_log_probability,
)
from reattend.evaluation.calibration.held_out import hold_out
from reattend.evaluation.calibration.model_sinks import find_sink_dims
from reattend.evaluation.calibration.profiles import search_profile, tuning_profile
from reattend.evaluation.calibration.prompt_scores import PromptBatch, PromptScores
from reattend.evaluation.calibration.search import (
    HeadScores,
    HeadSearch,
    as_heads,
    head_candidates,
    search_heads,
)
from reattend.evaluation.calibration.significance import choose, holm, mean_interval
from reattend.evaluation.calibration.tuning import Described, Trial, Tuning, parameter_grid, tune
from reattend.fingerprint import fingerprint
from reattend.profile import Profile, ProfileError

__all__ = [
    "AnswerDescriptions",
    "AnswerScores",
    "Described",
    "HeadScores",
    "HeadSearch",
    "Profile",
    "ProfileError",
    "PromptBatch",
    "PromptScores",
    "Trial",
    "Tuning",
    "as_heads",
    "choose",
    "find_sink_dims",
    "fingerprint",
    "head_candidates",
    "hold_out",
    "holm",
    "mean_interval",
    "parameter_grid",
    "question_scores",
    "right_log_probability",
    "search_heads",
    "search_profile",
    "tune",
    "tuning_profile",
]
