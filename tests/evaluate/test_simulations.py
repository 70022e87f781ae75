"""Simulated experiments: an effect that was planted is found with its size, and where there is none, none is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from edgesteer.evaluate.frontier import make_curves, price, regulation
from edgesteer.evaluate.judges import make_judge
from edgesteer.evaluate.paired import by_strength, outcome, unsteered
from edgesteer.evaluate.personality import deltas
from edgesteer.evaluate.report import report
from edgesteer.evaluate.resistance import Levels, corrections, resistance
from edgesteer.evaluate.statistics import LEVEL
from edgesteer.evaluate.steerability import calibration, coverage, make_dial, side_effects
from edgesteer.evaluate.suite import Suite, SuitePrompt

EXPERIMENTS = 200
MOST = int(stats.binom.isf(0.001, EXPERIMENTS, LEVEL))
"""More false positives than this has a test of the stated level in one of 1000 runs of 200 experiments."""
PROMPTS = 40
STRENGTHS = (0.5, 1.0)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Enough for 200 intervals; one interval in a report has ten times as many."""
    for module in ("statistics", "frontier"):
        monkeypatch.setattr(f"edgesteer.evaluate.{module}.RESAMPLES", 999)


@pytest.fixture
def simulate(make_record):
    """Texts of an arm and unsteered ones: a judge's score is the prompt's own, plus slope x strength, plus noise."""

    def make(rng, **slopes):
        own = {judge: rng.uniform(0.3, 0.5, PROMPTS) for judge in slopes}

        def texts(arm, strength):
            found = {
                judge: own[judge] + strength * slope + rng.normal(0, 0.08, PROMPTS) for judge, slope in slopes.items()
            }
            return [
                make_record(arm, strength, str(prompt), **{judge: found[judge][prompt] for judge in slopes})
                for prompt in range(PROMPTS)
            ]

        return [*texts("none", 0.0), *(record for strength in STRENGTHS for record in texts("lqr", strength))]

    return make


def test_a_dial_that_does_nothing_is_rarely_said_to_do_something(simulate):
    found = {"slope": 0, "coverage": 0}
    for seed in range(EXPERIMENTS):
        dial = make_dial(simulate(np.random.default_rng(seed), sea=0.0), "lqr", "sea")
        found["slope"] += not calibration(dial).slope.contains(0)
        found["coverage"] += not coverage(dial).contains(0)
    assert max(found.values()) <= MOST


def test_a_planted_slope_is_found_every_time(simulate):
    for seed in range(20):
        dial = make_dial(simulate(np.random.default_rng(seed), sea=0.2), "lqr", "sea")
        found = calibration(dial)
        assert 0 < found.slope.low < found.slope.value == pytest.approx(0.2, abs=0.06)  # 3 standard errors
        assert found.rank_correlation.low > 0.4


def test_side_effects_are_rarely_found_where_there_are_none(simulate):
    others = ["length", "mood"]
    found = 0
    for seed in range(EXPERIMENTS):
        records = simulate(np.random.default_rng(seed), sea=0.2, length=0.0, mood=0.0)
        effects = side_effects(records, "lqr", "sea", others)
        found += any(not effect.change.contains(0) for effect in effects)
    assert found <= MOST


def test_a_planted_side_effect_is_found_and_the_others_are_not_blamed(simulate):
    records = simulate(np.random.default_rng(3), sea=0.2, length=-0.1, mood=0.0)
    length, mood = side_effects(records, "lqr", "sea", ["length", "mood"])
    assert length.change.contains(-0.1)
    assert not length.change.contains(0)
    assert length.relative == pytest.approx(-0.5, abs=0.2)
    assert mood.change.contains(0)


def test_a_planted_trait_is_found_and_the_others_are_not_blamed(simulate):
    traits = {"openness": 0.3, "extraversion": 0.0, "neuroticism": 0.0}
    found = deltas({"openness": simulate(np.random.default_rng(4), **traits)})
    sizes = [delta.change.value for delta in found]
    assert sizes == pytest.approx(list(traits.values()), abs=0.06)  # 3 standard errors
    assert [delta.change.contains(0) for delta in found] == [delta.measured != "openness" for delta in found]


# ---- resistance ----

TEXTS, TOKENS = 60, 60
LEVELS = Levels(high=0.7, low=0.5, window=3, skip=0, rest=4)


def wandering(rng) -> np.ndarray:
    """Stationary alphas with a memory of some tokens, between the levels in the mean: (TEXTS, TOKENS)."""
    noise, decay = rng.normal(0, 0.1, (TEXTS, TOKENS)), 0.9
    alphas = np.empty((TEXTS, TOKENS))
    alphas[:, 0] = noise[:, 0] / np.sqrt(1 - decay**2)
    for token in range(1, TOKENS):
        alphas[:, token] = decay * alphas[:, token - 1] + noise[:, token]
    return 0.6 + alphas


@pytest.fixture
def steered_by(make_record):
    def make(alphas):
        return [
            make_record(
                "static",
                1.0,
                str(number),
                steering=[{"alpha": alpha.tolist(), "strength": 1.0, "effort": [1.0] * len(alpha)}],
            )
            for number, alpha in enumerate(alphas)
        ]

    return make


def test_alpha_that_only_wanders_is_rarely_called_resistance(steered_by):
    found = [resistance(steered_by(wandering(np.random.default_rng(seed))), LEVELS) for seed in range(EXPERIMENTS)]
    assert sum(each.p_value <= LEVEL for each in found) <= MOST
    assert np.mean([each.of_all.value for each in found]) > 0.1  # it does come back now and then, by chance


