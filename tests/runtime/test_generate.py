"""Generation: the texts, where they stop, which rows are steered when, and the loop across tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.chat import conversation
from edgesteer.controller import LAWS, Array, Controller
from edgesteer.errors import EngineError, SafeRangeWarning, SteeringError
from edgesteer.runtime import sequence
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.generate import TextStream
from edgesteer.runtime.hook import MEASURE, OFF, SENSE, STEER
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Prompt, Steering, chat_prompt, plain_prompt
from edgesteer.runtime.sampling import Sampling
from edgesteer.runtime.text import split_at_stop
from edgesteer.sidecar import read_sidecar

GREEDY = Sampling(temp=0.0)
QUESTION = "Where are the boats?"


@pytest.fixture
def controller(make_controller: Callable[..., Controller]) -> Controller:
    return make_controller(4, 32, name="tone")


@pytest.fixture
def engine(tiny_llama: LlamaModel, controller: Controller) -> Iterator[Engine]:
    with Engine(tiny_llama, [controller], context_tokens=256) as engine:
        yield engine


@pytest.fixture
def prompt(tiny_llama: LlamaModel) -> Prompt:
    return chat_prompt(tiny_llama, conversation(QUESTION))


Scripting = Callable[[str], None]


@pytest.fixture
def script(tiny_llama: LlamaModel, monkeypatch: pytest.MonkeyPatch) -> Scripting:
    """A function that makes the model say a text, special tokens in it included, whatever its logits are."""

    def write(text: str) -> None:
        remaining = iter(tiny_llama.tokenize(text, add_special=False))

        class Scripted:
            def __init__(self, *_arguments: Any) -> None: ...

            def sample(self, _context: Any, _output: int) -> int:
                return next(remaining)

            def close(self) -> None: ...

        monkeypatch.setattr(sequence, "Sampler", Scripted)

    return write


# ---- texts ----


def test_same_seed_gives_the_same_text(engine: Engine, tiny_llama: LlamaModel, prompt: Prompt) -> None:
    steering = [Steering("tone", 1.0, loop="open")]
    first, again = (TextStream(engine, prompt, steering, Sampling(seed=5), 30).run() for _ in range(2))
    with Engine(tiny_llama, engine.controllers, context_tokens=256) as fresh:
        elsewhere = TextStream(fresh, prompt, steering, Sampling(seed=5), 30).run()
    other = TextStream(engine, prompt, steering, Sampling(seed=6), 30).run()
    assert first.tokens == again.tokens == elsewhere.tokens
    assert other.tokens != first.tokens


def test_pieces_make_up_the_text(engine: Engine, prompt: Prompt) -> None:
    stream = TextStream(engine, prompt, sampling=Sampling(seed=5), max_tokens=30)
    pieces = list(stream)
    assert "".join(pieces) == stream.result.text
    assert all(pieces)


def test_characters_of_several_tokens_come_whole(engine: Engine, prompt: Prompt, script: Scripting) -> None:
    script("né 海<|im_end|>")  # the tiny vocabulary spells é with 2 tokens and 海 with 3
    assert list(TextStream(engine, prompt)) == ["n", "é", " ", "海"]


def test_character_that_is_cut_off_is_left_out(engine: Engine, prompt: Prompt, script: Scripting) -> None:
    script("a海b")
    result = TextStream(engine, prompt, max_tokens=3).run()
    assert (result.text, len(result.tokens)) == ("a", 3)


def test_end_of_generation_is_not_part_of_the_text(
    engine: Engine, tiny_llama: LlamaModel, prompt: Prompt, script: Scripting
) -> None:
    script("on the<|im_end|>")
    result = TextStream(engine, prompt).run()
    assert (result.text, result.stop_reason) == ("on the", "end")
    assert result.tokens == tiny_llama.tokenize("on the")


@pytest.mark.parametrize("max_tokens", [1, 2, 9])
def test_length_is_limited(engine: Engine, prompt: Prompt, max_tokens: int) -> None:
    result = TextStream(engine, prompt, sampling=Sampling(seed=5), max_tokens=max_tokens).run()
    assert (len(result.tokens), result.stop_reason) == (max_tokens, "length")
    assert result.timings.predicted_n == max_tokens
    assert result.timings.prompt_n == len(prompt.tokens)


def test_text_ends_where_the_context_does(engine: Engine, script: Scripting) -> None:
    """The last token needs no room: it is sampled, and not decoded any more."""
    script("a" * 20)
    tokens = [40] * 250
    long = Prompt(tokens, np.ones(250, dtype=bool), np.zeros(250, dtype=bool))
    result = TextStream(engine, long).run()
    assert (len(result.tokens), result.stop_reason) == (7, "context")


# ---- stop strings ----


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("hello", [], ("hello", "", False)),
        ("hello STOP there", ["STOP"], ("hello ", "", True)),
        ("hello ST", ["STOP"], ("hello ", "ST", False)),
        ("hello", ["STOP"], ("hello", "", False)),
        ("one TWO three", ["three", "TWO"], ("one ", "", True)),
        ("end\n", ["\n\n", "\nUser"], ("end", "\n", False)),
        ("aab", ["ab"], ("a", "", True)),
        ("aa", ["aab", "ab"], ("", "aa", False)),
        ("STOP", ["STOP"], ("", "", True)),
    ],
)
def test_text_is_split_at_stop_strings(text: str, stops: list[str], expected: tuple[str, str, bool]) -> None:
    assert split_at_stop(text, stops) == expected


def test_stop_string_ends_the_text_and_is_left_out(engine: Engine, prompt: Prompt, script: Scripting) -> None:
    script("one two three")
    stream = TextStream(engine, prompt, stop=["x", "two"])
    assert list(stream) == ["on", "e", " "]
    assert (stream.result.text, stream.result.stop_reason) == ("one ", "stop")


def test_text_that_only_began_like_a_stop_string_is_given_in_the_end(
    engine: Engine, prompt: Prompt, script: Scripting
) -> None:
    script("one tw<|im_end|>")
    assert TextStream(engine, prompt, stop=["two"]).run().text == "one tw"


# ---- breaking off ----


def test_result_is_valid_after_breaking_off(engine: Engine, prompt: Prompt, script: Scripting) -> None:
    script("abcdefgh")
    stream = TextStream(engine, prompt, [Steering("tone", 1.0)])
    for piece in stream:
        if piece == "c":
            break
    result = stream.result
    assert (result.text, len(result.tokens)) == ("abc", 3)
    assert len(result.steering[0].alpha) == 2  # the third token was not decoded any more


def test_next_text_is_not_changed_by_one_that_was_broken_off(engine: Engine, prompt: Prompt) -> None:
    expected = TextStream(engine, prompt, sampling=GREEDY, max_tokens=8).run().tokens
    next(iter(TextStream(engine, prompt, [Steering("tone", 1.0, rows="all")], max_tokens=8)))
    assert TextStream(engine, prompt, sampling=GREEDY, max_tokens=8).run().tokens == expected


# ---- prompts ----


def words(model: LlamaModel, prompt: Prompt) -> str:
    kept = [token for token, is_content in zip(prompt.tokens, prompt.content, strict=True) if is_content]
    return b"".join(model.piece(token) for token in kept).decode()


@pytest.mark.parametrize(
    "model", ["tiny_llama", pytest.param("smollm2_llama", marks=[pytest.mark.llama, pytest.mark.slow])]
)
@pytest.mark.parametrize("text", [QUESTION, "the", "  What,\nnow?  ", "É 海", "assistant", "user", "i"])
@pytest.mark.parametrize("system", ["", "Answer where the boats are."])
def test_content_of_a_chat_prompt_is_the_users_words(
    request: pytest.FixtureRequest, model: str, text: str, system: str
) -> None:
    loaded: LlamaModel = request.getfixturevalue(model)
    prompt = chat_prompt(loaded, conversation(text, system))
    assert words(loaded, prompt).strip() == text.strip()
    end = int(np.flatnonzero(prompt.content)[-1]) + 1
    assert loaded.ends_generation(prompt.tokens[end])  # it is the user's turn that ends here, not a later part


def test_the_turns_of_a_conversation_are_told_apart(tiny_llama: LlamaModel) -> None:
    """The content is the last user message; what the model wrote are the answers."""
    said = [("user", "the end"), ("assistant", "n海 é"), ("user", "no"), ("assistant", ""), ("user", "the é")]
    prompt = chat_prompt(tiny_llama, [{"role": role, "content": content} for role, content in said])
    for mask, expected in ((prompt.content, "the é"), (prompt.generated, "n海 é")):
        tokens = np.array(prompt.tokens)[mask]
        assert b"".join(tiny_llama.piece(token) for token in tokens).decode() == expected


def test_a_long_conversation_is_read_once_and_not_once_a_turn(tiny_llama: LlamaModel) -> None:
    turns = [{"role": role, "content": "no"} for _ in range(2000) for role in ("user", "assistant")]
    prompt = chat_prompt(tiny_llama, turns)
    assert prompt.generated.sum() == 2000 * len(tiny_llama.tokenize("no"))


def test_chat_prompt_is_the_rendered_template(tiny_llama: LlamaModel) -> None:
    rendered = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    prompt = chat_prompt(tiny_llama, conversation(QUESTION))
    assert prompt.tokens == tiny_llama.tokenize(rendered)
    assert not prompt.generated.any()


def test_content_of_a_plain_prompt_is_all_but_its_first_token(tiny_llama: LlamaModel) -> None:
    prompt = plain_prompt(tiny_llama, "the boats")
    assert prompt.tokens == tiny_llama.tokenize("the boats")
    np.testing.assert_array_equal(prompt.content, [False] + [True] * (len(prompt.tokens) - 1))


# ---- which rows are steered ----


class Spy:
    """Notes the commands and the telemetry of every decode of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.commands: list[NDArray[np.void]] = []
        self.before: list[Array] = []
        self.after: list[Array] = []
        self.control: list[Array] = []
        self._engine, self._decode = engine, engine.decode
        engine.decode = self.decode  # type: ignore[method-assign]

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], outputs: Sequence[bool], commands: Any, sequences: Any
    ) -> None:
        self._decode(tokens, positions, outputs, commands, sequences)
        self.commands.append(commands.copy())
        if self._engine.hook is not None:
            for name in ("before", "after", "control"):
                getattr(self, name).append(getattr(self._engine.hook, name).copy())

    @property
    def actions(self) -> list[list[int]]:
        """Of the first controller; one list a decode."""
        return [commands["action"][:, 0].tolist() for commands in self.commands]


