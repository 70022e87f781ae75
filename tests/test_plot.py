"""The picture of a controller."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.controller import Controller, Statistics
from edgesteer.errors import EdgeSteerError, MissingExtraError
from edgesteer.plot import plot_controllers

figure = pytest.importorskip("matplotlib.figure")


def controller(name: str, statistics: bool) -> Controller:
    one = np.ones(2, np.float32)
    rows = Statistics(one, one / 2, 0 * one, one / 4, one / 4, one / 8, np.array([1, 2, 4], np.float32)[1:])
    return Controller(
        name=name,
        positive="warm",
        negative="cold",
        law="add",
        n_blocks=2,
        blocks=(1,),
        probe=None,
        offset=one[:1],
        gain=np.array([[3, 4]], np.float32),
        rest=one[:1],
        span=one[:1],
        statistics=rows if statistics else None,
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collects the figures that are saved."""
    figures: list[Any] = []
    save = figure.Figure.savefig

    def collect(self: Any, *arguments: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(figure.Figure, "savefig", collect)
    return figures


def test_panels_show_separation_gain_norms_and_alpha(drawn: list[Any], tmp_path: Path) -> None:
    plot_controllers([controller("warm", statistics=True)], tmp_path / "a.png")
    separation, gain_norms, alpha = drawn[0].axes
    assert separation.lines[0].get_ydata().tolist() == [2, 4]
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in gain_norms.patches] == [(1, 5)]
    assert {line.get_label(): line.get_ydata().tolist() for line in alpha.lines} == {
        "warm": [1, 1],
        "cold": [0, 0],
        "neutral text": [0.25, 0.25],
    }
    band = alpha.collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (-0.25, 0.25)


def test_each_controller_has_a_row(drawn: list[Any], tmp_path: Path) -> None:
    plot_controllers([controller("a", statistics=True), controller("b", statistics=False)], tmp_path / "a.png")
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert len(titles) == 6
    assert [title.split(":")[0] for title in titles] == ["a"] * 3 + ["b"] * 3


def test_file_without_statistics_says_so(drawn: list[Any], tmp_path: Path) -> None:
    plot_controllers([controller("a", statistics=False)], tmp_path / "a.png")
    texts = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert texts == ["the file has no statistics"] * 2


def test_path_without_a_suffix_is_a_png(tmp_path: Path) -> None:
    plot_controllers([controller("a", statistics=True)], tmp_path / "a")
    assert (tmp_path / "a").read_bytes().startswith(b"\x89PNG")


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match=r"a\.gguf: unknown kind of picture; expected .*png.*; found gguf"):
        plot_controllers([controller("a", statistics=True)], tmp_path / "a.gguf")
    assert list(tmp_path.iterdir()) == []


def test_missing_matplotlib_names_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'Run: pip install "edgesteer\[plot\]"'):
        plot_controllers([controller("a", statistics=True)], tmp_path / "a.png")
