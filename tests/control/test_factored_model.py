"""The linear model in factors answers as the one in matrices does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgesteer.control.factored_model import FactoredModel
from edgesteer.control.linear_model import DenseModel
from edgesteer.control.low_rank import LowRankBlock
from edgesteer.control.options import ControllerOptions

WIDTH = 12


@pytest.fixture
def models() -> tuple[FactoredModel, DenseModel]:
    random = np.random.default_rng(0)
    blocks = [LowRankBlock(random.normal(size=(WIDTH, 4)) / 4, random.normal(size=(4, WIDTH)) / 4) for _ in range(5)]
    return FactoredModel(blocks, tolerance=0.0), DenseModel(np.stack([block.dense for block in blocks]))


@pytest.mark.parametrize("gains", ["regulator_gains", "published_gains"])
def test_gains_are_equal(models: tuple[FactoredModel, DenseModel], gains: str, no_progress: Any) -> None:
    direction = np.random.default_rng(1).normal(size=(6, WIDTH))
    options = ControllerOptions(state_cost=0.5, input_cost=3.0, terminal_cost=2.0)
    factored, dense = (getattr(model, gains)(direction, (0, 2, 4), options, no_progress) for model in models)
    np.testing.assert_allclose(factored, dense, rtol=1e-9)


@pytest.mark.parametrize("block", [0, 3, 4])
def test_sensitivities_are_equal(models: tuple[FactoredModel, DenseModel], block: int) -> None:
    probe = np.random.default_rng(1).normal(size=WIDTH)
    factored, dense = (model.sensitivity(probe, block) for model in models)
    assert factored.shape == (block, WIDTH)
    np.testing.assert_allclose(factored, dense, rtol=1e-9)


def test_default_tolerance_changes_gains_by_less_than_a_thousandth(models: Any, no_progress: Any) -> None:
    direction = np.random.default_rng(1).normal(size=(6, WIDTH))
    exact, truncated = (
        model.regulator_gains(direction, range(5), ControllerOptions(), no_progress)
        for model in (models[0], FactoredModel(models[0].blocks))
    )
    assert np.max(np.linalg.norm(exact - truncated, axis=1) / np.linalg.norm(exact, axis=1)) < 1e-3