@pytest.mark.parametrize(
    ("rows", "strength", "prefill", "token"),
    [
        ("last", 1.0, [OFF, OFF, OFF, OFF, STEER], STEER),
        ("all", 1.0, [STEER] * 5, STEER),
        ("generated", 1.0, [OFF, STEER, STEER, OFF, STEER], STEER),
        ("none", 1.0, [OFF, OFF, OFF, OFF, MEASURE], MEASURE),
        ("none", 0.0, [OFF, OFF, OFF, OFF, MEASURE], MEASURE),
        ("last", 0.0, [OFF] * 5, OFF),
        ("all", 0.0, [OFF] * 5, OFF),
    ],
)
@pytest.mark.parametrize("loop", ["open", "closed"])
def test_rows_that_are_steered(
    engine: Engine, script: Scripting, rows: str, strength: float, prefill: list[int], token: int, loop: str
) -> None:
    """With the loop closed the sensor reads the rest of the prompt, unless strength 0 turns everything off."""
    script("abc")
    spy = Spy(engine)
    generated = np.array([False, True, True, False, False])
    prompt = Prompt([40, 7, 101, 33, 55], np.ones(5, dtype=bool), generated)
    TextStream(engine, prompt, [Steering("tone", strength, rows=rows, loop=loop)], max_tokens=3).run()
    if loop == "closed" and token != OFF:
        prefill = [SENSE if action == OFF else action for action in prefill]
    assert spy.actions == [prefill, [token], [token]]


