"""What the benchmarks share: a controller of the right shape, measuring in alternation, and the tables they print.

Nothing here compares a time with one of another run: machines differ, and so do two minutes on one machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from edgesteer.concept import load_neutral
from edgesteer.controller import Array, Controller, Sensor, Statistics
from edgesteer.runtime.model import LlamaModel

MODELS = ("smollm2", "gemma3")
UNSTEERED = "unsteered"

RATIO_COLUMNS = ("model", "engine", "ratio: median (quartiles)", "of the fastest", "fastest, ms")

Measure = Callable[[], float]
Name = TypeVar("Name", str, int)


def random_controller(n_blocks: int, width: int, *, seed: int = 0) -> Controller:
    """Return a controller that writes to every block of every row, of an exported one's size and with a sensor.

    Its vectors are random and its gains small, so that what the model computes stays ordinary.
    """
    rng = np.random.default_rng(seed)

    def array(*shape: int, scale: float) -> Array:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    flat = np.zeros(n_blocks, np.float32)
    sensor = Sensor(
        block=n_blocks // 2, probe=array(width, scale=1e-3), offset=0.0, target=1.0, memory_tokens=8.0, push=flat,
        prompt_mean=0.0, position_mean=np.zeros(24, np.float32),
    )  # fmt: skip
    return Controller(
        name="random", positive="up", negative="down", law="lqr", mode="hold", n_blocks=n_blocks,
        blocks=tuple(range(n_blocks)), probe=array(n_blocks, width, scale=1e-3), offset=flat,
        gain=array(n_blocks, width, scale=1e-3), rest=flat, span=flat + 1, sensor=sensor,
        statistics=Statistics(*[flat] * 7),
    )  # fmt: skip


def english_tokens(model: LlamaModel, count: int) -> list[int]:
    """Return the first tokens of ordinary English text."""
    return model.tokenize(" ".join(text.completion for text in load_neutral()))[:count]


def milliseconds_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


def arguments(description: str | None, rounds: int = 30) -> argparse.Namespace:
    """Return the command line's `rounds` and `threads` (None: as many as edgesteer takes by default)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def in_alternation(measures: Mapping[Name, Measure], rounds: int) -> dict[Name, list[float]]:
    """Take every measurement once a round, in an order that turns by one each round; one round before is thrown away.

    So a machine that slows down for a while slows all of them, and none always follows the same one.
    """
    names = list(measures)
    taken: dict[Name, list[float]] = {name: [] for name in names}
    for number in range(-1, rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            value = measures[name]()
            if number >= 0:
                taken[name].append(value)
    return taken


def ratio_rows(model: str, taken: Mapping[str, Sequence[float]]) -> list[list[str]]:
    """Return a row of RATIO_COLUMNS for every measurement but the baseline: its times over the baseline's, by round.

    The ratio of the fastest rounds is less disturbed by whatever else the machine does.
    """
    base = taken[UNSTEERED]
    return [
        [model, name, spread([a / b for a, b in zip(values, base, strict=True)]), f"{min(values) / min(base):.3f}",
         f"{min(values):.2f}"]
        for name, values in taken.items()
        if name != UNSTEERED
    ]  # fmt: skip


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Median and quartiles, as text."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    lines = [f"\n**{title}**\n", columns, ["---"] * len(columns), *rows]
    print("\n".join(line if isinstance(line, str) else f"| {' | '.join(line)} |" for line in lines), flush=True)
