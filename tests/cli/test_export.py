"""edgesteer export: what the command does around the exporter."""

from __future__ import annotations

import errno
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from edgesteer.cli.declared import fields_of
from edgesteer.concept import ConceptSet, Example
from edgesteer.controller import LAWS, Controller
from edgesteer.export.checkpoint import Checkpoint, Sum, unfinished
from edgesteer.fingerprint import Fingerprint
from edgesteer.sidecar import read_sidecar

LARGE = Path(__file__).parents[2] / "docs" / "large.md"
CONCEPT = """
name = "{name}"
positive = "loud"
negative = "quiet"
[lists]
positive = ["what a bang", "the drums roar", "he shouts"]
negative = ["a whisper", "the night is still", "she hums"]
"""


@pytest.fixture
def concept(tmp_path: Path) -> Path:
    (tmp_path / "noise.toml").write_text(CONCEPT.format(name="noise"))
    return tmp_path / "noise.toml"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that stands for a model: nothing looks into it before the exporter does."""
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@dataclass(frozen=True)
class FakeWorkers:
    """One process, as edgesteer.export.workers has it without torch."""

    rank: int = 0
    checkpoint: Any = None

    def finish(self) -> None:
        self.checkpoint.remove()


class FakeExporter:
    """In place of edgesteer.export: keeps what it is called with, and returns controllers at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options: dict[str, Any] = {}
        self.model: Path | None = None
        self.loading: dict[str, Any] = {}
        pipeline, weights, workers = ModuleType("pipeline"), ModuleType("weights"), ModuleType("workers")
        vars(pipeline).update(ExportOptions=self.take_options, export_controllers=self.export_controllers)
        vars(weights).update(load_model=self.load_model, LoadOptions=dict)
        monkeypatch.setitem(sys.modules, "edgesteer.export.pipeline", pipeline)
        vars(workers).update(started_by_torchrun=lambda: nullcontext(FakeWorkers()))
        monkeypatch.setitem(sys.modules, "edgesteer.export.weights", weights)
        monkeypatch.setitem(sys.modules, "edgesteer.export.workers", workers)

    def take_options(self, **options: Any) -> str:
        self.options = options
        return str(options["law"])

    def load_model(self, path: Path, loading: dict[str, Any]) -> SimpleNamespace:
        self.model, self.loading = path, loading
        return SimpleNamespace(fingerprint=Fingerprint("llama", 2, 4, "a", "b", "Fake"))

    def export_controllers(
        self,
        model: Any,
        concept: ConceptSet,
        neutral: Sequence[object],
        laws: Sequence[str],
        progress: Any,
        workers: Any,
    ) -> dict[str, Controller]:
        progress.stage("thinking", 1)()
        names = [concept.name, *(f"{concept.name}-{law}" for law in laws[1:])]
        return {name: fake_controller(name, concept) for name in names}


def fake_controller(name: str, concept: ConceptSet) -> Controller:
    one = np.ones(1, np.float32)
    return Controller(
        name=name,
        positive=concept.positive,
        negative=concept.negative,
        law="add",
        n_blocks=2,
        blocks=(1,),
        probe=None,
        offset=one,
        gain=np.ones((1, 4), np.float32),
        rest=one,
        span=one,
        safe_range=(-1.5, 2.0),
    )


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> FakeExporter:
    return FakeExporter(monkeypatch)


