"""Memory: what a sidecar adds to a process that generates text, over the same process without it.

Claim: at most twice the sidecar's size. Fresh processes in alternation, with no, one and several sidecars; what counts
is resident memory that no file backs (the rest, code and weights, the system can drop). The first sidecar also
brings the hook and its bookkeeping; `each further` is the slope.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from common import MODELS, arguments, in_alternation, print_table, random_controller, spread

from edgesteer.registry import resolve_model
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.generate import TextStream
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Steering, plain_prompt
from edgesteer.runtime.sampling import Sampling
from edgesteer.sidecar import Sidecar, write_sidecar
from edgesteer.steering_file import read_steering

SEVERAL = 17
TEXT = "Once upon a time, in a small village by the river, there lived"
NEW_TOKENS = 64


def private_bytes() -> int:
    """Resident memory of this process that no file backs."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def generate(model_path: Path, sidecars: list[Path]) -> int:
    """Generate a text under every sidecar, and return what the process then holds, in bytes."""
    with LlamaModel(model_path) as model:
        controllers = [c for path in sidecars for c in read_steering(path, model.fingerprint).controllers.values()]
        steering = [Steering(controller.name, 1.0) for controller in controllers]
        prompt = plain_prompt(model, TEXT)
        with Engine(model, controllers, threads=1) as engine:
            TextStream(engine, prompt, steering, Sampling(temp=0), NEW_TOKENS).run()
            return private_bytes()


def measured_process(model: Path, sidecars: list[Path]) -> float:
    """Return what `generate` does in a process of its own, in KB."""
    command = [sys.executable, __file__, "--process", str(model), *map(str, sidecars)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1000


def write_sidecars(model_path: Path, folder: Path) -> list[Path]:
    """Write SEVERAL sidecars for a model and return their paths."""
    paths = [folder / f"{model_path.stem}-{number}.gguf" for number in range(SEVERAL)]
    with LlamaModel(model_path) as model:
        for seed, path in enumerate(paths):
            controller = replace(random_controller(model.n_blocks, model.width, seed=seed), name=f"random-{seed}")
            write_sidecar(path, Sidecar(model.fingerprint, {controller.name: controller}))
    return paths


def bench_memory(model: Path, sidecars: list[Path], rounds: int) -> list[str]:
    """Return the table's cells: size of a sidecar, what the first adds and what each further one adds."""
    taken = in_alternation(
        {count: functools.partial(measured_process, model, sidecars[:count]) for count in (0, 1, SEVERAL)}, rounds
    )
    size = sidecars[0].stat().st_size / 1000
    first = [one - none for one, none in zip(taken[1], taken[0], strict=True)]
    further = [(many - one) / (SEVERAL - 1) for many, one in zip(taken[SEVERAL], taken[1], strict=True)]
    added = [f"{spread(kb, '.0f')}, {statistics.median(kb) / size:.2f} x" for kb in (first, further)]
    return [f"{size:.0f}", *added]


def main() -> None:
    rounds = arguments(__doc__, rounds=9).rounds
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            model = resolve_model(name)
            rows.append([name, *bench_memory(model, write_sidecars(model, Path(folder)), rounds)])
    columns = ["model", "sidecar, KB", "the first adds, KB (quartiles)", "each further, KB (quartiles)"]
    print_table("Memory: what steering adds to a process", columns, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        print(generate(Path(sys.argv[2]), [Path(path) for path in sys.argv[3:]]))
    else:
        main()
