"""Retuned gains are those that the same directions and the same linear model would have been given at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.control.factored_model import FactoredModel
from edgesteer.control.linear_model import predicted_push
from edgesteer.control.low_rank import LowRankBlock
from edgesteer.control.options import ControllerOptions
from edgesteer.control.retune import RetuneOptions, retune
from edgesteer.controller import Certificate, Controller, Provenance
from edgesteer.errors import SteeringError

Doubles = NDArray[np.float64]

BLOCKS, WIDTH = 6, 16
COSTS = {"state_cost": 0.7, "input_cost": 2.0, "terminal_cost": 1.3}
OTHER = {"state_cost": 0.2, "input_cost": 5.0, "terminal_cost": 3.0}


@pytest.fixture
def model() -> FactoredModel:
    random = np.random.default_rng(0)
    return FactoredModel(
        [LowRankBlock(random.normal(size=(WIDTH, 3)) / 4, random.normal(size=(3, WIDTH)) / 4) for _ in range(BLOCKS)],
        tolerance=0.0,
    )


@pytest.fixture
def direction(model: FactoredModel) -> Doubles:
    """(T+1, n) class directions that one boundary hands on to the next, nearly."""
    random = np.random.default_rng(1)
    rows = [random.normal(size=WIDTH)]
    for block in model.blocks:
        rows.append(block @ rows[-1] + random.normal(size=WIDTH) / 4)
    return np.stack(rows)


@pytest.fixture
def made(model: FactoredModel, direction: Doubles, make_controller: Any, no_progress: Any) -> Any:
    """Return a function that makes a controller of these directions, as an exporter would."""

    def make(law: str, blocks: Sequence[int], **costs: float) -> Controller:
        controller: Controller = make_controller(BLOCKS, WIDTH, law=law, blocks=tuple(blocks))
        boundaries = [block + (law == "lqr") for block in blocks]
        gains = model.regulator_gains if law == "lqr" else model.published_gains
        sensor = controller.sensor
        assert sensor is not None
        probes = direction / np.sum(direction**2, axis=1, keepdims=True)
        controller = replace(
            controller,
            probe=probes[boundaries].astype(np.float32),
            span=np.ones(len(blocks), np.float32),
            gain=gains(direction, blocks, ControllerOptions(**costs), no_progress).astype(np.float32),
            sensor=replace(sensor, probe=probes[sensor.block + 1].astype(np.float32)),
            provenance=Provenance(**costs, seed=3),
            scale=0.7,
        )
        push = 0.5 * predicted_push(controller, model)
        return replace(controller, sensor=replace(controller.sensor, push=push.astype(np.float32)))

    return make


def displacement(controller: Controller, model: FactoredModel, strength: float) -> float:
    """Return how far a strength moves the last boundary: the stacked linear equations of the closed loop, solved."""
    assert controller.probe is not None
    identity, level = np.eye(WIDTH), strength * controller.scale
    matrix, right = np.zeros((BLOCKS + 1, WIDTH, BLOCKS + 1, WIDTH)), np.zeros((BLOCKS + 1, WIDTH))
    matrix[0, :, 0] = identity
    for number, block in enumerate(model.blocks):
        moved, later = block.dense, number + 1
        matrix[later, :, later] = identity
        if number in controller.blocks:
            law = controller.blocks.index(number)
            write = np.outer(controller.gain[law], controller.probe[law])
            moved = moved - (write if controller.reads_block_input else write @ moved)
            right[later] = level * controller.span[law] * controller.gain[law]
        matrix[later, :, number] = -moved
    size = (BLOCKS + 1) * WIDTH
    return float(np.linalg.norm(np.linalg.solve(matrix.reshape(size, size), right.ravel())[-WIDTH:]))


@pytest.mark.parametrize("law", ["lqr", "a-lqr"])
def test_retuned_gains_are_those_of_an_export_with_these_costs(
    made: Any, model: FactoredModel, law: str, no_progress: Any
) -> None:
    retuned = retune(made(law, range(BLOCKS), **COSTS), model, RetuneOptions(**OTHER), no_progress)
    np.testing.assert_allclose(retuned.gain, made(law, range(BLOCKS), **OTHER).gain, rtol=1e-4, atol=1e-5)
    assert retuned.provenance == Provenance(**OTHER, seed=3)


@pytest.mark.parametrize("law", ["lqr", "a-lqr"])
def test_retuned_blocks_are_those_of_an_export_with_these_blocks(
    made: Any, model: FactoredModel, law: str, no_progress: Any
) -> None:
    whole, blocks = made(law, range(BLOCKS), **COSTS), (0, 2, 5)
    retuned, expected = retune(whole, model, RetuneOptions(blocks=blocks), no_progress), made(law, blocks, **COSTS)
    assert retuned.blocks == blocks
    for name in ("gain", "probe", "span"):
        np.testing.assert_allclose(getattr(retuned, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    for name in ("offset", "rest"):
        np.testing.assert_array_equal(getattr(retuned, name), getattr(whole, name)[list(blocks)])


@pytest.mark.parametrize("law", ["lqr", "a-lqr"])
def test_nothing_changes_where_nothing_is_asked_for_however_wrong_the_model(
    made: Any, law: str, no_progress: Any
) -> None:
    controller = made(law, (1, 2, 4), **COSTS)
    random = np.random.default_rng(9)
    wrong = [LowRankBlock(random.normal(size=(WIDTH, 1)) / 4, random.normal(size=(1, WIDTH))) for _ in range(BLOCKS)]
    again = retune(controller, FactoredModel(wrong), RetuneOptions(), no_progress)
    np.testing.assert_allclose(again.gain, controller.gain, rtol=1e-5, atol=1e-6)
    assert again.scale == pytest.approx(controller.scale)


def test_one_cost_may_change_alone(made: Any, model: FactoredModel, no_progress: Any) -> None:
    retuned = retune(made("lqr", range(BLOCKS), **COSTS), model, RetuneOptions(input_cost=9.0), no_progress)
    assert retuned.provenance == Provenance(**COSTS | {"input_cost": 9.0}, seed=3)


@pytest.mark.parametrize(
    "changes", [RetuneOptions(**OTHER), RetuneOptions(blocks=(0, 1, 4)), RetuneOptions(blocks=(5,))]
)
def test_strength_1_moves_the_last_boundary_as_far_as_before(
    made: Any, model: FactoredModel, changes: RetuneOptions, no_progress: Any
) -> None:
    controller = replace(made("lqr", range(BLOCKS), **COSTS), negative_scale=1.4)
    retuned = retune(controller, model, changes, no_progress)
    assert displacement(retuned, model, 1) == pytest.approx(displacement(controller, model, 1), rel=1e-4)
    assert retuned.scale != pytest.approx(controller.scale, rel=0.01)
    assert retuned.negative_scale == pytest.approx(2 * retuned.scale)
    assert retuned.safe_range == controller.safe_range


def test_published_law_keeps_its_dial_and_moves_its_safe_range(
    made: Any, model: FactoredModel, no_progress: Any
) -> None:
    controller = replace(made("a-lqr", range(BLOCKS), **COSTS), safe_range=(-20.0, 40.0))
    retuned = retune(controller, model, RetuneOptions(**OTHER), no_progress)
    assert retuned.scale == controller.scale
    assert retuned.safe_range[1] != pytest.approx(40, rel=0.01)
    for before, after in zip(controller.safe_range, retuned.safe_range, strict=True):
        assert displacement(retuned, model, after) == pytest.approx(displacement(controller, model, before), rel=1e-3)


@pytest.mark.parametrize("law", ["lqr", "a-lqr"])
def test_push_keeps_its_factor_over_the_prediction(
    made: Any, model: FactoredModel, law: str, no_progress: Any
) -> None:
    retuned = retune(made(law, range(BLOCKS), **COSTS), model, RetuneOptions(**OTHER), no_progress)
    assert retuned.sensor is not None
    np.testing.assert_allclose(retuned.sensor.push, 0.5 * predicted_push(retuned, model), rtol=1e-4, atol=1e-6)


def test_controller_needs_no_sensor(made: Any, model: FactoredModel, no_progress: Any) -> None:
    controller, changes = made("lqr", range(BLOCKS), **COSTS), RetuneOptions(**OTHER)
    retuned = retune(controller, model, changes, no_progress)
    bare = retune(replace(controller, sensor=None), model, changes, no_progress)
    assert (bare.sensor, bare.scale) == (None, retuned.scale)


def test_certificate_is_dropped(made: Any, model: FactoredModel, no_progress: Any) -> None:
    table = np.zeros((2, 1, BLOCKS), np.float32)
    certificate = Certificate(1.0, "hold", 0.1, 9, np.zeros(1, np.float32), table, table)
    controller = replace(made("lqr", range(BLOCKS), **COSTS), certificate=certificate)
    assert retune(controller, model, RetuneOptions(), no_progress).certificate is None


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"provenance": Provenance()}, RetuneOptions(), "has no gains of the Riccati recursion.*input cost 0"),
        (
            {"provenance": Provenance(state_cost=1.0, input_cost=1.0, cost="feature")}, RetuneOptions(),
            "gains of another cost cannot be retuned; expected .*; found --cost feature",
        ),
        ({"provenance": Provenance(input_cost=1.0)}, RetuneOptions(), "cannot be solved for their directions"),
        ({}, RetuneOptions(blocks=(1, 3)), r"has no probe at some of these blocks; expected some of \(1, 2, 4\)"),
        ({}, RetuneOptions(blocks=()), "has no probe at some of these blocks"),
        ({}, RetuneOptions(input_cost=0.0), "input_cost is out of range"),
        ({}, RetuneOptions(state_cost=-1.0), "state_cost is out of range"),
        ({}, RetuneOptions(state_cost=0.0, terminal_cost=0.0), "gains vanish"),
    ],
)
def test_what_cannot_be_retuned_is_refused(
    made: Any, model: FactoredModel, changes: dict[str, Any], options: RetuneOptions, message: str, no_progress: Any
) -> None:
    with pytest.raises(SteeringError, match=message):
        retune(replace(made("lqr", (1, 2, 4), **COSTS), **changes), model, options, no_progress)


def test_law_without_costs_is_refused(model: FactoredModel, make_controller: Any, no_progress: Any) -> None:
    with pytest.raises(SteeringError, match=r"expected law lqr or a-lqr and the costs.*found law pid"):
        retune(make_controller(BLOCKS, WIDTH, law="pid"), model, RetuneOptions(), no_progress)
