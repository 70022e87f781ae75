"""The feedback law inside the PyTorch model, one block at a time and by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgesteer.controller import LAWS, Command, Controller
from edgesteer.export.activations import residual_stream
from edgesteer.export.simulate import run_steered
from edgesteer.export.weights import LoadedModel

pytestmark = pytest.mark.torch

TOKENS = torch.arange(40, 52)
ALL_ROWS = torch.ones(12, dtype=torch.bool)
SOME_ROWS = torch.arange(12) % 3 == 0
BLOCK = 2


@pytest.fixture
def plain(tiny_torch: LoadedModel) -> torch.Tensor:
    """(5, 12, 32) the unsteered residual stream."""
    return residual_stream(tiny_torch, TOKENS)


@pytest.fixture
def one_block(make_controller: Callable[..., Controller]) -> Controller:
    return make_controller(4, 32, blocks=(BLOCK,))


def reading(controller: Controller, x: torch.Tensor) -> torch.Tensor:
    assert controller.probe is not None
    return x @ torch.from_numpy(controller.probe[0]) - float(controller.offset[0])


@pytest.mark.parametrize("law", LAWS)
def test_strength_0_is_the_unsteered_model(
    tiny_torch: LoadedModel, plain: torch.Tensor, make_controller: Callable[..., Controller], law: str
) -> None:
    controller = make_controller(4, 32, law=law)
    run = run_steered(tiny_torch, controller, controller.command(0.0), TOKENS, ALL_ROWS)
    assert torch.equal(run.stream, plain)
    assert torch.equal(run.logits, tiny_torch.network(input_ids=TOKENS[None]).logits[0])
    assert not run.control.any()


def test_no_rows_is_the_unsteered_model(tiny_torch: LoadedModel, plain: torch.Tensor, one_block: Controller) -> None:
    run = run_steered(tiny_torch, one_block, Command(1.0, 1.0, "hold"), TOKENS, torch.zeros_like(ALL_ROWS))
    assert torch.equal(run.stream, plain)


def test_lqr_acts_on_the_blocks_output(tiny_torch: LoadedModel, plain: torch.Tensor, one_block: Controller) -> None:
    run = run_steered(tiny_torch, one_block, Command(0.5, 0.25, "hold"), TOKENS, SOME_ROWS)
    before = reading(one_block, plain[BLOCK + 1])
    control = 0.25 * (float(one_block.rest[0]) + 0.5 * float(one_block.span[0]) - before) * SOME_ROWS
    pushed = plain[BLOCK + 1] + control[:, None] * torch.from_numpy(one_block.gain[0])
    torch.testing.assert_close(run.before[0], before)
    torch.testing.assert_close(run.control[0], control)
    torch.testing.assert_close(run.stream[BLOCK + 1], pushed)
    assert torch.equal(run.stream[: BLOCK + 1], plain[: BLOCK + 1])
    assert not torch.equal(run.stream[BLOCK + 2], plain[BLOCK + 2])


def test_a_lqr_reads_the_blocks_input(tiny_torch: LoadedModel, plain: torch.Tensor, one_block: Controller) -> None:
    paper = replace(one_block, law="a-lqr")
    run = run_steered(tiny_torch, paper, Command(1.0, 1.0, "hold"), TOKENS, ALL_ROWS)
    torch.testing.assert_close(run.before[0], reading(paper, plain[BLOCK]))


def test_a_lqr_reads_its_input_after_the_control_there(
    tiny_torch: LoadedModel, make_controller: Callable[..., Controller]
) -> None:
    paper = make_controller(4, 32, law="a-lqr", blocks=(1, 2))
    run = run_steered(tiny_torch, paper, Command(1.0, 1.0, "hold"), TOKENS, ALL_ROWS)
    assert paper.probe is not None
    expected = run.stream[2] @ torch.from_numpy(paper.probe[1]) - float(paper.offset[1])
    torch.testing.assert_close(run.before[1], expected)


def test_add_measures_nothing(tiny_torch: LoadedModel, plain: torch.Tensor, one_block: Controller) -> None:
    zero = np.zeros(1, dtype=np.float32)
    add = replace(one_block, law="add", probe=None, offset=zero, rest=zero, span=zero + 1)
    run = run_steered(tiny_torch, add, add.command(3.0), TOKENS, ALL_ROWS)
    torch.testing.assert_close(run.stream[BLOCK + 1], plain[BLOCK + 1] + 3 * torch.from_numpy(add.gain[0]))
    assert not run.before.any()


@pytest.mark.parametrize(("mode", "keeps"), [("floor", torch.Tensor.relu), ("ceiling", lambda e: -(-e).relu())])
def test_one_sided_modes_drop_the_other_side(
    tiny_torch: LoadedModel, one_block: Controller, mode: str, keeps: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    middle = float(run_steered(tiny_torch, one_block, one_block.command(0), TOKENS, ALL_ROWS).before.median())
    centred = replace(one_block, rest=np.array([middle], dtype=np.float32))  # so that both signs occur
    two_sided = run_steered(tiny_torch, centred, Command(0.0, 1.0, "hold"), TOKENS, ALL_ROWS).control
    one_sided = run_steered(tiny_torch, centred, Command(0.0, 1.0, mode), TOKENS, ALL_ROWS).control
    torch.testing.assert_close(one_sided, keeps(two_sided))
    assert 0 < (one_sided != 0).sum() < 12


@pytest.mark.parametrize("sensed", [0, BLOCK, 3])
def test_sensor_reads_before_control_at_its_block(
    tiny_torch: LoadedModel, plain: torch.Tensor, one_block: Controller, sensed: int
) -> None:
    assert one_block.sensor is not None
    sensor = replace(one_block.sensor, block=sensed)
    run = run_steered(tiny_torch, replace(one_block, sensor=sensor), Command(1.0, 1.0, "hold"), TOKENS, ALL_ROWS)
    stream = run.stream if sensed > BLOCK else plain
    expected = stream[sensed + 1] @ torch.from_numpy(sensor.probe) - sensor.offset
    torch.testing.assert_close(run.sensor, expected)
