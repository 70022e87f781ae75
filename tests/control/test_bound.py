"""The bound on the tracking error: on linear systems, where it must hold exactly, and the quantile over texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.control.bound import (
    ErrorBound,
    controlled_risk,
    reading_residuals,
    responses,
    sensitivities,
    tracking_error_bound,
)

Doubles = NDArray[np.float64]

BLOCKS = (0, 1, 3, 4)
N_BLOCKS, WIDTH, TOKENS = 5, 4, 30


@dataclass(frozen=True)
class System:
    """A random linear system under four laws of one kind, rolled out here from the law's definition alone."""

    reads_input: bool
    jacobians: Doubles
    probes: Doubles
    gains: Doubles

    @property
    def boundaries(self) -> list[int]:
        return [b if self.reads_input else b + 1 for b in BLOCKS]

    def run(self, start: Doubles, residuals: Doubles, setpoint: Doubles, mode: str, effort: float) -> Rollout:
        """Roll one token out. start: (n,). residuals: (T, n), added to each block's output. setpoint: (m,)."""
        before, after = [start], [start]
        error, control = np.zeros(len(BLOCKS)), np.zeros(len(BLOCKS))
        for t in range(N_BLOCKS):
            arriving = self.jacobians[t] @ after[-1] + residuals[t]
            leaving = arriving
            if t in BLOCKS:
                k = BLOCKS.index(t)
                error[k] = setpoint[k] - self.probes[k] @ (after[-1] if self.reads_input else arriving)
                shaped = {"hold": error[k], "floor": max(error[k], 0.0), "ceiling": min(error[k], 0.0)}[mode]
                control[k] = effort * shaped
                leaving = arriving + control[k] * self.gains[k]
            before.append(arriving)
            after.append(leaving)
        left = error if self.reads_input else error - control * np.einsum("mn,mn->m", self.probes, self.gains)
        return Rollout(np.array(before), np.array(after), error, left, control)


@dataclass(frozen=True)
class Rollout:
    before: Doubles
    after: Doubles
    error: Doubles
    error_after: Doubles
    control: Doubles


@pytest.fixture(params=[False, True], ids=["reads-output", "reads-input"])
def system(request: pytest.FixtureRequest) -> System:
    random = np.random.default_rng(3)
    jacobians = np.eye(WIDTH) + random.normal(size=(N_BLOCKS, WIDTH, WIDTH)) / 3
    return System(request.param, jacobians, *random.normal(size=(2, len(BLOCKS), WIDTH)))


def bound_of(system: System, free: Rollout, steered: Rollout, effort: float) -> ErrorBound:
    """The bound as the exporter computes it, from two runs of one token."""
    sensitivity = sensitivities(system.jacobians, system.probes, system.boundaries)
    deviations = (steered.before - free.before)[:, None], (steered.after - free.after)[:, None]
    residuals = reading_residuals(sensitivity, *deviations, system.boundaries)
    acted = (steered.control != 0)[None]
    response = responses(sensitivity, system.gains, BLOCKS)
    return tracking_error_bound(response, effort * acted, free.error[None], residuals)


def run_both(system: System, seed: int, mode: str, effort: float, size: float) -> tuple[Rollout, Rollout]:
    """One token unsteered, and steered with residuals of some size on top."""
    random = np.random.default_rng(seed)
    start, setpoint = random.normal(size=WIDTH), random.normal(size=len(BLOCKS))
    noise = size * random.normal(size=(N_BLOCKS, WIDTH))
    free = system.run(start, np.zeros_like(noise), setpoint, "hold", 0.0)
    return free, system.run(start, noise, setpoint, mode, effort)


@pytest.mark.parametrize("mode", ["hold", "floor", "ceiling"])
@pytest.mark.parametrize("effort", [1.0, 0.3])
def test_on_a_linear_system_the_bound_is_the_error(system: System, mode: str, effort: float) -> None:
    for seed in range(TOKENS):
        free, steered = run_both(system, seed, mode, effort, size=0.0)
        bound = bound_of(system, free, steered, effort)
        np.testing.assert_allclose(bound.linear[0], steered.error_after, atol=1e-10)
        np.testing.assert_allclose(bound.total[0], np.abs(steered.error_after), atol=1e-10)


@pytest.mark.parametrize("mode", ["hold", "floor", "ceiling"])
def test_with_residuals_no_error_is_larger(system: System, mode: str) -> None:
    for seed in range(TOKENS):
        free, steered = run_both(system, seed, mode, 1.0, size=0.3)
        bound = bound_of(system, free, steered, 1.0)
        assert (np.abs(steered.error_after) <= bound.total[0] + 1e-10).all()
        assert (bound.residual[0] > 0).any()


def closed_loop_weights(system: System, site: int, effort: float) -> Doubles:
    """P[t+1] of every block that law `site` sees: backwards through P[t] = Acl' P[t+1] Acl, matrices throughout."""
    weights = np.zeros((N_BLOCKS, WIDTH, WIDTH))
    boundary = system.boundaries[site]
    p = np.outer(system.probes[site], system.probes[site])
    for t in reversed(range(boundary)):
        weights[t] = p
        closed = system.jacobians[t]
        if system.reads_input and t in BLOCKS:
            k = BLOCKS.index(t)
            closed = closed - effort * np.outer(system.gains[k], system.probes[k])
        if not system.reads_input and t - 1 in BLOCKS:
            k = BLOCKS.index(t - 1)
            closed = closed @ (np.eye(WIDTH) - effort * np.outer(system.gains[k], system.probes[k]))
        p = closed.T @ p @ closed
    return weights


