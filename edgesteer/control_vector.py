"""Control vectors, the GGUF files of repeng and of llama.cpp's cvector-generator, as controllers and back.

The tensor direction.<layer> is added to the output of block <layer>: its number is the steered block's.
llama.cpp has no direction for block 0 (src/llama-adapter.cpp). This file loads no llama.cpp.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from edgesteer.controller import Array, Controller, check_tensor
from edgesteer.errors import SidecarError
from edgesteer.gguf_file import copy_tensors, open_gguf, write_gguf

ARCHITECTURE = "controlvector"
DIRECTION = re.compile(r"direction\.([1-9][0-9]*)")
REMEDY = "Give a control vector that repeng or llama.cpp's cvector-generator wrote."


def import_control_vector(path: str | os.PathLike[str], *, n_blocks: int | None = None) -> Controller:
    """Return a control vector as a controller of law `add` whose strength is llama.cpp's scale.

    n_blocks: of the model, which the file does not say; by default the model ends at the last direction

    Raises SidecarError when the file is damaged, has no directions, or has one that is not a finite float32
    vector of the common width or steers a block that the model does not have.
    """
    with open_gguf(path, SidecarError, REMEDY) as reader:
        directions = _directions(copy_tensors(reader))
        blocks = tuple(sorted(directions))
        zero, one = np.zeros(len(blocks), np.float32), np.ones(len(blocks), np.float32)
        name = re.sub(r"[^\w-]+", "-", Path(path).stem)
        return Controller(
            name=name,
            positive=name,
            negative=f"opposite of {name}",
            law="add",
            n_blocks=blocks[-1] + 1 if n_blocks is None else n_blocks,
            blocks=blocks,
            probe=None,
            offset=zero,
            gain=np.stack([directions[block] for block in blocks]),
            rest=zero,
            span=one,
        )


def _directions(tensors: dict[str, Array]) -> dict[int, Array]:
    """Return {block: (width,) direction}; like llama.cpp, refuse a file that holds anything else."""
    if not tensors:
        raise SidecarError("holds no directions", remedy=REMEDY)
    directions: dict[int, Array] = {}
    for name, tensor in tensors.items():
        match = DIRECTION.fullmatch(name)
        if match is None:
            raise SidecarError("not a direction", where=name, expected="direction.1 and so on", remedy=REMEDY)
        check_tensor(tensor, next(iter(tensors.values())).shape[-1:], name)
        directions[int(match[1])] = tensor
    return directions


def export_control_vector(path: str | os.PathLike[str], controller: Controller) -> None:
    """Write the open-loop shadow of a controller: what strength 1 adds to neutral text at first.

        direction_i = (rest_i + scale * span_i - y_i) * gain_i

    y_i is the mean of the measurement over neutral text where the statistics have it, which is at the blocks'
    outputs (law `lqr`). Law `add` measures nothing, so y_i = 0 is exact; `a-lqr` and `pid` measure the blocks' inputs,
    of which there are no statistics, so y_i = 0 is an approximation. `pid` couples these directions over the blocks.

    A control vector cannot hold block 0: a controller that steers it too loses that part.

    Raises SidecarError when block 0 is all that is steered or the law adds nothing that is the same for every text
    (`ablate`, `rotate`, `scheduled`), EdgeSteerError when the file cannot be written.
    """
    if controller.law in ("ablate", "rotate", "scheduled"):
        raise SidecarError(
            "has no control vector",
            where=controller.name,
            expected="a law that adds something constant to neutral text",
            found=controller.law,
        )
    setpoint = controller.rest + np.float32(controller.scale) * controller.span
    directions = controller.coupling @ ((setpoint - _neutral_measurement(controller))[:, None] * controller.gain)
    tensors = {
        f"direction.{block}": direction.astype(np.float32)
        for block, direction in zip(controller.blocks, directions, strict=True)
        if block > 0
    }
    if not tensors:
        raise SidecarError(
            "steers block 0 alone, which a control vector cannot hold",
            where=controller.name,
            remedy="Export a controller that steers later blocks.",
        )
    metadata = {
        f"{ARCHITECTURE}.model_hint": controller.name,
        f"{ARCHITECTURE}.layer_count": np.int32(len(tensors)),
    }
    write_gguf(path, ARCHITECTURE, metadata, tensors)


def _neutral_measurement(controller: Controller) -> Array:
    """Return y_i, (m,): see export_control_vector."""
    if controller.law != "lqr" or controller.statistics is None:
        return np.zeros(len(controller.blocks), np.float32)
    return controller.statistics.neutral_mean[list(controller.blocks)]