@pytest.mark.parametrize("batch_tokens", [4, 64])
def test_prompt_in_chunks_gives_the_same_text(
    tiny_llama: LlamaModel, controller: Controller, prompt: Prompt, batch_tokens: int
) -> None:
    texts = []
    for size in (batch_tokens, 512):
        with Engine(tiny_llama, [controller], context_tokens=256, batch_tokens=size) as engine:
            steering = [Steering("tone", 0.8, rows="all")]
            texts.append(TextStream(engine, prompt, steering, GREEDY, 12).run())
    assert texts[0].tokens == texts[1].tokens
    np.testing.assert_allclose(texts[0].steering[0].alpha, texts[1].steering[0].alpha, rtol=1e-2, atol=1e-2)


def test_strength_0_is_the_model_without_a_hook(tiny_llama: LlamaModel, engine: Engine, prompt: Prompt) -> None:
    steered = TextStream(engine, prompt, [Steering("tone", 0.0, rows="all")], Sampling(seed=2), 20).run()
    logits = engine.logits()
    with Engine(tiny_llama, context_tokens=256) as unhooked:
        plain = TextStream(unhooked, prompt, sampling=Sampling(seed=2), max_tokens=20).run()
        np.testing.assert_array_equal(logits, unhooked.logits())
    assert steered.tokens == plain.tokens
    assert steered.steering[0].alpha == []