def test_residuals_are_weighed_by_the_backward_lyapunov_recursion(system: System) -> None:
    random = np.random.default_rng(0)
    noise = random.normal(size=(N_BLOCKS, WIDTH))
    free = system.run(np.zeros(WIDTH), np.zeros_like(noise), np.ones(len(BLOCKS)), "hold", 0.0)
    steered = system.run(np.zeros(WIDTH), noise, np.ones(len(BLOCKS)), "hold", 0.7)
    found = bound_of(system, free, steered, 0.7).residual[0]
    for site in range(len(BLOCKS)):
        weights = closed_loop_weights(system, site, 0.7)
        norms = sum(np.sqrt(max(r @ p @ r, 0)) for r, p in zip(noise, weights, strict=True))
        own = 0 if system.reads_input else system.probes[site] @ system.gains[site]
        assert found[site] == pytest.approx(abs(1 - 0.7 * own) * norms)


def test_bound_is_reached_when_all_residuals_push_the_same_way(system: System) -> None:
    site = len(BLOCKS) - 1
    start, setpoint = np.ones(WIDTH), np.zeros(len(BLOCKS))
    free = system.run(start, np.zeros((N_BLOCKS, WIDTH)), setpoint, "hold", 0.0)
    clean = system.run(start, np.zeros((N_BLOCKS, WIDTH)), setpoint, "hold", 1.0)
    weights = closed_loop_weights(system, site, 1.0)
    noise = np.zeros((N_BLOCKS, WIDTH))
    for t in range(system.boundaries[site]):
        direction = np.linalg.eigh(weights[t])[1][:, -1]
        pushes = np.zeros_like(noise)
        pushes[t] = direction
        moved = system.run(start, pushes, setpoint, "hold", 1.0).error_after[site] - clean.error_after[site]
        noise[t] = direction * np.sign(moved) * np.sign(clean.error_after[site])
    steered = system.run(start, noise, setpoint, "hold", 1.0)
    bound = bound_of(system, free, steered, 1.0)
    assert abs(steered.error_after[site]) == pytest.approx(bound.total[0, site])


def test_one_block_by_hand() -> None:
    # x = 2, A = 3, w = 1, g = 0.5, setpoint 10: the unsteered error is 4; a residual of -1 makes it 5; control halves
    sensitivity = sensitivities(np.array([[[3.0]]]), np.array([[1.0]]), (1,))
    np.testing.assert_array_equal(sensitivity, [[[3.0], [1.0]]])
    response = responses(sensitivity, np.array([[0.5]]), (0,))
    np.testing.assert_array_equal(response, [[0.5]])
    before, after = np.array([[[0.0]], [[-1.0]]]), np.array([[[0.0]], [[1.5]]])
    residuals = reading_residuals(sensitivity, before, after, (1,))
    np.testing.assert_array_equal(residuals, [[[-1.0]]])
    bound = tracking_error_bound(response, np.ones((1, 1)), np.array([[4.0]]), residuals)
    assert (bound.linear.item(), bound.residual.item(), bound.total.item()) == (2.0, 0.5, 2.5)


def test_boundary_outside_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"boundaries must lie in 0 \.\. 2; found \(3,\)"):
        sensitivities(np.zeros((2, 1, 1)), np.ones((1, 1)), (3,))


# The quantile over texts


def test_risk_by_hand() -> None:
    # 4 texts, risk 0.4: texts' shares above the bound may add up to 0.4 * 5 - 1 = 1
    texts = [np.array([9.0, 1.0]), np.array([8.0, 2.0]), np.array([7.0, 3.0, np.nan]), np.array([np.nan])]
    assert controlled_risk(texts, 0.4) == 7.0


def test_text_without_scores_exceeds_nothing() -> None:
    assert controlled_risk([np.array([np.nan])] * 9, 0.1) == 0.0


def test_tokens_of_a_long_text_count_no_more_than_its_share() -> None:
    short, long = [np.array([1.0])] * 9, np.full(1000, 5.0)
    assert controlled_risk([*short, long], 0.3) == 1.0
    assert controlled_risk([*short, long], 0.1) == 5.0


@pytest.mark.parametrize(("risk", "texts"), [(0.1, 8), (0.0, 100), (1.0, 100)])
def test_risk_that_cannot_be_promised_is_refused(risk: float, texts: int) -> None:
    with pytest.raises(ValueError, match="needs to lie in"):
        controlled_risk([np.ones(3)] * texts, risk)


def test_new_texts_exceed_the_bound_as_often_as_promised() -> None:
    """Tokens of one text depend on each other; the promise is about the mean over draws of calibration and text."""
    random = np.random.default_rng(0)

    def text() -> Doubles:
        return np.asarray(random.exponential() + random.exponential(size=20) / 2)

    shares = [np.mean(text() > controlled_risk([text() for _ in range(19)], 0.2)) for _ in range(800)]
    assert 0.1 < np.mean(shares) < 0.2
