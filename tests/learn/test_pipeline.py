"""Learning on the device, on the tiny model: what the exporter makes of the same linear model, and no PyTorch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.concept import ConceptSet, Example
from edgesteer.control.factored_model import FactoredModel
from edgesteer.control.options import ControllerOptions
from edgesteer.controller import Controller
from edgesteer.dynamics import Dynamics
from edgesteer.errors import ConceptError, SteeringError
from edgesteer.export.linearize import LinearizeOptions, linearize
from edgesteer.export.pipeline import ExportOptions, analyse, controller_of
from edgesteer.export.weights import LoadedModel
from edgesteer.learn.pipeline import learn_controllers
from edgesteer.runtime.texts import TextReader
from edgesteer.sidecar import Sidecar, write_sidecar

pytestmark = pytest.mark.torch

THINGS = ("boats", "trees", "pots", "hats", "cups", "doors", "cats", "stones")
NEUTRAL = tuple(Example(f"What about {thing}?", f"There are {thing} in the house of a friend.") for thing in THINGS)


def examples(ending: str) -> tuple[Example, ...]:
    return tuple(Example(f"Tell me of {thing}.", f"The {thing} are {ending}") for thing in THINGS)


CONCEPT = ConceptSet("height", "high", "low", examples("high, high, so high!"), examples("low, low, low."), "ab" * 32)
LAWS = ("lqr", "a-lqr", "ablate")
"""Both gains of the linear model, and both dials; tests/runtime/test_texts.py reads texts under each law."""
LAW_OPTIONS = [ControllerOptions(law=law) for law in LAWS]


@pytest.fixture(scope="module")
def dynamics(tiny_torch: LoadedModel, no_progress: Any) -> Dynamics:
    return linearize(tiny_torch, NEUTRAL, LinearizeOptions(rank=20, jacobian_prompts=2), no_progress)


@pytest.fixture
def reader(tiny_model: Any) -> Iterator[TextReader]:
    with TextReader(tiny_model.gguf, threads=1) as reader:
        yield reader


@pytest.fixture(scope="module")
def learned(tiny_model: Any, dynamics: Dynamics, no_progress: Any) -> dict[str, Controller]:
    """A controller of each law, by law."""
    with TextReader(tiny_model.gguf, threads=1) as reader:
        made = learn_controllers(reader, dynamics, CONCEPT, NEUTRAL, LAW_OPTIONS, no_progress)
    assert list(made) == ["height", "height-a-lqr", "height-ablate"]
    return {each.law: each for each in made.values()}


@pytest.fixture(scope="module")
def exported(tiny_torch: LoadedModel, dynamics: Dynamics, no_progress: Any) -> dict[str, Controller]:
    """The same by PyTorch, from the same linear model."""
    options = ExportOptions(jacobian_prompts=1)
    analysis = analyse(tiny_torch, CONCEPT, NEUTRAL, options, no_progress)
    analysis = replace(analysis, linear_model=FactoredModel(dynamics.blocks))
    return {law: controller_of(tiny_torch, analysis, replace(options, law=law), no_progress) for law in LAWS}


@pytest.mark.parametrize("law", LAWS)
def test_learned_controller_is_the_exported_one(
    learned: dict[str, Controller], exported: dict[str, Controller], law: str
) -> None:
    ours, theirs = learned[law], exported[law]
    assert (ours.blocks, ours.mode, ours.pid) == (theirs.blocks, theirs.mode, theirs.pid)
    for name in ("probe", "offset", "gain", "rest", "span"):
        found, expected = getattr(ours, name), getattr(theirs, name)
        if expected is None:
            assert found is None
        else:
            assert np.linalg.norm(found - expected) <= 0.02 * np.linalg.norm(expected)
    assert ours.scale == pytest.approx(theirs.scale, rel=0.05)
    assert ours.safe_range == pytest.approx(theirs.safe_range, rel=0.05)


@pytest.mark.parametrize("law", LAWS)
def test_its_sensor_reads_what_the_exported_ones_does(
    learned: dict[str, Controller], exported: dict[str, Controller], law: str
) -> None:
    ours, theirs = learned[law].sensor, exported[law].sensor
    assert ours is not None
    assert theirs is not None
    assert ours.block == theirs.block
    for name in ("probe", "position_mean", "push"):
        found, expected = getattr(ours, name), getattr(theirs, name)
        assert np.linalg.norm(found - expected) <= 0.05 * np.linalg.norm(expected)
    assert ours.prompt_mean == pytest.approx(theirs.prompt_mean, abs=0.02)


def test_provenance_says_how_it_was_made(learned: dict[str, Controller], dynamics: Dynamics) -> None:
    made = learned["lqr"].provenance
    assert (made.concept_sha256, made.prompt_count) == (CONCEPT.sha256, 16)
    assert made.jacobian_count == dynamics.jacobian_count == 2
    assert made.state_cost == ControllerOptions().state_cost


def test_same_arguments_give_the_same_bytes(
    learned: dict[str, Controller], reader: TextReader, dynamics: Dynamics, no_progress: Any, tmp_path: Path
) -> None:
    again = learn_controllers(reader, dynamics, CONCEPT, NEUTRAL, LAW_OPTIONS[:1], no_progress)
    for name, made in (("first", {"height": learned["lqr"]}), ("again", again)):
        write_sidecar(tmp_path / name, Sidecar(reader.hashed_fingerprint(), made))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()


def test_sidecar_says_which_file_it_was_learned_on(reader: TextReader, tiny_model: Any) -> None:
    hashed = reader.hashed_fingerprint()
    assert len(hashed.model_sha256) == 64
    assert reader.fingerprint.mismatch(hashed) == []


def test_completion_without_tokens_is_refused(reader: TextReader, dynamics: Dynamics, no_progress: Any) -> None:
    empty = replace(CONCEPT, positive_examples=(*CONCEPT.positive_examples, Example("Hello.", "")))
    with pytest.raises(ConceptError, match="a completion has no tokens"):
        learn_controllers(reader, dynamics, empty, NEUTRAL, [ControllerOptions()], no_progress)


def test_blocks_outside_the_model_are_refused(reader: TextReader, dynamics: Dynamics, no_progress: Any) -> None:
    with pytest.raises(SteeringError, match="steered blocks are outside the model; expected 0 to 3"):
        learn_controllers(reader, dynamics, CONCEPT, NEUTRAL, [ControllerOptions(blocks=(4,))], no_progress)


def test_nothing_that_it_imports_is_pytorchs() -> None:
    code = "import sys; import edgesteer.learn.pipeline; print(*{'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("\n", "", 0)
