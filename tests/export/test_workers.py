"""Processes that share prompts: alone, continued after an end, and two of them that torch.distributed has joined."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgesteer.errors import EdgeSteerError
from edgesteer.export.checkpoint import checkpoint_of, unfinished
from edgesteer.export.workers import ALONE, Workers, started_by_torchrun

pytestmark = pytest.mark.torch

COUNT = 7
TOGETHER = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from edgesteer.errors import EdgeSteerError
from edgesteer.export.checkpoint import checkpoint_of
from edgesteer.export.workers import started_by_torchrun

folder, dies_at = Path(sys.argv[1]), int(sys.argv[2])
calls, steps = [], []

def part(index):
    if index == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(index)
    return torch.full((2, 3), 0.1) ** index

try:
    with started_by_torchrun() as workers:
        workers = replace(workers, checkpoint=checkpoint_of(folder / "out.gguf", "settings"))
        mean = workers.mean("powers", 7, part, lambda: steps.append(1)).tolist()
        one = workers.mean("one", 1, lambda index: torch.ones(2)).tolist()
        squares = workers.gather("squares", 5, lambda index: index**2)
        workers.finish()
    found = {"mean": mean, "one": one, "squares": squares, "calls": calls, "steps": len(steps)}
    (folder / f"{workers.rank}.json").write_text(json.dumps(found))
except EdgeSteerError as error:
    sys.exit(f"Error: {error}")
"""


def part(index: int) -> torch.Tensor:
    return torch.full((2, 3), 0.1) ** index


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def run_together(folder: Path, *, dies_at: int = -1) -> list[tuple[int, str]]:
    """Run TOGETHER in two processes, one of which dies at a prompt; return their exit codes and what they said."""
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(folder), str(dies_at)],
            env={**os.environ, **meeting, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    return [(process.returncode, said) for process in processes for _, said in [process.communicate(timeout=600)]]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both processes found."""
    folder = tmp_path_factory.mktemp("together")
    assert [code for code, _ in run_together(folder)] == [0, 0]
    assert not unfinished(folder / "out.gguf").exists()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_mean_of_one_process_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert ALONE.mean("values", 2, lambda index: values[index]).tolist() == [2.0, 4.0]


def test_mean_is_summed_in_double_precision() -> None:
    mean = ALONE.mean("values", 3, lambda index: torch.tensor([1e8, 1.0, -1e8][index]))
    assert mean.dtype == torch.float64
    assert mean.item() == 1 / 3


def test_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        ALONE.mean("values", 0, part)


def test_parts_are_gathered_in_order() -> None:
    steps: list[int] = []
    assert ALONE.gather("squares", 3, lambda index: index**2, lambda: steps.append(1)) == [0, 1, 4]
    assert len(steps) == 3


def test_the_first_of_several_processes_paces_the_whole_count() -> None:
    """7 prompts on 3 processes: the first has 0, 3 and 6, and does them in each of two rounds."""
    steps: list[int] = []
    advance = Workers(0, 3).pace(7, lambda: steps.append(1))
    seen = []
    for _ in range(6):
        advance()
        seen.append(len(steps))
    assert seen == [3, 6, 7, 10, 13, 14]


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_shares_are_all_prompts_once(size: int) -> None:
    shares = [index for rank in range(size) for index in Workers(rank, size).share(COUNT)]
    assert sorted(shares) == list(range(COUNT))


def dying_at(last: int, calls: list[int]) -> Callable[[int], torch.Tensor]:
    """A part that notes its calls, and is interrupted at one of them."""

    def noted(index: int) -> torch.Tensor:
        if index == last:
            raise KeyboardInterrupt
        calls.append(index)
        return part(index)

    return noted


def test_a_rerun_continues_to_the_same_bytes(tmp_path: Path) -> None:
    workers = Workers(checkpoint=checkpoint_of(tmp_path / "out.gguf", "settings"))
    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        workers.mean("powers", COUNT, dying_at(4, calls))
    steps: list[int] = []
    again = Workers(checkpoint=checkpoint_of(tmp_path / "out.gguf", "settings"))
    mean = again.mean("powers", COUNT, dying_at(-1, calls), lambda: steps.append(1))
    assert calls == list(range(COUNT))
    assert len(steps) == COUNT
    assert torch.equal(mean, ALONE.mean("powers", COUNT, part))


def test_a_finished_mean_is_not_computed_again(tmp_path: Path) -> None:
    workers = Workers(checkpoint=checkpoint_of(tmp_path / "out.gguf", "settings"))
    first = workers.mean("powers", COUNT, part)
    calls: list[int] = []
    assert torch.equal(workers.mean("powers", COUNT, dying_at(-1, calls)), first)
    assert calls == []


def test_two_processes_have_the_mean_of_one_up_to_rounding(together: list[dict[str, Any]]) -> None:
    torch.testing.assert_close(
        torch.tensor(together[0]["mean"], dtype=torch.float64), ALONE.mean("powers", COUNT, part), rtol=1e-15, atol=0
    )


def test_two_processes_have_the_same_bytes(together: list[dict[str, Any]]) -> None:
    assert together[0]["mean"] == together[1]["mean"]
    assert together[0]["squares"] == together[1]["squares"] == [0, 1, 4, 9, 16]


def test_each_process_does_its_share(together: list[dict[str, Any]]) -> None:
    assert [each["calls"] for each in together] == [[0, 2, 4, 6], [1, 3, 5]]


def test_the_first_process_counts_the_prompts_of_both(together: list[dict[str, Any]]) -> None:
    assert together[0]["steps"] == COUNT


def test_a_process_without_prompts_has_the_mean_too(together: list[dict[str, Any]]) -> None:
    assert together[0]["one"] == together[1]["one"] == [1.0, 1.0]


@pytest.mark.parametrize(("dies_at", "rank"), [(3, 1), (2, 0)])
def test_death_of_a_process_is_named_and_one_process_continues(dies_at: int, rank: int, tmp_path: Path) -> None:
    ended = run_together(tmp_path, dies_at=dies_at)
    assert ended[rank][0] == -9
    code, said = ended[1 - rank]
    assert code == 1
    assert f"Error: powers: a process has ended early; expected 2 processes; found no process of rank {rank}." in said
    calls: list[int] = []
    workers = Workers(checkpoint=checkpoint_of(tmp_path / "out.gguf", "settings"))
    mean = workers.mean("powers", COUNT, dying_at(-1, calls))
    survivors = set(range(1 - rank, COUNT, 2))
    assert not survivors & set(calls)
    assert dies_at in calls
    torch.testing.assert_close(mean, ALONE.mean("powers", COUNT, part), rtol=1e-15, atol=0)


def test_processes_that_cannot_meet_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "one"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(EdgeSteerError, match="the processes of this export cannot meet"), started_by_torchrun():
        pass