def test_measuring_does_not_change_the_text(tiny_llama: LlamaModel, engine: Engine, prompt: Prompt) -> None:
    measured = TextStream(engine, prompt, [Steering("tone", 1.0, rows="none")], GREEDY, 10).run()
    with Engine(tiny_llama, context_tokens=256) as unhooked:
        assert TextStream(unhooked, prompt, sampling=GREEDY, max_tokens=10).run().tokens == measured.tokens
    report = measured.steering[0]
    assert len(report.alpha) == 9
    assert report.push == [0.0] * 4
    assert report.alpha_before == report.alpha_after


def test_each_controller_has_its_own_strength(
    tiny_llama: LlamaModel, controller: Controller, prompt: Prompt, make_controller: Callable[..., Controller]
) -> None:
    other = make_controller(4, 32, name="other", seed=1)
    with Engine(tiny_llama, [controller, other], context_tokens=256) as engine:
        spy = Spy(engine)
        steering = [Steering("other", -0.5, loop="open"), Steering("tone", 1.0, loop="open")]
        result = TextStream(engine, prompt, steering, GREEDY, 4).run()
    np.testing.assert_allclose(spy.commands[-1]["level"][0], [1.0, -0.5])
    assert [(r.controller, r.strength) for r in result.steering] == [("other", -0.5), ("tone", 1.0)]
    assert len(result.steering[0].blocks) == 4


def test_controller_that_is_not_asked_for_is_off(
    tiny_llama: LlamaModel, controller: Controller, prompt: Prompt, make_controller: Callable[..., Controller]
) -> None:
    with Engine(tiny_llama, [make_controller(4, 32, name="other", seed=1), controller], context_tokens=256) as engine:
        spy = Spy(engine)
        TextStream(engine, prompt, [Steering("tone", 1.0)], GREEDY, 3).run()
    assert all((commands["action"][:, 0] == OFF).all() for commands in spy.commands)


# ---- the loop across tokens ----


def test_open_loop_has_full_effort(engine: Engine, prompt: Prompt) -> None:
    report = TextStream(engine, prompt, [Steering("tone", 1.0, loop="open")], GREEDY, 6).run().steering[0]
    assert report.effort == [1.0] * 5
    assert len(report.running_mean) == 5
    assert all(math.isnan(mean) for mean in report.running_mean)


def test_controller_without_a_sensor_runs_open(tiny_llama: LlamaModel, controller: Controller, prompt: Prompt) -> None:
    with Engine(tiny_llama, [replace(controller, sensor=None)], context_tokens=256) as engine:
        report = TextStream(engine, prompt, [Steering("tone", 1.0)], GREEDY, 6).run().steering[0]
    assert report.effort == [1.0] * 5
    assert len(report.alpha) == 5


def test_decay_fades_over_tokens(engine: Engine, prompt: Prompt) -> None:
    spy = Spy(engine)
    steering = [Steering("tone", 1.0, loop="decay", decay_tokens=2.0)]
    report = TextStream(engine, prompt, steering, GREEDY, 6).run().steering[0]
    expected = np.exp(-np.arange(5) / 2)
    np.testing.assert_allclose(report.effort, expected)
    np.testing.assert_allclose([commands["effort"][0, 0] for commands in spy.commands[1:]], expected, rtol=1e-6)


