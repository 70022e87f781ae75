"""Settings: what each changes in a controller, and that a new dial is the old behaviour under other numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgesteer.controller import LAWS, Certificate, Controller
from edgesteer.errors import SteeringError
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Request, Steering, plain_prompt
from edgesteer.runtime.sampling import Sampling
from edgesteer.tune.settings import (
    BLOCKS,
    NEAR_TARGET,
    SHAPES,
    Setting,
    applied,
    candidates,
    redialled,
    restricted,
    shaped,
    strongest,
)


@pytest.fixture
def lqr(make_controller: Any) -> Controller:
    """8 blocks, of which 0, 2, 3, 5, 6 and 7 are steered; the sensor is at block 4."""
    return make_controller(8, 16, blocks=(0, 2, 3, 5, 6, 7), mode="one-sided")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("choice", "blocks"),
    [
        ("upper third", (6, 7)),
        ("upper half", (5, 6, 7)),
        ("middle half", (2, 3, 5, 6)),
        ("every other block", (0, 3, 6)),
        ("up to the sensor", (0, 2, 3)),
    ],
)
def test_blocks_are_left_out(lqr: Controller, choice: str, blocks: tuple[int, ...]) -> None:
    assert applied(Setting(blocks=choice), lqr).blocks == blocks


def test_the_strongest_half_is_that_with_the_largest_push(lqr: Controller) -> None:
    assert lqr.sensor is not None
    push = np.array([0.1, -5.0, 0.2, 3.0, 0.0, -4.0], dtype=np.float32)
    controller = replace(lqr, sensor=replace(lqr.sensor, push=push))
    assert applied(Setting(blocks="strongest half"), controller).blocks == (2, 5, 7)
    assert strongest(replace(lqr, sensor=None)).all()


def test_blocks_that_stay_keep_their_rows(lqr: Controller) -> None:
    kept = np.array([False, True, False, False, True, False])
    made = restricted(lqr, kept)
    for name in ("gain", "probe", "offset", "rest", "span"):
        np.testing.assert_array_equal(getattr(made, name), getattr(lqr, name)[kept])
    assert made.sensor is not None
    assert lqr.sensor is not None
    np.testing.assert_array_equal(made.sensor.push, lqr.sensor.push[kept])


@pytest.mark.parametrize("law", [law for law in LAWS if law != "ablate"])
def test_every_setting_makes_a_controller_of_every_law(make_controller: Any, law: str) -> None:
    found = candidates(make_controller(8, 16, law=law))
    assert next(iter(found)) == Setting()
    assert len(found) > 8
    assert len({setting.name for setting in found}) == len(found)


def test_ablation_cannot_be_tuned(make_controller: Any) -> None:
    with pytest.raises(SteeringError, match="this law's dial cannot be tuned"):
        candidates(make_controller(8, 16, law="ablate"))


def test_settings_that_come_to_the_same_are_tried_once(make_controller: Any) -> None:
    single = candidates(replace(make_controller(8, 16, blocks=(3,)), sensor=None))
    assert [setting.changes for setting in single if "blocks" in setting.changes] == []
    without = candidates(replace(make_controller(8, 16), sensor=None))
    assert not any("loop" in setting.changes for setting in without)


def test_a_quick_run_tries_about_half(lqr: Controller) -> None:
    quick = candidates(lqr, quick=True)
    assert quick.keys() < candidates(lqr).keys()
    assert len(quick) == pytest.approx(len(candidates(lqr)) / 2, abs=1)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_positive_and_keeps_the_mean(lqr: Controller, name: str) -> None:
    made = applied(Setting(shape=name), lqr)
    factors = made.gain[:, 0] / lqr.gain[:, 0]
    assert factors.min() > 0
    assert factors.mean() == pytest.approx(1, abs=1e-5)
    assert made.sensor is not None
    assert lqr.sensor is not None
    np.testing.assert_allclose(made.sensor.push, lqr.sensor.push * factors, rtol=1e-5)


def test_shapes_rise_fall_and_have_a_hump() -> None:
    rising, falling, hump = (shape(np.linspace(0, 1, 5)) for shape in SHAPES.values())
    assert np.all(np.diff(rising) > 0)
    np.testing.assert_allclose(falling, rising[::-1])
    assert hump.argmax() == 2


def test_what_a_certificate_does_not_cover_loses_it(lqr: Controller) -> None:
    table = np.zeros((2, 1, 6), dtype=np.float32)
    certified = replace(lqr, certificate=Certificate(1.0, "one-sided", 0.05, 9, np.zeros(1, "f4"), table, table))
    assert applied(Setting(blocks="upper half"), certified).certificate is None
    assert shaped(certified, np.ones(6)).certificate is None
    assert applied(Setting(loop="steady push"), certified).certificate is not None
    assert redialled(certified, 0.5).certificate is not None


def test_settings_combine_unless_they_change_the_same() -> None:
    one, other = Setting(blocks="upper half"), Setting(loop="steady push")
    both = one.combined(other)
    assert both is not None
    assert both.changes == {"blocks": "upper half", "loop": "steady push"}
    assert one.combined(Setting(blocks=next(iter(BLOCKS)))) is None


# ---- a new dial is the old behaviour ----


@pytest.fixture
def write(tiny_llama: LlamaModel) -> Any:
    """Return a function that gives the tokens that the tiny model writes under a controller."""

    def write(controller: Controller, strength: float) -> list[int]:
        with Engine(tiny_llama, [controller], threads=1) as engine:
            request = Request(
                plain_prompt(tiny_llama, "Hello you"), [Steering(controller.name, strength)], Sampling(seed=1),
                max_tokens=24,
            )  # fmt: skip
            return [piece.token for piece in Batch(engine).stream(request) if piece.token is not None]

    return write


@pytest.mark.parametrize("strength", [0.5, -0.5])
def test_strength_1_of_a_new_dial_is_the_old_strength(
    make_controller: Any, tiny_llama: LlamaModel, write: Any, strength: float
) -> None:
    controller = make_controller(tiny_llama.n_blocks, tiny_llama.width, mode="one-sided")
    side = np.sign(strength)
    tokens = write(controller, strength)
    assert write(redialled(controller, 0.5), side) == tokens
    assert write(controller, side) != tokens


def test_a_negative_scale_moves_the_level_and_the_target_of_the_negative_side_only(
    make_controller: Any, tiny_llama: LlamaModel, write: Any
) -> None:
    controller = make_controller(tiny_llama.n_blocks, tiny_llama.width, mode="one-sided")
    halved = replace(controller, negative_scale=controller.scale / 2)
    assert write(halved, -1.0) == write(controller, -0.5)
    assert write(halved, -1.0) != write(controller, -1.0)
    assert write(halved, 1.0) == write(controller, 1.0)


def test_a_fixed_target_stays_when_the_dial_is_renamed(lqr: Controller) -> None:
    made = redialled(applied(Setting(loop="fixed target"), lqr), 0.5)
    assert made.sensor is not None
    assert (made.sensor.reference, made.sensor.target) == ("fixed", NEAR_TARGET)
    assert made.scale == lqr.scale / 2
