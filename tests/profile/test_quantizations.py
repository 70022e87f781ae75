"""Quantizations of the tiny model, made by llama.cpp."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.profile.latency import Budget
from edgesteer.profile.quantizations import (
    find_models,
    likelihood,
    make_quantizations_document,
    measure_quantizations,
    quality,
    quantizations_notes,
    quantizations_table,
)
from edgesteer.profile.sweep import Settings, Sweeper
from edgesteer.runtime.quantize import quantize

Make = Callable[..., Any]
TEXT = "The train was late again, so we waited and talked. " * 20
SETTINGS = Settings(prompt_len=(8,), gen_len=(4,), repeats=1, warmup=0)


@pytest.fixture(scope="module")
def folder(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in 32 bits, and quantized to 8 bits by llama.cpp."""
    folder = tmp_path_factory.mktemp("quantizations")
    (folder / "tiny-f32.gguf").write_bytes(tiny_model.gguf.read_bytes())
    quantize(tiny_model.gguf, folder / "tiny-q8.gguf", "Q8_0", threads=1)
    return folder


# ---- files ----


def test_models_are_found_by_name_without_other_files(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf", "c-00001-of-00002.gguf", "c-00002-of-00002.gguf"):
        (tmp_path / name).write_bytes(b"GGUF...")
    (tmp_path / "notes.txt").write_bytes(b"GGUF")
    (tmp_path / "broken.gguf").write_bytes(b"html")
    (tmp_path / "folder.gguf").mkdir()
    assert [path.name for path in find_models(tmp_path)] == ["a.gguf", "b.gguf", "c-00001-of-00002.gguf"]


def test_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match="no GGUF files"):
        find_models(tmp_path)
    with pytest.raises(EdgeSteerError, match="cannot be read"):
        find_models(tmp_path / "none")


# ---- quality ----


def test_quality_by_hand() -> None:
    found = quality(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0]))
    assert (found.tokens, found.nll, found.loss) == (3, 2.0, 1.0)
    assert found.perplexity == pytest.approx(math.exp(2))
    assert found.loss_high - found.loss == pytest.approx(1.96 / math.sqrt(3))  # the losses 0, 1 and 2 deviate by 1
    assert found.loss - found.loss_low == pytest.approx(1.96 / math.sqrt(3))


def test_one_token_has_a_loss_without_limits() -> None:
    found = quality(np.array([1.0]), np.array([1.0]))
    assert (found.loss_low, found.loss_high) == (-math.inf, math.inf)


def test_hopeless_perplexity_is_a_number() -> None:
    assert math.isfinite(quality(np.full(3, 1e6), np.zeros(3)).perplexity)


@pytest.mark.torch
def test_likelihood_is_that_of_every_token_but_the_first(folder: Path, tiny_llama: Any, stages: Any) -> None:
    nll, tokenizer = likelihood(folder / "tiny-f32.gguf", TEXT, SETTINGS, Budget(), stages)
    assert len(nll) == len(tiny_llama.tokenize(TEXT)) - 1 > 512  # more than a window
    assert tokenizer == tiny_llama.fingerprint.tokenizer_sha256
    assert 3 < nll.mean() < 9  # of 266 tokens that the model knows nothing of: ln 266 = 5.6


@pytest.mark.torch
@pytest.mark.parametrize("text", ["", "a"])
def test_text_without_a_second_token_is_refused(text: str, folder: Path, stages: Any) -> None:
    with pytest.raises(EdgeSteerError, match="too short"):
        likelihood(folder / "tiny-f32.gguf", text, SETTINGS, Budget(), stages)


# ---- all files ----


def measured(folder: Path, stages: Any, **options: Any) -> Any:
    budget = options.pop("budget", None) or Budget()
    run = Sweeper(SETTINGS, stages, budget=budget).run
    return measure_quantizations(find_models(folder), TEXT, run, SETTINGS, budget, stages, **options)


@pytest.mark.torch
def test_every_file_is_measured_and_compared_with_the_largest(
    folder: Path, stages: Any, document_of: Make, tmp_path: Path
) -> None:
    result = measured(folder, stages)
    (tmp_path / "text.txt").write_text(TEXT)
    documents = [document_of(each.sweep) for each in result.files]
    document = make_quantizations_document(result, documents, tmp_path / "text.txt")
    full, small = document["models"]
    assert full["quality"]["loss"] == 0
    assert 0 < abs(small["quality"]["loss"]) < 0.1
    assert small["quality"]["loss_low"] < small["quality"]["loss"] < small["quality"]["loss_high"]
    assert small["quality"]["nll"] == pytest.approx(full["quality"]["nll"] + small["quality"]["loss"])
    table = quantizations_table(document)
    assert [row[0] for row in table.rows] == ["tiny-f32.gguf", "tiny-q8.gguf"]
    assert {len(row) for row in table.rows} == {len(table.headers)}
    assert quantizations_notes(document) == [
        f"Quality: -log p of each token of {tmp_path / 'text.txt'}, in windows of 512 tokens; loss is against the file "
        "with the most bits per weight."
    ]


@pytest.mark.torch
def test_files_that_cannot_be_compared_are_skipped(
    folder: Path, stages: Any, tmp_path: Path, document_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.gguf").write_bytes((folder / "tiny-f32.gguf").read_bytes())
    (tmp_path / "b.gguf").write_bytes(b"GGUF and no more")
    (tmp_path / "c.gguf").write_bytes((folder / "tiny-q8.gguf").read_bytes())
    digests = iter(["one", "one", "another", "another"])
    monkeypatch.setattr("edgesteer.runtime.model.tokenizer_digest", lambda *_: next(digests))
    result = measured(tmp_path, stages)
    assert [each.sweep.path.name for each in result.files] == ["a.gguf"]
    assert "cannot load this model" in result.skipped["b.gguf"]
    assert "another tokenizer" in result.skipped["c.gguf"]
    (tmp_path / "text.txt").write_text(TEXT)
    document = make_quantizations_document(result, [document_of(result.files[0].sweep)], tmp_path / "text.txt")
    assert [each["file"] for each in document["skipped"]] == ["b.gguf", "c.gguf"]
    assert [line[:15] for line in quantizations_notes(document)[1:]] == ["Skipped b.gguf:", "Skipped c.gguf:"]


@pytest.mark.torch
def test_folder_in_which_nothing_can_be_measured_is_refused(stages: Any, tmp_path: Path) -> None:
    (tmp_path / "b.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(EdgeSteerError, match=r"b.gguf: no file could be measured; found .*cannot load"):
        measured(tmp_path, stages)


@pytest.mark.torch
def test_the_budget_ends_it_with_the_files_so_far(folder: Path, stages: Any, tmp_path: Path) -> None:
    budget = Budget()
    stage = stages.stage

    def stop_at_the_second(name: str, total: int) -> Callable[[], None]:
        if name.startswith("tiny-q8"):
            budget.stop("interrupted")
        done: Callable[[], None] = stage(name, total)
        return done

    stages.stage = stop_at_the_second
    result = measured(folder, stages, budget=budget)
    assert [each.sweep.path.name for each in result.files] == ["tiny-f32.gguf"]
    assert result.stopped == "interrupted"


@pytest.mark.torch
def test_nothing_measured_is_an_empty_document(folder: Path, stages: Any, tmp_path: Path) -> None:
    result = measured(folder, stages, budget=Budget(0))
    (tmp_path / "text.txt").write_text(TEXT)
    document = make_quantizations_document(result, [], tmp_path / "text.txt")
    assert (document["models"], document["stopped"]) == ([], "the time is up")
    assert quantizations_notes(document)[-1] == "Ended early: the time is up."
