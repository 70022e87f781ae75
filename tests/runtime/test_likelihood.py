"""Log likelihoods: against softmaxes computed here and in PyTorch, and that no window, batch or chunk shows in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.errors import EngineError
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.likelihood import (
    Window,
    continuation_log_likelihoods,
    groups_of,
    log_likelihoods,
    log_probability,
    negative_log_likelihood,
    windows_of,
)

if TYPE_CHECKING:
    from edgesteer.export.weights import LoadedModel
    from edgesteer.runtime.model import LlamaModel

pytestmark = pytest.mark.torch  # makes the tiny model

BOS = 1
TEXT = [*range(40, 70), *range(222, 192, -1)]
"""60 ids of the tiny model."""
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
"""Below 64 rows a decode; from there on llama.cpp adds up attention in another order."""


def softmax_oracle(engine: Engine, tokens: Sequence[int]) -> NDArray[np.float64]:
    """The log softmax of every token but the first, from the logits of one plain decode."""
    engine.forget()
    engine.decode(tokens, range(len(tokens)), [True] * len(tokens))
    logits = np.stack([engine.logits(row) for row in range(len(tokens))]).astype(np.float64)
    engine.forget()
    likelihood = np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    return likelihood[np.arange(len(tokens) - 1), tokens[1:]]


@pytest.fixture
def engine(tiny_llama: LlamaModel) -> Engine:
    with Engine(tiny_llama, context_tokens=256, n_sequences=3, threads=1) as engine:
        yield engine


def test_log_probability_by_hand() -> None:
    logits = np.log(np.array([1, 2, 5], np.float32))  # p = 1/8, 2/8, 5/8
    assert [log_probability(logits, token) for token in range(3)] == pytest.approx(np.log([1 / 8, 2 / 8, 5 / 8]))


def test_log_probability_of_large_logits_is_finite() -> None:
    assert log_probability(np.array([1000.0, 1000.0], np.float32), 0) == pytest.approx(-np.log(2))


def test_likelihoods_are_softmaxes_of_the_logits(engine: Engine) -> None:
    np.testing.assert_allclose(log_likelihoods(engine, [TEXT])[0], softmax_oracle(engine, TEXT), **CLOSE)


def test_negative_log_likelihood_is_their_negative(engine: Engine) -> None:
    np.testing.assert_array_equal(negative_log_likelihood(engine, TEXT), -log_likelihoods(engine, [TEXT])[0])


def test_likelihoods_are_those_of_pytorch(engine: Engine, tiny_torch: LoadedModel) -> None:
    import torch

    with torch.no_grad():
        logits = tiny_torch.network(torch.tensor([TEXT])).logits[0]
    expected = torch.log_softmax(logits.double(), dim=-1)[torch.arange(len(TEXT) - 1), TEXT[1:]]
    np.testing.assert_allclose(log_likelihoods(engine, [TEXT])[0], expected.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("start", [0, 1], ids=["without BOS", "with BOS"])
def test_tokens_after_a_windows_edge_are_scored_from_the_tokens_before_them(engine: Engine, start: int) -> None:
    text = [BOS, *TEXT] if start else TEXT
    found = log_likelihoods(engine, [text], window=20)[0]
    for window in windows_of(0, len(text), 20, has_bos=bool(start)):
        before = [BOS] if window.with_bos else []
        alone = softmax_oracle(engine, [*before, *text[window.start : window.stop]])
        scored = slice(window.scored - 1, window.stop - 1)
        np.testing.assert_allclose(found[scored], alone[window.scored - window.stop :], **CLOSE)


@pytest.mark.parametrize("start", [1, 20])
def test_continuations_score_as_the_end_of_the_whole_text(engine: Engine, start: int) -> None:
    prompt, rest = TEXT[:start], TEXT[start:]
    found = continuation_log_likelihoods(engine, prompt, [rest, rest[:5], []])
    whole = log_likelihoods(engine, [TEXT])[0][start - 1 :]
    for scores, expected in zip(found, (whole, whole[:5], whole[:0]), strict=True):
        np.testing.assert_allclose(scores, expected, **CLOSE)


def test_no_digit_of_a_continuation_depends_on_the_others(engine: Engine) -> None:
    prompt, one, other = TEXT[:20], TEXT[20:40], TEXT[30:60]
    both, alone = (continuation_log_likelihoods(engine, prompt, texts) for texts in ([other, one], [one]))
    np.testing.assert_array_equal(both[1], alone[0])


def test_continuations_leave_an_empty_cache(engine: Engine) -> None:
    expected = log_likelihoods(engine, [TEXT])[0]
    continuation_log_likelihoods(engine, TEXT[:20], [TEXT[20:]])
    np.testing.assert_array_equal(log_likelihoods(engine, [TEXT])[0], expected)


@pytest.mark.parametrize(("prompt", "rest"), [([], [5]), ([10**6], [5]), ([5], [-1])])
def test_continuation_that_cannot_be_scored_is_refused(engine: Engine, prompt: list[int], rest: list[int]) -> None:
    with pytest.raises(EngineError, match=r"prompt is empty|no such token"):
        continuation_log_likelihoods(engine, prompt, [rest])


def test_windows_change_what_is_scored(engine: Engine) -> None:
    """Or the test above would show nothing."""
    whole, parts = (log_likelihoods(engine, [TEXT], window=size)[0] for size in (60, 20))
    assert abs(whole[20:] - parts[20:]).max() > 0.01


@pytest.mark.parametrize("has_bos", [False, True])
@pytest.mark.parametrize("size", [4, 5, 9, 64])
@pytest.mark.parametrize("length", [2, 3, 4, 5, 17, 64, 65, 200])
def test_windows_score_each_token_once_within_their_size(length: int, size: int, has_bos: bool) -> None:
    windows = list(windows_of(0, length, size, has_bos=has_bos))
    assert [at for each in windows for at in range(each.scored, each.stop)] == list(range(1, length))
    for each in windows:
        assert each.with_bos + each.stop - each.start <= size
        assert each.with_bos == (has_bos and each.start > 0)
        assert each.scored - each.start >= (1 if each.start == 0 else size // 2 - 1)


def test_text_that_fits_is_one_window() -> None:
    assert list(windows_of(7, 10, 10)) == [Window(7, 0, 1, 10)]


@pytest.mark.parametrize("length", [0, 1])
def test_text_without_a_second_token_has_no_scores(engine: Engine, length: int) -> None:
    assert log_likelihoods(engine, [TEXT[:length], TEXT])[0].shape == (0,)


def test_many_texts_at_once_score_as_each_alone(engine: Engine, tiny_llama: LlamaModel) -> None:
    texts = [TEXT[:5], TEXT[10:], TEXT[::-1], TEXT[3:30], TEXT]
    with Engine(tiny_llama, context_tokens=256, threads=1) as single:
        alone = [log_likelihoods(single, [text], window=16)[0] for text in texts]
    for found, expected in zip(log_likelihoods(engine, texts, window=16), alone, strict=True):
        np.testing.assert_allclose(found, expected, **CLOSE)


def test_small_batches_score_as_large_ones(engine: Engine, tiny_llama: LlamaModel) -> None:
    with Engine(tiny_llama, context_tokens=256, batch_tokens=7, threads=1) as small:
        found = log_likelihoods(small, [TEXT])[0]
    np.testing.assert_allclose(found, log_likelihoods(engine, [TEXT])[0], **CLOSE)


def test_large_vocabulary_limits_the_rows_of_a_decode(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = log_likelihoods(engine, [TEXT])[0]
    decodes = []
    monkeypatch.setattr("edgesteer.runtime.likelihood.LOGIT_BYTES", 10 * 4 * engine.model.n_tokens)
    found = log_likelihoods(engine, [TEXT], check=lambda: decodes.append(1))[0]
    assert len(decodes) == 6  # 59 rows, 10 a decode
    np.testing.assert_allclose(found, whole, **CLOSE)


def test_groups_fit_in_the_sequences_and_the_cells() -> None:
    windows = [Window(0, 0, 1, 11), Window(0, 5, 11, 16), Window(1, 0, 1, 6), Window(2, 0, 1, 9)]  # 10, 10, 5, 8 rows
    assert [len(group) for group in groups_of(windows, 2, 100)] == [2, 2]
    assert [len(group) for group in groups_of(windows, 9, 20)] == [2, 2]
    assert [len(group) for group in groups_of(windows, 9, 12)] == [1, 1, 1, 1]


def test_the_cache_is_empty_afterwards(engine: Engine) -> None:
    first = log_likelihoods(engine, [TEXT])[0]
    np.testing.assert_array_equal(log_likelihoods(engine, [TEXT])[0], first)


def test_a_broken_off_text_leaves_an_empty_cache(engine: Engine) -> None:
    first = log_likelihoods(engine, [TEXT, TEXT])[0]
    calls = iter([None, None, None, KeyboardInterrupt])

    def check() -> None:
        error = next(calls)
        if error is not None:
            raise error

    with pytest.raises(KeyboardInterrupt):
        log_likelihoods(engine, [TEXT, TEXT, TEXT, TEXT] * 4, check=check)
    np.testing.assert_array_equal(log_likelihoods(engine, [TEXT, TEXT])[0], first)


@pytest.mark.parametrize("window", [3, 257])
def test_window_that_is_too_small_or_too_large_is_refused(engine: Engine, window: int) -> None:
    with pytest.raises(EngineError, match="wrong window"):
        log_likelihoods(engine, [TEXT], window=window)


@pytest.mark.parametrize("token", [-1, 1_000_000])
def test_token_that_the_model_does_not_have_is_refused(engine: Engine, token: int) -> None:
    with pytest.raises(EngineError, match="no such token"):
        log_likelihoods(engine, [[*TEXT, token]])


@pytest.mark.llama
@pytest.mark.slow
def test_english_is_likelier_than_its_words_shuffled(smollm2_llama: LlamaModel) -> None:
    words = "The train was late again, so we waited on the platform and talked about the weather.".split(" ")
    texts = [smollm2_llama.tokenize(" ".join(each)) for each in (words, sorted(words))]
    with Engine(smollm2_llama, context_tokens=256, threads=1) as engine:
        english, shuffled = (negative_log_likelihood(engine, text).mean() for text in texts)
    assert english + 1 < shuffled
