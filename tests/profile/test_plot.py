"""Pictures: which lines and points they have, and that they can be looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.profile import plot
from edgesteer.profile.plot import frontier, plot_profile, plot_quantizations
from edgesteer.profile.sweep import Cell, Settings, Sweep

pytest.importorskip("matplotlib")

Make = Callable[..., Any]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved."""
    figures: list[Any] = []
    save = plot.save
    monkeypatch.setattr(plot, "save", lambda figure, path: (figures.append(figure), save(figure, path)))
    return figures


def lines_of(panel: Any) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): [tuple(point) for point in line.get_xydata().tolist()] for line in panel.lines}


def assert_points(found: list[tuple[float, float]], expected: list[tuple[float, float]]) -> None:
    np.testing.assert_allclose(found, expected)


def test_a_sweep_is_drawn_over_what_was_swept(
    make_sweep: Make, document_of: Make, drawn: list[Any], tmp_path: Path
) -> None:
    cells = [Cell(prompt, 11, 2, threads, 0) for prompt in (100, 200) for threads in (1, 2)]
    plot_profile(document_of(make_sweep(2, *cells)), tmp_path / "a.png")
    panels = drawn[0].axes
    assert [panel.get_xlabel() for panel in panels] == ["tokens of context", "threads"] * 3
    assert [panel.get_ylabel() for panel in panels[::2]] == [
        "time to the first token, ms", "time per token, ms", "J/token",
    ]  # fmt: skip
    first, tokens = lines_of(panels[0]), lines_of(panels[2])
    assert_points(first["unsteered, threads 1"], [(100, 900), (200, 900)])
    assert_points(tokens["steered, threads 2"], [(105.5, 110), (205.5, 110)])
    assert_points(lines_of(panels[3])["unsteered, prompt 200"], [(1, 60), (2, 60)])
    assert_points(lines_of(panels[4])["unsteered, threads 1"][:1], [(105.5, 15 / 20)])  # of both meters
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_lengths_of_texts_are_lines_of_the_first_token(
    make_sweep: Make, document_of: Make, drawn: list[Any], tmp_path: Path
) -> None:
    cells = [Cell(prompt, gen, 1, 1, 0) for prompt in (100, 200) for gen in (11, 21)]
    plot_profile(document_of(make_sweep(2, *cells, steered=False, energy=False)), tmp_path / "a.png")
    first, tokens = (lines_of(panel) for panel in drawn[0].axes)
    assert list(first) == ["unsteered, generated 11", "unsteered, generated 21"]
    assert [x for x, _ in tokens["unsteered"]] == [105.5, 110.5, 205.5, 210.5]


def test_one_cell_is_drawn_over_its_repeats(
    make_sweep: Make, document_of: Make, drawn: list[Any], tmp_path: Path
) -> None:
    plot_profile(document_of(make_sweep(3, energy=False)), tmp_path / "a.svg")
    assert [panel.get_xlabel() for panel in drawn[0].axes] == ["repeat", "repeat"]
    assert_points(lines_of(drawn[0].axes[0])["steered"], [(0, 900), (1, 900), (2, 900)])


def test_nothing_measured_is_nothing_to_draw(document_of: Make, tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match="nothing was measured"):
        plot_profile(document_of(Sweep(Path("tiny.gguf"), Settings())), tmp_path / "a.png")
    with pytest.raises(EdgeSteerError, match="nothing was measured"):
        plot_quantizations({"models": []}, tmp_path / "a.png")


def test_quantizations_are_points_with_names(
    make_sweep: Make, document_of: Make, drawn: list[Any], tmp_path: Path
) -> None:
    models = []
    for name, nll in (("q8", 2.0), ("q4", 2.5)):
        sweep = make_sweep(2, energy=name == "q8")
        sweep.path = Path("models") / f"{name}.gguf"
        models.append({"quality": {"nll": nll}, "profile": document_of(sweep)})
    plot_quantizations({"models": models}, tmp_path / "a.png")
    (panel,) = drawn[0].axes  # not every file has joules
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("tokens/s", "-log p, nats per token")
    assert [text.get_text() for text in panel.texts] == ["q8", "q4"]
    assert [line.get_xydata().tolist()[0] for line in panel.lines[:2]] == [[40, 2.0], [40, 2.5]]


def test_joules_have_a_panel_where_every_file_has_them(
    make_sweep: Make, document_of: Make, drawn: list[Any], tmp_path: Path
) -> None:
    models = [{"quality": {"nll": 2.0}, "profile": document_of(make_sweep(2))}]
    plot_quantizations({"models": models}, tmp_path / "a.png")
    assert [panel.get_xlabel() for panel in drawn[0].axes] == ["tokens/s", "J/token"]


def test_frontier_by_hand() -> None:
    points = [(10, 2.0), (20, 2.5), (15, 2.6), (30, 4.0), (30, 3.9), (5, 2.0)]  # speed and loss
    assert frontier(points, more_is_better=True) == [(10, 2.0), (20, 2.5), (30, 3.9)]
    assert frontier(points, more_is_better=False) == [(5, 2.0)]
    assert frontier([(1, 1), (1, 1)], more_is_better=True) == [(1, 1), (1, 1)]
