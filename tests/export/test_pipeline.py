"""The exporter from end to end on the tiny model: all laws, their defining equations, reproducibility, bad input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgesteer.concept import ConceptSet, Example
from edgesteer.control.bound import sensitivities
from edgesteer.control.calibration import LEVELS
from edgesteer.control.classes import Classes, classes_of, probes
from edgesteer.control.feature_cost import FeatureModel
from edgesteer.control.laws import principal_directions, unit
from edgesteer.control.linear_model import riccati_of
from edgesteer.control.riccati import RiccatiSolution, regulator_direction, solve_riccati
from edgesteer.controller import LAWS, Array, Controller, Pid
from edgesteer.errors import ConceptError, SteeringError
from edgesteer.export.activations import collect_activations, residual_stream
from edgesteer.export.jacobians import (
    PRECISIONS,
    LinearizationPoints,
    jacobians_at,
    mean_jacobians,
    sensitivities_at,
)
from edgesteer.export.pipeline import (
    ExportOptions,
    analyse,
    choose_prompts,
    controller_of,
    export_controller,
    export_controllers,
    tokenize_all,
)
from edgesteer.export.weights import LoadedModel
from edgesteer.sidecar import Sidecar, read_sidecar, write_sidecar

pytestmark = pytest.mark.torch

THINGS = ("boats", "trees", "pots", "hats", "cups", "doors", "cats", "stones")
OPTIONS = ExportOptions(jacobian_prompts=4)


def examples(ending: str) -> tuple[Example, ...]:
    return tuple(Example(f"Tell me of {thing}.", f"The {thing} are {ending}") for thing in THINGS)


@pytest.fixture(scope="module")
def concept() -> ConceptSet:
    return ConceptSet("height", "high", "low", examples("high, high, so high!"), examples("low, low, low."), "ab" * 32)


NEUTRAL = tuple(Example(f"What about {thing}?", f"There are {thing} in the house of a friend.") for thing in THINGS)


def export(model: LoadedModel, concept: ConceptSet, no_progress: Any, **options: Any) -> Controller:
    return export_controller(model, concept, NEUTRAL, replace(OPTIONS, **options), no_progress)


@pytest.fixture(scope="module")
def exported(tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any) -> dict[str, Controller]:
    """A controller of each law, of all blocks."""
    return {law: export(tiny_torch, concept, no_progress, law=law) for law in LAWS}


@pytest.fixture(scope="module")
def classes(tiny_torch: LoadedModel, concept: ConceptSet) -> Classes:
    positive, negative = (
        collect_activations(tiny_torch, tokenize_all(tiny_torch, texts))
        for texts in (concept.positive_examples, concept.negative_examples)
    )
    return classes_of(positive, negative, "mean")


@pytest.fixture(scope="module")
def jacobians(tiny_torch: LoadedModel, concept: ConceptSet) -> Array:
    poles = (tokenize_all(tiny_torch, texts) for texts in (concept.positive_examples, concept.negative_examples))
    return mean_jacobians(tiny_torch, [text.tokens for text in choose_prompts(*poles, OPTIONS)])


def solved(jacobians: Array, actuated: Sequence[bool] | None = None) -> RiccatiSolution:
    return solve_riccati(
        jacobians.astype(np.float64), actuated=actuated, state_cost=OPTIONS.state_cost,
        input_cost=OPTIONS.input_cost, terminal_cost=OPTIONS.terminal_cost,
    )  # fmt: skip


# ---- the laws ----


def test_lqr_gain_is_the_regulator_of_the_class_direction(
    exported: dict[str, Controller], classes: Classes, jacobians: Array
) -> None:
    cost_to_go = solved(jacobians).cost_to_go
    for block, gain in enumerate(exported["lqr"].gain):
        direction = classes.direction[block + 1]
        expected = regulator_direction(cost_to_go[block + 1], direction, input_cost=OPTIONS.input_cost)
        np.testing.assert_allclose(gain, expected, rtol=1e-4, atol=1e-7)


def test_lqr_reads_1_and_0_at_the_class_means(exported: dict[str, Controller], classes: Classes) -> None:
    lqr = exported["lqr"]
    assert lqr.probe is not None
    np.testing.assert_allclose(lqr.probe, probes(classes, OPTIONS.shrinkage)[1:], rtol=1e-4, atol=1e-6)
    positive, negative = (pooled[:, 1:].mean(axis=0) for pooled in (classes.positive_pooled, classes.negative_pooled))
    np.testing.assert_allclose(np.sum(lqr.probe * negative, axis=1) - lqr.offset, 0, atol=1e-4)
    np.testing.assert_allclose(np.sum(lqr.probe * positive, axis=1) - lqr.offset, 1, atol=1e-4)


def test_lqr_setpoint_moves_from_neutral_in_distances_of_the_classes(exported: dict[str, Controller]) -> None:
    lqr = exported["lqr"]
    assert lqr.statistics is not None
    np.testing.assert_allclose(lqr.rest, lqr.statistics.neutral_mean)
    np.testing.assert_array_equal(lqr.span, 1)


def test_a_lqr_is_the_published_law(exported: dict[str, Controller], classes: Classes, jacobians: Array) -> None:
    """u_t = (lambda |E_t| - v_t . x_t) K_t v_t, at the blocks' inputs, and strength is the paper's lambda."""
    paper, gains = exported["a-lqr"], solved(jacobians).gains
    assert paper.probe is not None
    for block in range(4):
        direction = classes.direction[block]
        v = direction / np.linalg.norm(direction)
        np.testing.assert_allclose(paper.probe[block], v, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(paper.gain[block], gains[block] @ v, rtol=1e-3, atol=1e-7)
        setpoint = paper.rest[block] + paper.command(0.7).level * paper.span[block]
        assert setpoint == pytest.approx(0.7 * np.linalg.norm(direction), rel=1e-5)
    assert not paper.offset.any()
    assert paper.scale == 1.0
    assert paper.mode == "hold"


def test_add_is_the_class_direction(exported: dict[str, Controller], classes: Classes) -> None:
    add = exported["add"]
    np.testing.assert_allclose(add.gain, classes.direction[1:], rtol=1e-4, atol=1e-6)
    assert add.probe is None
    np.testing.assert_array_equal(add.rest + 2.0 * add.span, [2.0] * 4)


def test_add_can_take_the_principal_component(
    tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any, classes: Classes
) -> None:
    found = export(tiny_torch, concept, no_progress, law="add", direction="pca")
    pooled = (each.astype(np.float64) for each in (classes.positive_pooled, classes.negative_pooled))
    np.testing.assert_allclose(found.gain, principal_directions(*pooled)[1:], rtol=1e-5, atol=1e-6)


def test_ablate_is_the_unit_direction_of_the_blocks_outputs(exported: dict[str, Controller], classes: Classes) -> None:
    ablate = exported["ablate"]
    np.testing.assert_allclose(ablate.gain, unit(classes.direction[1:]), rtol=1e-4, atol=1e-6)
    assert ablate.sensor is not None
    assert ablate.sensor.target == -ExportOptions().loop.target  # there the outer loop lets go
    assert ablate.scale == 1.0
    assert ablate.safe_range[0] == 0.0
    assert 0.25 <= ablate.safe_range[1] <= 1.0


def test_pid_is_the_unit_direction_of_the_blocks_inputs(exported: dict[str, Controller], classes: Classes) -> None:
    pid = exported["pid"]
    np.testing.assert_allclose(pid.gain, unit(classes.direction[:4]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(pid.span, np.linalg.norm(classes.direction[:4], axis=1), rtol=1e-4)
    assert pid.pid == Pid(OPTIONS.proportional, OPTIONS.integral, OPTIONS.derivative)


def test_rotate_steers_where_the_class_means_lie_on_opposite_sides(
    exported: dict[str, Controller], classes: Classes
) -> None:
    rotate = exported["rotate"]
    v = unit(classes.direction[1:])
    means = (pooled.mean(axis=0)[1:] for pooled in (classes.positive_pooled, classes.negative_pooled))
    positive, negative = (np.sum(mean * v, axis=1) for mean in means)
    assert rotate.blocks == tuple(np.flatnonzero(positive * negative < 0))
    assert 0 < len(rotate.blocks) < 4
    np.testing.assert_allclose(rotate.gain, v[list(rotate.blocks)], rtol=1e-4, atol=1e-6)


def test_rotate_without_such_a_block_is_refused(
    tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any, exported: dict[str, Controller]
) -> None:
    others = tuple(set(range(4)) - set(exported["rotate"].blocks))
    with pytest.raises(SteeringError, match=r"rotate has no block to steer; expected .*; found none among 1"):
        export(tiny_torch, concept, no_progress, law="rotate", blocks=others)


# ---- the feature cost ----


@pytest.fixture(scope="module")
def feature_model(classes: Classes, jacobians: Array) -> FeatureModel:
    """From the mean Jacobians as matrices, which the exporter does not form on this route."""
    w = probes(classes, OPTIONS.shrinkage)
    return FeatureModel(sensitivities(jacobians.astype(np.float64), w, range(len(w))))


def test_lqr_with_the_feature_cost(
    tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any, classes: Classes, feature_model: FeatureModel
) -> None:
    lqr = export(tiny_torch, concept, no_progress, cost="feature")
    assert lqr.provenance.cost == "feature"
    expected = feature_model.regulator_gains(classes.direction, lqr.blocks, OPTIONS, no_progress)
    np.testing.assert_allclose(lqr.gain, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    assert lqr.sensor is not None
    before = np.array(lqr.blocks) < lqr.sensor.block
    assert before.any()
    assert (lqr.sensor.push[before] != 0).all()
    assert not lqr.sensor.push[~before].any()


def test_a_lqr_with_the_feature_cost(
    tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any, classes: Classes, feature_model: FeatureModel
) -> None:
    paper = export(tiny_torch, concept, no_progress, cost="feature", law="a-lqr")
    expected = feature_model.published_gains(classes.direction, paper.blocks, OPTIONS, no_progress)
    np.testing.assert_allclose(paper.gain, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_products_in_bfloat16_are_close_and_are_not_the_same(tiny_torch: LoadedModel) -> None:
    points = LinearizationPoints(tiny_torch, [torch.arange(30, 50)])
    w = np.random.default_rng(0).normal(size=(5, 32))
    for products in (jacobians_at, lambda points, precision: sensitivities_at(points, w, precision=precision)):
        exact, rounded = (products(points, precision=precision) for precision in PRECISIONS)
        assert 1e-4 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.05


def test_scheduled_measures_how_uncertain_the_next_token_is(
    exported: dict[str, Controller], tiny_torch: LoadedModel, concept: ConceptSet
) -> None:
    """Minus the entropy of the network's own output over its mean, as far as a line through it goes."""
    scheduled = exported["scheduled"]
    assert scheduled.blocks == (2, 3)
    assert scheduled.probe is not None
    streams, entropies = [], []
    for text in tokenize_all(tiny_torch, [*concept.positive_examples, *concept.negative_examples, *NEUTRAL]):
        with torch.no_grad():
            logits = tiny_torch.network(text.tokens[None]).logits[0, text.completion_start :]
        entropies.append(torch.distributions.Categorical(logits=logits).entropy())
        streams.append(residual_stream(tiny_torch, text.tokens)[:, text.completion_start :])
    relative = torch.cat(entropies).numpy() / float(torch.cat(entropies).mean())
    for site, block in enumerate(scheduled.blocks):
        stream = torch.cat(streams, dim=1)[block + 1].numpy()
        predicted = scheduled.offset[site] - stream @ scheduled.probe[site]
        assert predicted.mean() == pytest.approx(1, abs=1e-4)
        slope, _ = np.polyfit(predicted, relative, 1)
        assert slope == pytest.approx(1, abs=0.01)


