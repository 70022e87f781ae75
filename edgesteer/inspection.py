"""What `edgesteer inspect` shows of a sidecar or a control vector, as plain data. docs/cli.md documents it.

Vectors of the model's width are left out; everything else that the file says is here.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from edgesteer.controller import Certificate, Controller, Sensor, Statistics
from edgesteer.steering_file import SteeringFile


def describe(content: SteeringFile) -> dict[str, Any]:
    """Return an object with kind, model (null for a control vector) and controllers."""
    fingerprint = content.fingerprint
    return {
        "kind": "control vector" if fingerprint is None else "sidecar",
        "model": None if fingerprint is None else asdict(fingerprint),
        "controllers": [describe_controller(each) for each in content.controllers.values()],
    }


def describe_controller(controller: Controller) -> dict[str, Any]:
    """Return a controller's own numbers, its sensor and provenance, and one row a block of the model."""
    return {
        "name": controller.name,
        "positive": controller.positive,
        "negative": controller.negative,
        "law": controller.law,
        "mode": controller.mode,
        "n_blocks": controller.n_blocks,
        "width": controller.width,
        "blocks": list(controller.blocks),
        "default_strength": controller.default_strength,
        "safe_range": list(controller.safe_range),
        "scale": controller.scale,
        "negative_scale": controller.negative_scale,
        "certificate": None if controller.certificate is None else describe_certificate(controller.certificate),
        "sensor": None if controller.sensor is None else describe_sensor(controller.sensor),
        "provenance": asdict(controller.provenance),
        "block_rows": [describe_block(controller, block) for block in range(controller.n_blocks)],
    }


def describe_sensor(sensor: Sensor) -> dict[str, Any]:
    return {
        "block": sensor.block,
        "target": sensor.target,
        "reference": sensor.reference,
        "memory_tokens": sensor.memory_tokens,
        "slope": sensor.slope,
        "fade_tokens": sensor.fade_tokens,
        "recovery_tokens": sensor.recovery_tokens,
        "prompt_mean": sensor.prompt_mean,
        "position_mean": sensor.position_mean.tolist(),
        "push": sensor.push.tolist(),
    }


def describe_certificate(certificate: Certificate) -> dict[str, Any]:
    """Return the bound and the measured error by pole, effort and steered block."""
    return {each.name: np.asarray(getattr(certificate, each.name)).tolist() for each in fields(Certificate)}


def describe_block(controller: Controller, block: int) -> dict[str, Any]:
    """Return one block's gain norm (null: not steered) and its calibration statistics (null: none)."""
    row: dict[str, Any] = {"block": block, "gain_norm": None}
    if block in controller.blocks:
        row["gain_norm"] = float(np.linalg.norm(controller.gain[controller.blocks.index(block)]))
    for field in fields(Statistics):
        values = controller.statistics
        row[field.name] = None if values is None else float(getattr(values, field.name)[block])
    return row
