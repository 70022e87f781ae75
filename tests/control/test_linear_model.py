"""LinearModel: the predicted push against difference quotients, and the gains of its plain form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgesteer.control.linear_model import DenseModel, predicted_push
from edgesteer.controller import Controller

WIDTH = 8


@pytest.mark.parametrize("sensed", [0, 2, 4])
@pytest.mark.parametrize("law", ["lqr", "pid"])
def test_predicted_push_is_the_difference_quotient_of_a_linear_stack(
    make_controller: Callable[..., Controller], sensed: int, law: str
) -> None:
    random = np.random.default_rng(0)
    jacobians = (np.eye(WIDTH) + random.normal(size=(5, WIDTH, WIDTH)) / 4).astype(np.float32)
    controller = make_controller(5, WIDTH, blocks=(0, 1, 3), law=law)
    assert controller.sensor is not None
    controller = replace(controller, sensor=replace(controller.sensor, block=sensed))

    def reading(control: tuple[float, ...]) -> float:
        x = np.ones(WIDTH)
        for block in range(sensed + 1):
            x = jacobians[block].astype(np.float64) @ x
            if block == sensed:  # the sensor reads before control at its block
                break
            if block in controller.blocks:
                site = controller.blocks.index(block)
                x = x + (controller.coupling[site] * control) @ controller.gain
        assert controller.sensor is not None
        return float(controller.sensor.probe @ x)

    base = reading((0, 0, 0))
    expected = [reading(tuple(float(i == site) for i in range(3))) - base for site in range(3)]
    np.testing.assert_allclose(predicted_push(controller, DenseModel(jacobians)), expected, rtol=1e-5, atol=1e-6)