def test_scheduled_has_a_loop_of_its_own_unless_another_is_asked_for(
    exported: dict[str, Controller], tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any
) -> None:
    sensors = [exported[law].sensor for law in ("scheduled", "lqr")]
    sensors += [export(tiny_torch, concept, no_progress, law="scheduled", reference="dial", slope=3.0).sensor]
    found = [(each.reference, each.target, each.slope, each.fade_tokens) for each in sensors if each is not None]
    assert found == [("fixed", 0.6, 2.0, 8.0), (None, 1.0, 1.0, 0.0), (None, 0.6, 3.0, 8.0)]


def test_scheduled_pushes_along_the_class_direction(exported: dict[str, Controller], classes: Classes) -> None:
    np.testing.assert_allclose(exported["scheduled"].gain, classes.direction[3:], rtol=1e-4, atol=1e-6)


# ---- what all laws share ----


@pytest.mark.parametrize("law", LAWS)
def test_every_law_is_calibrated(exported: dict[str, Controller], law: str) -> None:
    controller = exported[law]
    assert controller.sensor is not None
    assert controller.statistics is not None
    assert controller.sensor.block == np.argmax(controller.statistics.separation)
    late = np.array(controller.blocks) >= controller.sensor.block
    assert not controller.sensor.push[late].any()  # nothing acts on what was read before it
    low, high = controller.safe_range
    assert (low < 0) == (law != "ablate")
    assert high > 0
    assert LEVELS[0] <= controller.scale <= LEVELS[-1]


