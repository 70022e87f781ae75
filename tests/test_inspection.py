"""What inspect says of a file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgesteer.controller import Certificate, Controller, Sensor, Statistics
from edgesteer.fingerprint import Fingerprint
from edgesteer.inspection import describe, describe_controller
from edgesteer.steering_file import SteeringFile


@pytest.fixture
def controller() -> Controller:
    """Steers block 1 of 2, with a gain of norm 5; every statistic has a value of its own."""
    statistics = Statistics(*(np.array([n, n + 0.5], np.float32) for n in range(7)))
    two = np.array([0.5, 0.25], np.float32)
    return Controller(
        name="warm",
        positive="warm",
        negative="cold",
        law="lqr",
        n_blocks=2,
        blocks=(1,),
        probe=np.ones((1, 2), np.float32),
        offset=two[:1],
        gain=np.array([[3, 4]], np.float32),
        rest=two[:1],
        span=two[:1],
        sensor=Sensor(1, two, 0.0, 0.75, 8.0, two[:1], 0.125, two),
        statistics=statistics,
    )


def test_rows_hold_gain_norms_of_steered_blocks_and_the_statistics_of_all(controller: Controller) -> None:
    first, second = describe_controller(controller)["block_rows"]
    assert first == {
        "block": 0,
        "gain_norm": None,
        "positive_mean": 0.0,
        "positive_spread": 1.0,
        "negative_mean": 2.0,
        "negative_spread": 3.0,
        "neutral_mean": 4.0,
        "neutral_spread": 5.0,
        "separation": 6.0,
    }
    assert (second["gain_norm"], second["separation"]) == (5.0, 6.5)


def test_sensor_is_shown_without_its_vectors(controller: Controller) -> None:
    assert describe_controller(controller)["sensor"] == {
        "block": 1,
        "target": 0.75,
        "reference": None,
        "memory_tokens": 8.0,
        "slope": 1.0,
        "fade_tokens": 0.0,
        "recovery_tokens": 100.0,
        "prompt_mean": 0.125,
        "position_mean": [0.5, 0.25],
        "push": [0.5],
    }


def test_certificate_is_shown_as_numbers(controller: Controller) -> None:
    effort, bound = np.array([0, 1], np.float32), np.full((2, 2, len(controller.blocks)), 0.5, np.float32)
    certificate = Certificate(1.5, "hold", 0.25, 20, effort, bound, bound / 2)
    shown = describe_controller(replace(controller, certificate=certificate))["certificate"]
    assert shown == {
        "level": 1.5, "mode": "hold", "risk": 0.25, "texts": 20, "effort": [0.0, 1.0], "bound": bound.tolist(),
        "measured": (bound / 2).tolist(),
    }  # fmt: skip


def test_what_the_file_lacks_is_null(controller: Controller) -> None:
    shown = describe_controller(replace(controller, sensor=None, statistics=None))
    assert shown["sensor"] is None
    assert shown["certificate"] is None
    assert [row["separation"] for row in shown["block_rows"]] == [None, None]


def test_kind_and_model_follow_the_fingerprint(controller: Controller) -> None:
    fingerprint = Fingerprint("llama", 2, 2, "a", "b", "Tiny")
    sidecar = describe(SteeringFile({"warm": controller}, fingerprint))
    assert (sidecar["kind"], sidecar["model"]["model_name"]) == ("sidecar", "Tiny")
    vector = describe(SteeringFile({"warm": controller}, None))
    assert (vector["kind"], vector["model"]) == ("control vector", None)