def test_sidecar_is_written_and_described(
    edgesteer: Any, exporter: FakeExporter, model: Path, concept: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a b.gguf"
    result = edgesteer("export", model, "--concept", concept, "-o", output)
    assert (result.code, result.err) == (0, "thinking (1 steps)\n")
    assert read_sidecar(output).fingerprint.model_name == "Fake"
    assert list(read_sidecar(output).controllers) == ["noise"]
    written, command = result.out.splitlines()
    assert written.startswith(f"{output}: ")
    assert written.endswith(" kB, add at blocks 1, loud (+) against quiet (-), safe range -1.5 to 2")
    assert command == f"Try: edgesteer generate MODEL.gguf --steer '{output}=1' --prompt Hello"


def test_several_laws_are_one_file(
    edgesteer: Any, exporter: FakeExporter, model: Path, concept: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.gguf"
    result = edgesteer("export", model, "--concept", concept, "-o", output, "--law", "lqr,add,lqr")
    assert list(read_sidecar(output).controllers) == ["noise", "noise-add"]
    assert result.out.count("add at blocks 1, loud (+) against quiet (-), safe range -1.5 to 2") == 2


def test_documented_command_streams_and_puts_the_cost_on_the_concept(
    edgesteer: Any, exporter: FakeExporter, model: Path, concept: Path, tmp_path: Path
) -> None:
    line = re.findall(r"^edgesteer (export .*)$", LARGE.read_text("utf-8"), re.MULTILINE)[0]
    replaced = {"MODEL.gguf": model, "warmth": concept, "warm.gguf": tmp_path / "warm.gguf"}
    result = edgesteer(*(replaced.get(each, each) for each in shlex.split(line)))
    assert result.code == 0
    assert exporter.loading == {"stream": "always", "device": "auto"}
    assert exporter.options["cost"] == "feature"


def test_quiet_prints_nothing(
    edgesteer: Any, exporter: FakeExporter, model: Path, concept: Path, tmp_path: Path
) -> None:
    assert edgesteer("export", model, "--concept", concept, "-o", tmp_path / "a.gguf", "-q") == (0, "", "")


def test_built_in_concepts_have_names(edgesteer: Any, exporter: FakeExporter, model: Path, tmp_path: Path) -> None:
    assert edgesteer("export", model, "--concept", "ocean", "-o", tmp_path / "a.gguf").code == 0
    assert list(read_sidecar(tmp_path / "a.gguf").controllers) == ["ocean"]


def test_defaults_are_the_exporters(
    edgesteer: Any, exporter: FakeExporter, model: Path, concept: Path, tmp_path: Path
) -> None:
    edgesteer("export", model, "--concept", concept, "-o", tmp_path / "a.gguf")
    fields = fields_of("edgesteer.export.pipeline", "ExportOptions")
    assert exporter.options == {each.name: each.default for each in fields}


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--law", "a-lqr"], "law", "a-lqr"),
        (["--pooling", "last"], "pooling", "last"),
        (["--shrinkage", "0.5"], "shrinkage", 0.5),
        (["--input-cost", "3"], "input_cost", 3.0),
        (["--jacobian-prompts", "5"], "jacobian_prompts", 5),
        (["--blocks", "0-2,5"], "blocks", (0, 1, 2, 5)),
        (["--seed", "7"], "seed", 7),
    ],
)
def test_options_reach_the_exporter(
    arguments: list[str], field: str, value: Any, edgesteer: Any, exporter: FakeExporter, model: Path, concept: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    assert edgesteer("export", model, "--concept", concept, "-o", tmp_path / "a.gguf", *arguments).code == 0
    assert exporter.options[field] == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope", "--concept", "noise.toml", "-o", "a.gguf"], "nope: unknown model; expected a path or one of "),
        (["model", "--concept", "nope", "-o", "a.gguf"], "nope: no such concept; expected a file or one of "),
        (["model", "--concept", "broken.toml", "-o", "a.gguf"], "broken.toml: not valid TOML; found "),
        (
            ["model", "--concept", "spaced.toml", "-o", "a.gguf"],
            "the concept's name cannot be stored; expected letters",
        ),
        (["model", "--concept", "noise.toml", "-o", "no/a.gguf"], "no/a.gguf: cannot be written: its folder does not "),
        (["model", "--concept", "noise.toml", "-o", "model"], "model: cannot be written: it is a folder."),
        (
            ["model", "--concept", "noise.toml", "-o", "noise.toml"],
            "noise.toml: would overwrite the file that is read.",
        ),
        (["m.gguf", "--concept", "noise.toml", "-o", "m.gguf"], "m.gguf: would overwrite the file that is read."),
        (["model", "--concept", "noise.toml", "-o", "a.gguf", "--blocks", "9-1"], "steered blocks cannot be read; "),
    ],
)
def test_errors_come_before_the_model_is_loaded(
    arguments: list[str], message: str, edgesteer: Any, exporter: FakeExporter, model: Path, concept: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text("name =")
    Path("spaced.toml").write_text(CONCEPT.format(name="much noise"))
    Path("m.gguf").write_bytes(b"GGUF")
    before = sorted(tmp_path.iterdir())
    result = edgesteer("export", *arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: {message}")
    assert result.err.count("\n") == 1
    assert exporter.model is None
    assert sorted(tmp_path.iterdir()) == before


def test_full_disk_is_an_error_and_leaves_the_old_file(
    edgesteer: Any, exporter: FakeExporter, model: Path, concept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(GGUFWriter, "write_tensors_to_file", full)
    output = tmp_path / "a.gguf"
    output.write_text("older")
    before = sorted(tmp_path.iterdir())
    result = edgesteer("export", model, "--concept", concept, "-o", output, "--quiet")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: {output}: cannot be written: the disk is full. Free some space")
    assert output.read_text() == "older"
    assert sorted(tmp_path.iterdir()) == before


def test_missing_torch_names_the_pip_line(start: Any, model: Path, concept: Path, tmp_path: Path) -> None:
    prelude = "sys.modules['torch'] = None"
    command = ("export", model, "--concept", concept, "-o", tmp_path / "a.gguf")
    with start(*command, prelude=prelude) as process:
        assert process.wait(timeout=60) == 1
        line = process.stderr.read()
    assert line.startswith("Error: this needs an optional Python package; found ")
    assert line.endswith('Run: pip install "edgesteer[export]"\n')
    assert line.count("\n") == 1


def test_unfinished_export_of_something_else_is_refused(
    edgesteer: Any, exporter: FakeExporter, model: Path, concept: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.gguf"
    left = Checkpoint(unfinished(output), "other settings")
    left.save("jacobians", 0, 1, Sum(frozenset([0]), np.ones(1)), now=True)
    result = edgesteer("export", model, "--concept", concept, "-o", output)
    assert (result.code, result.out) == (1, "")
    found, error = result.err.splitlines()
    assert found == f"Found an unfinished export: {unfinished(output)}"
    assert error.startswith(f"Error: {unfinished(output)}: holds an unfinished export of another model, ")
    assert unfinished(output).exists()


def test_only_the_first_of_torchruns_processes_speaks(
    edgesteer: Any, exporter: FakeExporter, model: Path, concept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert edgesteer("export", model, "--concept", concept, "-o", tmp_path / "a.gguf") == (0, "", "")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--law", "lqg"], f"unknown law; expected {' or '.join(LAWS)}; found lqg"),
        (["--law", "lqr,lqg"], f"unknown law; expected {' or '.join(LAWS)}; found lqg"),
        (["--pooling", "max"], "unknown pooling; expected mean or last; found max"),
        (["--input-cost", "0"], "input_cost is out of range; expected above 0; found 0.0"),
        (["--seed", "-1"], "seed is out of range; expected at least 0; found -1"),
        (["--blocks", "3-4"], "steered blocks are outside the model; expected 0 to 3; found (3, 4)"),
    ],
)
def test_exporters_own_errors_are_lines_too(
    arguments: list[str], message: str, edgesteer: Any, tiny_model: Any, concept: Path, tmp_path: Path
) -> None:
    command = ("export", tiny_model.folder, "--concept", concept, "-o", tmp_path / "a.gguf", "--quiet")
    assert edgesteer(*command, *arguments) == (1, "", f"Error: {message}\n")


@pytest.mark.torch
def test_folder_that_is_no_model_is_refused(edgesteer: Any, model: Path, concept: Path, tmp_path: Path) -> None:
    result = edgesteer("export", model, "--concept", concept, "-o", tmp_path / "a.gguf")
    assert result.code == 1
    assert result.err.startswith(f"Error: {model}: transformers cannot load this model; found ")


@pytest.mark.torch
def test_exported_sidecar_steers_the_model(
    edgesteer: Any, tiny_model: Any, concept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = ("on the table by the window", "under a tree at the gate", "in the drawer of the desk")
    neutral = [Example("where is the cup?", f"there is a cup {place}") for place in places]
    monkeypatch.setattr("edgesteer.cli.export.load_neutral", lambda: neutral)
    output = tmp_path / "noise.gguf"
    result = edgesteer("export", tiny_model.folder, "--concept", concept, "-o", output, "--jacobian-prompts", 2)
    assert result.code == 0, result.err
    assert ", sensor at block " in result.out
    assert ", separation " in result.out
    steered = edgesteer("generate", tiny_model.gguf, "-p", "the", "--steer", output, "-n", 4, "-t", 1, "-v")
    assert steered.code == 0, steered.err
    assert "noise at 1: alpha mean" in steered.err


@pytest.mark.torch
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_leaves_no_file(start: Any, tiny_model: Any, tmp_path: Path) -> None:
    output = tmp_path / "a.gguf"
    with start("export", tiny_model.folder, "--concept", "ocean", "-o", output) as process:
        assert process.stderr.readline().startswith("activations (")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read().endswith("Interrupted.\n")
        assert process.stdout.read() == ""
    assert list(tmp_path.iterdir()) == []