def test_a_one_way_concept_has_no_negative_side(
    tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any, exported: dict[str, Controller]
) -> None:
    one_way = replace(concept, one_way=True)
    found = export(tiny_torch, one_way, no_progress)
    assert found.safe_range == (0.0, exported["lqr"].safe_range[1])
    with pytest.raises(SteeringError, match="is not taken out"):
        export(tiny_torch, one_way, no_progress, law="ablate")


@pytest.mark.parametrize("law", LAWS)
def test_provenance_says_how_it_was_made(exported: dict[str, Controller], concept: ConceptSet, law: str) -> None:
    made = exported[law].provenance
    assert (made.state_cost, made.input_cost, made.terminal_cost) == (
        OPTIONS.state_cost, OPTIONS.input_cost, OPTIONS.terminal_cost,
    )  # fmt: skip
    assert (made.jacobian_count, made.prompt_count, made.seed) == (4, 16, 0)
    assert (made.pooling, made.concept_sha256) == ("mean", concept.sha256)


@pytest.mark.parametrize("law", LAWS)
def test_same_seed_gives_the_same_bytes(
    exported: dict[str, Controller], tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any, tmp_path: Path,
    law: str,
) -> None:  # fmt: skip
    again = export(tiny_torch, concept, no_progress, law=law)
    for name, controller in (("first", exported[law]), ("again", again)):
        write_sidecar(tmp_path / name, Sidecar(tiny_torch.fingerprint, {controller.name: controller}))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()


