"""`torchrun -m edgesteer.export` as the documents have it: one of two processes is killed, and a rerun continues."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgesteer.cli.export import make_sidecar
from edgesteer.concept import load_concept
from edgesteer.export.checkpoint import unfinished
from edgesteer.sidecar import read_sidecar

pytestmark = [pytest.mark.torch, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "many-machines.md"
CONCEPT = """
name = "noise"
positive = "loud"
negative = "quiet"
[lists]
positive = ["what a bang", "the drums roar", "he shouts", "a loud horn"]
negative = ["a whisper", "the night is still", "she hums", "a soft bell"]
"""


@pytest.fixture(scope="module")
def concept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("concept") / "noise.toml"
    path.write_text(CONCEPT)
    return path


@pytest.fixture(scope="module")
def run_documented(tiny_model: Any, concept: Path) -> Callable[[Path], subprocess.Popen[str]]:
    """A function that starts the page's first torchrun command for the tiny model and an output."""

    def start(output: Path) -> subprocess.Popen[str]:
        line = re.findall(r"^torchrun (.* -m edgesteer\.export .*)$", PAGE.read_text("utf-8"), re.MULTILINE)[0]
        replaced = {"smollm2": tiny_model.folder, "warmth": concept, "warm.gguf": output}
        arguments = [str(replaced.get(each, each)) for each in shlex.split(line)]
        command = [sys.executable, "-m", "torch.distributed.run", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, env=environment, **pipes)

    return start


def process_of_rank(rank: int, job: subprocess.Popen[str]) -> psutil.Process:
    return next(each for each in psutil.Process(job.pid).children() if each.environ().get("RANK") == str(rank))


@pytest.fixture(scope="module")
def killed(run_documented: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """The output of a job whose second process is killed among the prompts; its exit code and what it says."""
    output = tmp_path_factory.mktemp("job") / "warm.gguf"
    with run_documented(output) as job:
        try:
            while not list(unfinished(output).glob("*.1.npz")) and job.poll() is None:
                time.sleep(0.01)
            process_of_rank(1, job).kill()
            out, err = job.communicate(timeout=600)
        finally:
            job.terminate()
    return output, job.returncode, out, err


def test_death_of_a_process_ends_the_job_and_is_named(killed: tuple[Path, int, str, str]) -> None:
    output, code, out, err = killed
    assert code == 1
    assert out == ""
    assert not output.exists()
    assert re.search(r"rank +: 1 ", err)
    assert "Signal 9 (SIGKILL)" in err
    assert "Run the same command again: it continues after the prompts that were finished." in err


def test_rerun_continues_to_what_one_process_makes(
    killed: tuple[Path, int, str, str], run_documented: Any, tiny_model: Any, concept: Path, tmp_path: Path,
    no_progress: Any,
) -> None:  # fmt: skip
    output = killed[0]
    with run_documented(output) as job:
        out, err = job.communicate(timeout=600)
    assert job.returncode == 0, err
    assert err.count(f"Found an unfinished export: {unfinished(output)}") == 1
    assert out.count("Try: ") == 1
    assert list(output.parent.iterdir()) == [output]
    (alone,) = make_sidecar(tiny_model.folder, load_concept(concept), tmp_path / "a.gguf", {}, no_progress).values()
    (together,) = read_sidecar(output).controllers.values()
    np.testing.assert_array_equal(together.probe, alone.probe)
    np.testing.assert_allclose(together.gain, alone.gain, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(together.sensor.push, alone.sensor.push, rtol=1e-4, atol=1e-6)
    assert together.safe_range == alone.safe_range