def test_closed_loop_follows_its_law(engine: Engine, controller: Controller, prompt: Prompt) -> None:
    """Recomputed from the sensor's readings: prompt mean first, then the running mean of the intrinsic alpha."""
    assert controller.sensor is not None
    target, memory = controller.sensor.target, controller.sensor.memory_tokens
    spy = Spy(engine)
    report = TextStream(engine, prompt, [Steering("tone", 0.5)], GREEDY, 10).run().steering[0]
    start = spy.before[0][4][prompt.content]
    mean = float(start.mean()) * min(1.0, len(start) / memory)  # this sensor reads 0 on neutral text
    assert np.isfinite(start).all()
    for token in range(9):
        assert report.effort[token] == pytest.approx(min(1, max(0, 1 - mean / (0.5 * target))), abs=1e-5)
        command = spy.commands[1 + token][0, 0]
        full = controller.command(0.5)
        assert (command["level"], command["effort"]) == pytest.approx((full.level, full.effort * report.effort[token]))
        push = float(controller.sensor.push @ spy.control[1 + token][:4, 0])
        assert report.alpha[token] == pytest.approx(float(spy.before[1 + token][4, 0]))
        mean += (report.alpha[token] - push - mean) / memory
        assert report.running_mean[token] == pytest.approx(mean, abs=1e-5)
    assert len(set(report.effort)) > 1  # or the law was not put to the test


def test_a_reserve_is_short_from_the_first_token_on_where_the_text_goes_on_with_its_prompt(
    tiny_llama: LlamaModel, controller: Controller
) -> None:
    assert controller.sensor is not None
    words = plain_prompt(tiny_llama, QUESTION)
    answered = replace(words, continued=False)
    sensor = replace(controller.sensor, fade_tokens=8.0, memory_tokens=64.0)
    with Engine(tiny_llama, [replace(controller, sensor=sensor)], context_tokens=256) as engine:
        efforts = [
            TextStream(engine, prompt, [Steering("tone", 0.5)], GREEDY, 2).run().steering[0].effort[0]
            for prompt in (words, answered)
        ]
    need = efforts[1]
    assert 0 < need < 1  # or the reserve was not put to the test
    assert efforts[0] == pytest.approx(need**2)


@pytest.mark.parametrize("law", LAWS)
def test_every_law_steers_a_text_under_the_outer_loop(
    tiny_llama: LlamaModel, make_controller: Callable[..., Controller], prompt: Prompt, law: str
) -> None:
    with Engine(tiny_llama, [make_controller(4, 32, name="tone", law=law)], context_tokens=256) as engine:
        spy = Spy(engine)
        report = TextStream(engine, prompt, [Steering("tone", 0.5)], GREEDY, 6).run().steering[0]
        steered = np.array([np.any(rows[:4, 0] != 0) for rows in spy.control[1:]])
    np.testing.assert_array_equal(steered, np.array(report.effort) > 0)
    assert steered.any()
    assert np.isfinite([*report.alpha, *report.running_mean, *report.push]).all()


def test_negative_strength_of_ablation_is_the_unsteered_model(
    tiny_llama: LlamaModel, make_controller: Callable[..., Controller], prompt: Prompt
) -> None:
    with Engine(tiny_llama, [make_controller(4, 32, name="tone", law="ablate")], context_tokens=256) as engine:
        off, plain = (TextStream(engine, prompt, asked, GREEDY, 6).run() for asked in ([Steering("tone", -1.0)], []))
    assert off.tokens == plain.tokens
    assert not any(off.steering[0].push)