def test_another_seed_linearizes_at_other_texts(
    exported: dict[str, Controller], tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any
) -> None:
    other = export(tiny_torch, concept, no_progress, seed=1)
    assert not np.array_equal(other.gain, exported["lqr"].gain)
    np.testing.assert_array_equal(other.probe, exported["lqr"].probe)  # the class statistics use all texts
    assert other.provenance.seed == 1


@pytest.mark.parametrize("law", LAWS)
def test_exported_controller_survives_its_file(
    exported: dict[str, Controller], tiny_torch: LoadedModel, tmp_path: Path, law: str
) -> None:
    write_sidecar(tmp_path / "a.gguf", Sidecar(tiny_torch.fingerprint, {"height": exported[law]}))
    read = read_sidecar(tmp_path / "a.gguf").controllers["height"]
    write_sidecar(tmp_path / "b.gguf", Sidecar(tiny_torch.fingerprint, {"height": read}))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_one_analysis_serves_all_laws(
    exported: dict[str, Controller], tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any, tmp_path: Path
) -> None:
    laws = [replace(OPTIONS, law=law) for law in LAWS]
    together = export_controllers(tiny_torch, concept, NEUTRAL, laws, no_progress)
    assert list(together) == ["height", *(f"height-{law}" for law in LAWS[1:])]
    for law, (name, controller) in zip(LAWS, together.items(), strict=True):
        for stem, each in (("alone", replace(exported[law], name=name)), ("together", controller)):
            write_sidecar(tmp_path / stem, Sidecar(tiny_torch.fingerprint, {name: each}))
        assert (tmp_path / "alone").read_bytes() == (tmp_path / "together").read_bytes()


# ---- options ----


@pytest.mark.parametrize(
    "other", [{"pooling": "last"}, {"shrinkage": 0.5}, {"seed": 1}, {"jacobian_prompts": 2}, {"cost": "feature"}]
)
def test_controller_cannot_ask_for_another_analysis(
    tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any, other: dict[str, Any]
) -> None:
    analysis = analyse(tiny_torch, concept, NEUTRAL, OPTIONS, no_progress)
    with pytest.raises(SteeringError, match=f"{next(iter(other))} is not that of the analysis; expected"):
        controller_of(tiny_torch, analysis, replace(OPTIONS, **other), no_progress)