def test_planted_recoveries_are_found_in_wandering_alphas(steered_by):
    alphas = wandering(np.random.default_rng(5))
    alphas[:20, :30] += 0.3
    alphas[:20, 30:] -= 0.5
    found = resistance(steered_by(alphas), LEVELS)
    assert found.p_value < LEVEL
    assert found.recovered.value > 20 / TEXTS


def test_self_corrections_that_are_as_frequent_unsteered_are_rarely_found(make_record):
    def texts(rng, arm, strength, rate):
        said = rng.random(TEXTS) < rate
        return [
            make_record(arm, strength, str(number), text="Waves. Wait, no. Flour." if says else "Flour.")
            for number, says in enumerate(said)
        ]

    def p_value(rng, rate):
        records = [*texts(rng, "none", 0.0, 0.1), *texts(rng, "static", 1.0, rate)]
        return corrections(by_strength(records)["static"][1.0], unsteered(records)).p_value

    rngs = map(np.random.default_rng, range(EXPERIMENTS))
    assert sum(p_value(rng, 0.1) <= LEVEL for rng in rngs) <= MOST
    assert p_value(np.random.default_rng(6), 0.5) < LEVEL


# ---- from the frontier to the report ----


@pytest.fixture
def two_arms(make_record):
    """Static and lqr have the same effects; lqr's added cost and its spread over prompts are a share of static's."""

    def make(rng, *, effect=0.4, cost_share=1.0, spread_share=1.0):
        def texts(arm, strength, share, spread):
            outcomes = 0.4 + strength * effect + spread * rng.normal(0, 0.1, PROMPTS)
            nlls = 2 + 0.2 * strength * share + rng.normal(0, 0.03, PROMPTS)
            return [
                make_record(arm, strength, str(prompt), nll=nll, sea=value)
                for prompt, (value, nll) in enumerate(zip(outcomes.tolist(), nlls.tolist(), strict=True))
            ]

        arms = (("lqr", cost_share, spread_share), ("static", 1.0, 1.0))
        steered = (texts(arm, strength, *shares) for arm, *shares in arms for strength in (*STRENGTHS, 1.5))
        return [*texts("none", 0.0, 1.0, 1.0), *(record for texts in steered for record in texts)]

    return make


def curves_of(records):
    return make_curves(records, outcome("sea"))[1]


def test_equal_costs_are_rarely_told_apart(two_arms):
    curves = (curves_of(two_arms(np.random.default_rng(seed))) for seed in range(EXPERIMENTS))
    shares = [price(each["static"], each["lqr"], 0.1).share for each in curves]
    assert sum(not share.contains(1) for share in shares) <= MOST


def test_the_interval_of_the_price_holds_the_planted_share(two_arms):
    curves = (curves_of(two_arms(np.random.default_rng(seed), cost_share=0.5)) for seed in range(EXPERIMENTS))
    shares = [price(each["static"], each["lqr"], 0.1).share for each in curves]
    assert sum(not share.contains(0.5) for share in shares) <= MOST
    assert np.mean([share.high < 1 for share in shares]) > 0.9


def test_equal_spreads_are_rarely_told_apart(two_arms):
    curves = (curves_of(two_arms(np.random.default_rng(seed))) for seed in range(EXPERIMENTS))
    ratios = [regulation(each["static"], each["lqr"], 0.8).ratio for each in curves]
    assert sum(not ratio.contains(1) for ratio in ratios) <= MOST


def test_half_the_spread_is_found(two_arms):
    curves = curves_of(two_arms(np.random.default_rng(7), spread_share=0.5))
    found = regulation(curves["static"], curves["lqr"], 0.8)
    assert found.ratio.value == pytest.approx(0.5, abs=0.2)
    assert found.ratio.high < 1


SUITE = Suite("sea", (SuitePrompt("0", "Hello."),), ({"kind": "words", "name": "sea", "words": ["sea"]},), "sea")


def row_of(text: str, heading: str, **known: str) -> dict[str, str]:
    """Return the row with these cells of a table under a heading of a report; of columns of one name, the last."""
    headers: list[str] = []
    for line in text.split(f"{heading}\n")[1].split("\n#")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        row = dict(zip(headers, cells, strict=False))
        if known.items() <= row.items():
            return row
        headers = cells if line.startswith("|") and not headers else headers if line.startswith("|") else []
    raise AssertionError(f"no row {known} under {heading}")


def limits(cell: str) -> tuple[float, float]:
    low, high = cell.split("(")[1].rstrip(")").split(" to ")
    return float(low), float(high)


def test_the_report_shows_a_planted_effect_and_what_it_costs(two_arms):
    records = two_arms(np.random.default_rng(8), cost_share=0.5)
    text = report(records, SUITE, [make_judge(spec, Path()) for spec in SUITE.judges], "Planted")
    low, high = limits(row_of(text, "## Effect", arm="lqr", strength="1")["change"])
    assert 0.3 < low < 0.4 < high < 0.5
    low, high = limits(row_of(text, "## Cost", arm="lqr", strength="1")["added"])
    assert 0.05 < low < 0.1 < high < 0.15
    low, high = limits(row_of(text, "### By mean", against="static", **{"at nats": "+0.1"})["share"])
    assert low < 0.5 < high < 1
    assert limits(row_of(text, "## Steerability", arm="lqr")["rank correlation"])[0] > 0.9


def test_the_report_of_a_dial_that_does_nothing_claims_nothing(two_arms):
    records = two_arms(np.random.default_rng(9), effect=0.0)
    text = report(records, SUITE, [make_judge(spec, Path()) for spec in SUITE.judges], "Nothing")
    for arm in ("lqr", "static"):
        dial = row_of(text, "## Steerability", arm=arm)
        for cell in (row_of(text, "## Effect", arm=arm, strength="1.5")["change"], dial["coverage"], dial["slope"]):
            low, high = limits(cell)
            assert low <= 0 <= high