def test_telemetry_sums_up_what_the_hook_measured(engine: Engine, controller: Controller, prompt: Prompt) -> None:
    spy = Spy(engine)
    report = TextStream(engine, prompt, [Steering("tone", 1.0, loop="open")], GREEDY, 6).run().steering[0]
    before, after = (np.array([rows[:4, 0] for rows in each[1:]]) for each in (spy.before, spy.after))
    control = np.array([rows[:4, 0] for rows in spy.control[1:]])
    np.testing.assert_allclose(report.setpoint, controller.rest + controller.span, rtol=1e-6)
    np.testing.assert_allclose(report.alpha_before, before.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(report.alpha_after, after.mean(axis=0), rtol=1e-5)
    norms = np.linalg.norm(controller.gain, axis=1)
    np.testing.assert_allclose(report.push, np.abs(control).mean(axis=0) * norms, rtol=1e-5)


@pytest.mark.llama
@pytest.mark.slow
@pytest.mark.parametrize("strength", [1.0, -1.0])
def test_loop_closes_at_every_steered_block(smollm2_llama: LlamaModel, smollm2_sidecar: Path, strength: float) -> None:
    """|alpha* - alpha| after control is below before: at every token where it was not 0 already, at every block."""
    (controller,) = read_sidecar(smollm2_sidecar).controllers.values()
    with Engine(smollm2_llama, [controller], context_tokens=512) as engine:
        spy = Spy(engine)
        steering = [Steering(controller.name, strength, mode="hold", loop="open")]
        prompt = chat_prompt(smollm2_llama, conversation("What should I do this weekend?"))
        report = TextStream(engine, prompt, steering, GREEDY, 20).run().steering[0]
    m = len(controller.blocks)
    setpoint = (controller.rest + controller.command(strength).level * controller.span)[:, None]
    before, after = (np.hstack([rows[:m, -1:] for rows in each]) for each in (spy.before, spy.after))
    errors_before, errors_after = abs(setpoint - before), abs(setpoint - after)
    assert (errors_after < errors_before).all()
    assert report.error_after < report.error_before


# ---- bad input ----


def test_empty_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match="the prompt is empty"):
        TextStream(engine, Prompt([], np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)))


@pytest.mark.parametrize("length", [256, 300])
def test_prompt_longer_than_the_context_is_refused(engine: Engine, length: int) -> None:
    prompt = Prompt([40] * length, np.ones(length, dtype=bool), np.zeros(length, dtype=bool))
    with pytest.raises(EngineError, match=f"longer than the context; expected < 256 tokens; found {length} tokens"):
        TextStream(engine, prompt)


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_no_tokens_are_refused(engine: Engine, prompt: Prompt, max_tokens: int) -> None:
    with pytest.raises(EngineError, match="no tokens are asked for"):
        TextStream(engine, prompt, max_tokens=max_tokens)


def test_unknown_controller_is_refused(engine: Engine, prompt: Prompt) -> None:
    with pytest.raises(SteeringError, match="no such controller; expected tone; found volume"):
        TextStream(engine, prompt, [Steering("volume", 1.0)])


def test_unknown_mode_is_refused(engine: Engine, prompt: Prompt) -> None:
    with pytest.raises(SteeringError, match="unknown mode"):
        TextStream(engine, prompt, [Steering("tone", 1.0, mode="sideways")])


def test_strength_that_is_no_number_is_refused(engine: Engine, prompt: Prompt) -> None:
    with pytest.raises(SteeringError, match="strength is not a finite number"):
        TextStream(engine, prompt, [Steering("tone", math.nan)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": "first"}, "tone: unknown rows; expected last or all or generated or none; found first"),
        ({"loop": "half"}, "tone: unknown loop; expected closed or open or decay; found half"),
        ({"decay_tokens": 0.0}, "tone: decay must be positive; found 0"),
        ({"decay_tokens": math.nan}, "tone: decay must be positive; found nan"),
    ],
)
def test_requests_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        Steering("tone", 1.0, **wrong)


@pytest.mark.parametrize("strength", [-1.5, 2.5])
def test_strength_outside_the_safe_range_warns_and_says_the_range(
    tiny_llama: LlamaModel, controller: Controller, prompt: Prompt, strength: float
) -> None:
    with (
        Engine(tiny_llama, [replace(controller, safe_range=(-1.0, 2.0))], context_tokens=256) as engine,
        pytest.warns(SafeRangeWarning, match=f"tone: strength {strength:g} is outside the safe range -1 to 2"),
    ):
        TextStream(engine, prompt, [Steering("tone", strength)])


@pytest.mark.parametrize("strength", [-1.0, 0.0, 2.0])
def test_ends_of_the_safe_range_are_inside(
    tiny_llama: LlamaModel, controller: Controller, prompt: Prompt, strength: float
) -> None:
    with Engine(tiny_llama, [replace(controller, safe_range=(-1.0, 2.0))], context_tokens=256) as engine:
        TextStream(engine, prompt, [Steering("tone", strength)])


def test_a_text_is_generated_once(tiny_llama: LlamaModel) -> None:
    with Engine(tiny_llama) as engine:
        stream = TextStream(engine, plain_prompt(tiny_llama, "on the"), max_tokens=2)
        first = stream.run()
        with pytest.raises(EngineError, match="this text has been generated"):
            stream.run()
    assert stream.result.tokens == first.tokens