def test_other_blocks_have_no_actuator(
    tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any, classes: Classes, jacobians: Array
) -> None:
    controller = export(tiny_torch, concept, no_progress, blocks=(1, 3))
    cost_to_go = solved(jacobians, [False, True, False, True]).cost_to_go
    assert controller.blocks == (1, 3)
    expected = regulator_direction(cost_to_go[2], classes.direction[2], input_cost=OPTIONS.input_cost)
    np.testing.assert_allclose(controller.gain[0], expected, rtol=1e-4, atol=1e-7)


def test_riccati_of_some_blocks_leaves_the_others_without_gains(jacobians: Array, no_progress: Any) -> None:
    gains = riccati_of(jacobians, [2], OPTIONS, no_progress).gains
    np.testing.assert_array_equal([gain.any() for gain in gains], [False, False, True, False])


def test_last_pooling_takes_the_last_token(tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any) -> None:
    add = export(tiny_torch, concept, no_progress, law="add", pooling="last")
    means = []
    for texts in (concept.positive_examples, concept.negative_examples):
        activations = collect_activations(tiny_torch, tokenize_all(tiny_torch, texts))
        ends = np.flatnonzero(np.diff(activations.text, append=99))
        means.append(activations.tokens[ends].mean(axis=0))
    np.testing.assert_allclose(add.gain, (means[0] - means[1])[1:], rtol=1e-4, atol=1e-6)
    assert add.provenance.pooling == "last"


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_linearization_uses_an_equal_share_of_both_poles(
    tiny_torch: LoadedModel, concept: ConceptSet, count: int
) -> None:
    poles = [tokenize_all(tiny_torch, texts) for texts in (concept.positive_examples, concept.negative_examples)]
    chosen = choose_prompts(*poles, ExportOptions(jacobian_prompts=count))
    from_positive = sum(any(text is each for each in poles[0]) for text in chosen)
    assert len(chosen) == count
    assert from_positive == (count + 1) // 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"law": "lqg"}, f"unknown law; expected {' or '.join(LAWS)}; found lqg"),
        ({"pooling": "max"}, "unknown pooling; expected mean or last; found max"),
        ({"shrinkage": 0.0}, "shrinkage is out of range; expected above 0, at most 1; found 0.0"),
        ({"shrinkage": 1.5}, "shrinkage is out of range"),
        ({"shrinkage": float("nan")}, "shrinkage is out of range"),
        ({"state_cost": -1.0}, "state_cost is out of range"),
        ({"input_cost": 0.0}, "input_cost is out of range"),
        ({"terminal_cost": -1.0}, "terminal_cost is out of range"),
        ({"proportional": -1.0}, "proportional is out of range"),
        ({"integral": -1.0}, "integral is out of range"),
        ({"derivative": -1.0}, "derivative is out of range"),
        ({"jacobian_prompts": 0}, "jacobian_prompts is out of range"),
        ({"cost": "cheap"}, "unknown cost; expected full or feature; found cheap"),
        ({"precision": "int8"}, "unknown precision; expected float32 or bfloat16; found int8"),
        ({"direction": "median"}, "unknown direction; expected mean; found median"),
        ({"direction": "pca"}, "unknown direction; expected mean; found pca"),
        ({"target": 0.0}, "target is out of range"),
        ({"slope": 0.0}, "slope is out of range"),
        ({"fade_tokens": 0.5}, "fade_tokens is out of range"),
        ({"recovery_tokens": 0.0}, "recovery_tokens is out of range"),
        ({"memory_tokens": 0.0}, "memory_tokens is out of range"),
        ({"dial_nats": 0.0}, "dial_nats is out of range"),
        ({"safe_nats": -1.0}, "safe_nats is out of range"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        ExportOptions(**wrong)


@pytest.mark.parametrize("blocks", [(4,), (-1, 2)])
def test_blocks_outside_the_model_are_refused(
    tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any, blocks: tuple[int, ...]
) -> None:
    with pytest.raises(SteeringError, match="steered blocks are outside the model; expected 0 to 3"):
        export(tiny_torch, concept, no_progress, blocks=blocks)


def test_completion_without_tokens_is_refused(tiny_torch: LoadedModel, concept: ConceptSet, no_progress: Any) -> None:
    empty = replace(concept, positive_examples=(*concept.positive_examples, Example("Hello.", "")))
    with pytest.raises(ConceptError, match="a completion has no tokens"):
        export(tiny_torch, empty, no_progress)
