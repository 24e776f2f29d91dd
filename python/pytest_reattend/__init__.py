"""Fixtures of reattend for pytest: `hallucination_regression` and `attention_regression`.

It is a package of its own, so that a suite that does not use it does not import reattend.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from reattend.evaluation.regression.attention import AttentionRegression
    from reattend.evaluation.regression.hallucination import HallucinationRegression

UPDATE = "--reattend-update"
FOLDER = "reattend_baselines"  # beside the test's file


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that rewrites baselines, and the setting that says where they are."""
    parser.getgroup("reattend").addoption(
        UPDATE, action="store_true", help="rewrite the baselines of reattend's regression tests"
    )
    parser.addini(
        FOLDER, f"folder of reattend's baselines (default: {FOLDER} beside each test)", default=""
    )


@pytest.fixture
def hallucination_regression(request: pytest.FixtureRequest) -> HallucinationRegression:
    """Fail if a model makes more up, or gets less right, than its stored baseline.

    Call it with an answerer, a data set and the settings to hold; see
    `reattend.evaluation.regression.hallucination.HallucinationRegression`.
    """
    from reattend.evaluation.regression.hallucination import HallucinationRegression

    return HallucinationRegression(_baseline(request, ".json"), *_update(request))


@pytest.fixture
def attention_regression(request: pytest.FixtureRequest) -> AttentionRegression:
    """Fail if a model's attention has drifted from its stored baseline.

    Call it with a recording; see `reattend.evaluation.regression.attention.AttentionRegression`.
    """
    from reattend.evaluation.regression.attention import AttentionRegression

    return AttentionRegression(_baseline(request, ".npz"), *_update(request))


def _update(request: pytest.FixtureRequest) -> tuple[bool, str]:
    return bool(request.config.getoption(UPDATE)), f"run pytest with {UPDATE}"


def _baseline(request: pytest.FixtureRequest, suffix: str) -> Path:
    """Say where a test's baseline is: in a file named as the test, with its parameters."""
    node = request.node
    given = request.config.getini(FOLDER)
    folder = request.config.rootpath / given if given else node.path.parent / FOLDER
    name = "".join(each if each.isalnum() or each in "-_." else "_" for each in node.name)
    return Path(folder / f"{node.path.stem}-{name}{suffix}")
