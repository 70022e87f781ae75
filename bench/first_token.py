"""Cold start: from starting `edgesteer generate` to its first token, with and without a sidecar, in alternation.

Cold is the process; the model's file is in the system's cache after the first round.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import (
    MODELS,
    RATIO_COLUMNS,
    UNSTEERED,
    arguments,
    in_alternation,
    milliseconds_since,
    print_table,
    random_controller,
    ratio_rows,
)

from edgesteer.registry import resolve_model
from edgesteer.runtime.model import LlamaModel
from edgesteer.sidecar import Sidecar, write_sidecar

PROMPT = "What should I do this weekend?"


def first_token(model: Path, threads: int | None, *options: str) -> float:
    """Return the milliseconds from the start of a process to the first byte of its text."""
    command = [sys.executable, "-m", "edgesteer", "generate", str(model), "--prompt", PROMPT, "--n-predict", "1"]
    command += ["--threads", str(threads)] if threads else []
    started = time.perf_counter()
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        return milliseconds_since(started)


def write_random_sidecar(path: Path, model_path: Path) -> None:
    with LlamaModel(model_path) as model:
        controller = random_controller(model.n_blocks, model.width)
        write_sidecar(path, Sidecar(model.fingerprint, {controller.name: controller}))


def main() -> None:
    options = arguments(__doc__, rounds=15)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            model, sidecar = resolve_model(name), Path(folder) / f"{name}.gguf"
            write_random_sidecar(sidecar, model)
            start = functools.partial(first_token, model, options.threads)
            measures = {UNSTEERED: start, "with a sidecar": functools.partial(start, "--steer", str(sidecar))}
            rows += ratio_rows(name, in_alternation(measures, options.rounds))
    print_table("Cold start: time to the first token over an unsteered run's", RATIO_COLUMNS, rows)


if __name__ == "__main__":
    main()
