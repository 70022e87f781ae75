"""The engine: what steering may not change, which rows it acts on, and what it refuses."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from edgesteer.controller import LAWS, Array, Controller
from edgesteer.errors import EngineError, ModelError
from edgesteer.runtime import hook as hook_module
from edgesteer.runtime.engine import CACHE_TYPES, Commands, Engine, default_threads, ggml_type
from edgesteer.runtime.hook import COMMAND, MEASURE, SENSE, STEER, phi_code
from edgesteer.runtime.model import LlamaModel, recorded_log

TOKENS = [*range(40, 50), *range(222, 212, -1), *range(90, 110, 2)]
"""30 ids that every vocabulary here has."""

REAL_MODELS = [
    pytest.param(name, marks=[pytest.mark.llama, pytest.mark.slow]) for name in ("smollm2_llama", "gemma3_llama")
]


@pytest.fixture
def model(request: pytest.FixtureRequest) -> LlamaModel:
    """The model whose fixture a test names."""
    loaded: LlamaModel = request.getfixturevalue(request.param)
    return loaded


@pytest.fixture
def controller(make_controller: Callable[..., Controller]) -> Controller:
    return make_controller(4, 32)


def logits_of(engine: Engine, tokens: Sequence[int], *, chunk: int, commands: Commands | None = None) -> Array:
    """Decode in chunks of this many rows and return the logits of all of them: (length, vocabulary)."""
    engine.forget()
    logits = []
    for start in range(0, len(tokens), chunk):
        rows = range(start, min(start + chunk, len(tokens)))
        part = None if commands is None else commands[rows.start : rows.stop]
        engine.decode([tokens[row] for row in rows], rows, [True] * len(rows), part)
        logits += [engine.logits(row) for row in range(len(rows))]
    return np.stack(logits)


def steering(engine: Engine, rows: int, *, level: float = 1.0, effort: float = 1.0, action: int = STEER) -> Commands:
    commands = engine.idle(rows)
    commands[:] = np.array((level, effort, action, phi_code("hold")), dtype=COMMAND)
    return commands


# ---- strength 0 ----


@pytest.mark.parametrize("model", ["tiny_llama", *REAL_MODELS], indirect=True)
@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("copying", [False, True], ids=["in place", "copied"])
def test_no_effort_leaves_logits_bit_identical(
    model: LlamaModel, make_controller: Callable[..., Controller], chunk: int, copying: bool
) -> None:
    tokens = TOKENS[: 2 * chunk]
    with Engine(model, context_tokens=256) as unhooked:
        plain = logits_of(unhooked, tokens, chunk=chunk)
    controllers = [make_controller(model.n_blocks, model.width, law=law, name=law) for law in LAWS]
    with Engine(model, controllers, context_tokens=256, force_copy=copying) as engine:
        for options in ({"action": SENSE}, {"action": MEASURE}, {"effort": 0.0}):
            commands = steering(engine, len(tokens), **options)
            np.testing.assert_array_equal(logits_of(engine, tokens, chunk=chunk, commands=commands), plain)
        np.testing.assert_array_equal(logits_of(engine, tokens, chunk=chunk), plain)
        steered = logits_of(engine, tokens, chunk=chunk, commands=steering(engine, len(tokens)))
        assert not np.array_equal(steered, plain)  # or nothing above would show anything


def test_engine_without_controllers_sets_no_callback(
    tiny_llama: LlamaModel, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks: list[bool] = []
    make = llama_cpp.llama_init_from_model

    def noting(handle: Any, parameters: Any) -> Any:
        callbacks.append(bool(parameters.cb_eval))
        return make(handle, parameters)

    monkeypatch.setattr(llama_cpp, "llama_init_from_model", noting)
    for controllers in ([], [controller]):
        with Engine(tiny_llama, controllers) as engine:
            assert (engine.hook is None) == (controllers == [])
    assert callbacks == [False, True]


# ---- steering ----


@pytest.mark.parametrize("model", ["tiny_llama", *REAL_MODELS], indirect=True)
def test_copying_buffers_gives_the_bits_of_writing_in_place(
    model: LlamaModel, make_controller: Callable[..., Controller]
) -> None:
    controller = make_controller(model.n_blocks, model.width)
    logits = []
    for force_copy in (False, True):
        with Engine(model, [controller], context_tokens=256, force_copy=force_copy) as engine:
            logits.append(logits_of(engine, TOKENS[:7], chunk=7, commands=steering(engine, 7)))
    np.testing.assert_array_equal(*logits)


def test_chunks_of_a_prompt_are_steered_as_the_whole(tiny_llama: LlamaModel, controller: Controller) -> None:
    with Engine(tiny_llama, [controller]) as whole, Engine(tiny_llama, [controller], batch_tokens=8) as chunked:
        commands = steering(whole, 30)
        commands["level"] = np.linspace(-1, 1, 30)[:, None]  # so that no row could pass for another
        together = logits_of(whole, TOKENS, chunk=30, commands=commands)
        apart = logits_of(chunked, TOKENS, chunk=8, commands=commands)
    np.testing.assert_allclose(apart, together, rtol=1e-3, atol=1e-3)


def test_each_sequence_of_a_batch_is_steered_as_if_alone(tiny_llama: LlamaModel, controller: Controller) -> None:
    """Three sequences of different lengths, interleaved in one batch, each with its own level and its own tokens."""
    prompts = [TOKENS[:5], TOKENS[5:12], TOKENS[12:14]]
    levels = (1.5, -1.0, 0.25)
    alone = []
    for prompt, level in zip(prompts, levels, strict=True):
        with Engine(tiny_llama, [controller]) as engine:
            commands = steering(engine, len(prompt), level=level)
            alone.append(logits_of(engine, prompt, chunk=len(prompt), commands=commands))
    rows = sorted((position, sequence) for sequence, prompt in enumerate(prompts) for position in range(len(prompt)))
    positions, sequences = (list(column) for column in zip(*rows, strict=True))
    with Engine(tiny_llama, [controller], n_sequences=3) as engine:
        commands = steering(engine, len(rows))
        commands["level"] = np.array(levels)[sequences][:, None]
        tokens = [prompts[sequence][position] for position, sequence in rows]
        engine.decode(tokens, positions, [True] * len(rows), commands, sequences)
        for row, (position, sequence) in enumerate(rows):
            np.testing.assert_allclose(engine.logits(row), alone[sequence][position], rtol=1e-3, atol=2e-3)


def test_steered_row_does_not_touch_its_neighbours(tiny_llama: LlamaModel, controller: Controller) -> None:
    """Two sequences decode a token each; only one is steered, and the other reads as without a hook."""
    with Engine(tiny_llama, n_sequences=2) as unhooked, Engine(tiny_llama, [controller], n_sequences=2) as engine:
        commands = steering(engine, 2)
        commands[1] = engine.idle(1)[0]
        for each, given in ((unhooked, None), (engine, commands)):
            each.decode([40, 80], [0, 0], [True, True], given, sequences=[0, 1])
        assert not np.array_equal(engine.logits(0), unhooked.logits(0))
        np.testing.assert_array_equal(engine.logits(1), unhooked.logits(1))


def test_rows_without_output_are_steered_below_the_last_block(tiny_llama: LlamaModel, controller: Controller) -> None:
    """What a steered row without logits leaves in the cache is what it leaves with logits."""
    logits = []
    for wanted in (True, False):
        with Engine(tiny_llama, [controller]) as engine:
            outputs = [wanted] * 6 + [True]
            engine.decode(TOKENS[:7], range(7), outputs, steering(engine, 7))
            logits.append(engine.logits())
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-3, atol=1e-3)


def test_several_controllers_add_their_control(
    tiny_llama: LlamaModel, make_controller: Callable[..., Controller]
) -> None:
    """Two static vectors of half the strength do what one does."""
    vector, again = (make_controller(4, 32, law="add", name=name) for name in ("vector", "again"))
    with Engine(tiny_llama, [vector]) as one, Engine(tiny_llama, [vector, again]) as two:
        whole = logits_of(one, TOKENS, chunk=30, commands=steering(one, 30))
        halves = logits_of(two, TOKENS, chunk=30, commands=steering(two, 30, level=0.5))
    np.testing.assert_allclose(halves, whole, rtol=1e-3, atol=1e-3)


def test_forgotten_tokens_leave_no_trace(tiny_llama: LlamaModel, controller: Controller) -> None:
    with Engine(tiny_llama, [controller]) as engine:
        fresh = logits_of(engine, TOKENS[:7], chunk=7)
        logits_of(engine, TOKENS, chunk=30, commands=steering(engine, 30))
        np.testing.assert_array_equal(logits_of(engine, TOKENS[:7], chunk=7), fresh)


# ---- bad input ----


@pytest.fixture
def small(tiny_llama: LlamaModel, controller: Controller) -> Iterator[Engine]:
    """An engine whose context holds 256 tokens and whose batches hold 64."""
    with Engine(tiny_llama, [controller], context_tokens=256, batch_tokens=64) as engine:
        yield engine


def test_full_context_is_an_error(small: Engine) -> None:
    for start in range(0, 256, 64):
        small.decode([9] * 64, range(start, start + 64), [False] * 63 + [True])
    with pytest.raises(EngineError, match=r"the context is full; found 256 tokens\. Use a larger context"):
        small.decode([9], [256], [True])


@pytest.mark.parametrize("rows", [0, 65])
def test_wrong_number_of_rows_is_an_error(small: Engine, rows: int) -> None:
    with pytest.raises(EngineError, match=f"wrong number of rows; expected 1 to 64; found {rows}"):
        small.decode([9] * rows, range(rows), [True] * rows)


def test_token_outside_the_vocabulary_is_an_error(small: Engine) -> None:
    with pytest.raises(EngineError, match="failed to decode"):
        small.decode([100_000], [0], [True])


@pytest.mark.parametrize("sequences", [1, 3])
def test_context_is_of_one_size_for_each_sequence(tiny_llama: LlamaModel, sequences: int) -> None:
    with Engine(tiny_llama, n_sequences=sequences, threads=1) as engine:
        assert engine.context_tokens == 2048 * sequences


@pytest.mark.parametrize(("sequences", "most"), [(0, 4), (5, 4), (100_000, 256)])
def test_wrong_number_of_sequences_is_refused(tiny_llama: LlamaModel, sequences: int, most: int) -> None:
    options = {"context_tokens": 1 << 20, "batch_tokens": 100_000} if most == 256 else {"batch_tokens": 4}
    with pytest.raises(EngineError, match=f"wrong number of sequences; expected 1 to {most}; found {sequences}"):
        Engine(tiny_llama, n_sequences=sequences, **options)


def test_logits_of_a_row_without_output_are_an_error(small: Engine) -> None:
    small.decode([9, 10], [0, 1], [False, True])
    with pytest.raises(EngineError, match="no logits for this row"):
        small.logits(0)


def test_a_timed_engine_measures_the_hook_s_work_also_after_an_exchange(
    tiny_llama: LlamaModel, controller: Controller
) -> None:
    with Engine(tiny_llama, timed=True, reloadable=True, threads=1) as engine:
        engine.decode([9], [0], [True])
        assert engine.hook is not None
        assert engine.hook.time_ns() == 0
        engine.set_controllers([controller])
        began = engine.hook.now_ns()
        engine.decode([9], [1], [True], steering(engine, 1))
        assert 0 < engine.hook.time_ns() < engine.hook.now_ns() - began


def test_model_without_block_outputs_is_refused_with_the_names_seen(
    tiny_llama: LlamaModel, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook_module, "BLOCK_OUTPUT", "no_such_node")
    with (
        Engine(tiny_llama, [controller]) as engine,
        pytest.raises(ModelError, match=r"no usable block output.*found .*attn_norm.*l_out.*result_norm") as caught,
    ):
        engine.decode([9, 10], [0, 1], [False, True], steering(engine, 2))
    assert "\n" not in str(caught.value)


def test_unsteered_decode_does_not_need_block_outputs(
    tiny_llama: LlamaModel, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook_module, "BLOCK_OUTPUT", "no_such_node")
    with Engine(tiny_llama, [controller]) as engine:
        engine.decode([9, 10], [0, 1], [False, True])


def test_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model file"):
        LlamaModel(tmp_path / "absent.gguf")


@pytest.mark.parametrize("kept", [0, 3_000, 60_000])
def test_truncated_model_is_refused(tiny_model: Any, tmp_path: Path, kept: int) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny_model.gguf.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load this model"):
        LlamaModel(damaged)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the platform does not say which cores are allowed")
@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (7, 7), (8, 4), (16, 8)])
def test_threads_are_the_cores_up_to_7_and_half_of_more(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert default_threads() == threads


# ---- cache types ----


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_cache_types_have_ggmls_numbers(cache_type: str) -> None:
    name = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int)(("ggml_type_name", hook_module.load_ggml()))
    assert name(ggml_type(cache_type)) == cache_type.encode()


def test_unknown_cache_type_is_refused(tiny_llama: LlamaModel) -> None:
    with pytest.raises(EngineError, match=r"unknown cache type; expected f32 or .*; found q3"):
        Engine(tiny_llama, cache_type_k="q3")


def test_cache_type_that_does_not_fit_the_model_is_refused(tiny_llama: LlamaModel) -> None:
    """Its heads have 8 numbers, a block of q8_0 has 32."""
    with pytest.raises(EngineError, match="cannot make a context"):
        Engine(tiny_llama, cache_type_k="q8_0", cache_type_v="q8_0")


def test_keys_and_values_have_types_of_their_own(tiny_llama: LlamaModel) -> None:
    with recorded_log() as log, Engine(tiny_llama, context_tokens=256, cache_type_k="f32", cache_type_v="bf16"):
        (line,) = [line for line in log if "K (" in line]
    assert "K (f32)" in line
    assert "V (bf16)" in line
