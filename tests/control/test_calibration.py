"""Calibration: the dial's curve by hand; what texts are run and what is made of them is in tests/export."""

from __future__ import annotations

import numpy as np
import pytest

from edgesteer.control.calibration import level_at


def test_level_between_two_measurements_by_hand() -> None:
    # divergence 0.1 and 0.4 at levels 1 and 2 grows as level^2, so it is 0.2 at sqrt(2)
    assert level_at(np.array([0.1, 0.4]), np.array([1.0, 2.0]), 0.2) == pytest.approx(np.sqrt(2))


def test_level_of_a_measured_divergence_is_its_level() -> None:
    assert level_at(np.array([0.1, 0.3, 0.9]), np.array([1.0, 2.0, 4.0]), 0.3) == pytest.approx(2.0)


@pytest.mark.parametrize(("nats", "level"), [(0.01, 1.0), (5.0, 2.0)])
def test_ends_of_the_curve_bound_the_level(nats: float, level: float) -> None:
    assert level_at(np.array([0.1, 0.4]), np.array([1.0, 2.0]), nats) == pytest.approx(level)


def test_divergence_of_0_has_a_level() -> None:
    assert level_at(np.array([0.0, 0.4]), np.array([1.0, 2.0]), 0.4) == pytest.approx(2.0)
