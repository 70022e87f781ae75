"""Generate text from one prompt under steering: prefill, then one token at a time with the outer loop between tokens.

Knows the engine, the sampler and the dial; knows no files and no terminal.
"""

from __future__ import annotations

import codecs
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgesteer.control.outer_loop import Decay, Effort, FullEffort, OuterLoop
from edgesteer.controller import Array, Command, Controller
from edgesteer.errors import EngineError, SafeRangeWarning, SteeringError
from edgesteer.runtime.engine import Commands, Engine
from edgesteer.runtime.hook import MEASURE, OFF, SENSE, STEER, phi_code
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.sampling import Sampler, Sampling
from edgesteer.runtime.telemetry import SteeringReport, Trace

ROWS = ("last", "all", "generated", "none")
LOOPS = ("closed", "open", "decay")


@dataclass(frozen=True)
class Steering:
    """What a request asks of one controller.

    strength: the dial; 0 = off, 1 = the calibrated setting. mode: None = the controller's own.
    rows: which rows of the batch are steered. `last`: the prompt's last token and every generated one; `all`: the whole
    prompt too; `generated`: as `last`, and tokens of earlier answers when they are prefilled again; `none`: none, alpha
    is measured only.
    loop: across tokens, `closed` (outer loop, if the controller has a sensor), `open` or `decay` (with decay_tokens).
    """

    controller: str
    strength: float
    mode: str | None = None
    rows: str = "last"
    loop: str = "closed"
    decay_tokens: float = 8.0

    def __post_init__(self) -> None:
        for value, allowed, what in ((self.rows, ROWS, "rows"), (self.loop, LOOPS, "loop")):
            if value not in allowed:
                raise SteeringError(
                    f"unknown {what}", where=self.controller, expected=" or ".join(allowed), found=value
                )
        if not self.decay_tokens > 0:
            raise SteeringError("decay must be positive", where=self.controller, found=self.decay_tokens)


@dataclass(frozen=True)
class Prompt:
    """Tokens of a prompt. content: which of them are the user's own words (they start the outer loop's mean).

    generated: which of them the model wrote in an earlier turn.
    """

    tokens: list[int]
    content: NDArray[np.bool_]
    generated: NDArray[np.bool_]


def plain_prompt(model: LlamaModel, text: str) -> Prompt:
    """Return the prompt of a text that the model continues, without a chat template."""
    tokens = model.tokenize(text)
    content = np.arange(len(tokens)) > 0  # the first token reads far from all others, whatever it is
    return Prompt(tokens, content, np.zeros(len(tokens), dtype=bool))


def chat_prompt(model: LlamaModel, text: str, system: str = "") -> Prompt:
    """Return the prompt of a single user turn in the model's chat template."""
    before, words, after = model.chat.render_turn(text, system)
    tokens = model.tokenize(before + words + after)
    start = len(model.tokenize(before))
    end = len(tokens) - len(model.tokenize(after, add_special=False))
    row = np.arange(len(tokens))
    return Prompt(tokens, (row >= start) & (row < end), np.zeros(len(tokens), dtype=bool))


@dataclass(frozen=True)
class Timings:
    """Wall-clock times, named as llama.cpp's server names them."""

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float

    @property
    def predicted_per_second(self) -> float:
        return 1000 * self.predicted_n / self.predicted_ms if self.predicted_ms else 0.0

    @property
    def prompt_per_second(self) -> float:
        return 1000 * self.prompt_n / self.prompt_ms if self.prompt_ms else 0.0


@dataclass(frozen=True)
class Generation:
    """A finished text. stop_reason: `end` (the model ended it), `length`, `stop` (a stop string) or `context`."""

    text: str
    tokens: list[int]
    stop_reason: str
    timings: Timings
    steering: list[SteeringReport]


@dataclass
class _Loop:
    """One controller under one request: its dial, its outer loop and its trace."""

    steering: Steering
    controller: Controller
    command: Command
    effort: Effort
    trace: Trace

    def row(self, action: int) -> tuple[float, float, int, int]:
        return (
            self.command.level,
            self.command.effort * self.effort.effort(),
            action,
            phi_code(self.command.mode),
        )

    @property
    def action(self) -> int:
        """What a steered row asks for; strength 0 asks for nothing, so that it is exactly the unsteered model."""
        if self.steering.rows == "none":
            return MEASURE
        return STEER if self.steering.strength else OFF


@dataclass
class TextStream:
    """Generates one text; iterate once for its pieces, then read .result, which breaking off leaves valid.

    Raises EngineError when the prompt is empty or does not fit, SteeringError for an unknown controller. Warns with
    SafeRangeWarning when a strength lies outside the controller's safe range.
    """

    engine: Engine
    prompt: Prompt
    steering: Sequence[Steering] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        room = self.engine.context_tokens - len(self.prompt.tokens)
        if not self.prompt.tokens:
            raise EngineError("the prompt is empty", remedy="Give at least one token.")
        if self.max_tokens < 1:
            raise EngineError("no tokens are asked for", expected="at least 1", found=self.max_tokens)
        if room < 1:
            raise EngineError(
                "the prompt is longer than the context",
                expected=f"< {self.engine.context_tokens} tokens",
                found=f"{len(self.prompt.tokens)} tokens",
                remedy="Use a larger --ctx-size.",
            )
        self._loops = self._make_loops()
        self._began = False
        self._tokens: list[int] = []
        self._text = ""
        self._stop_reason = "length"
        self._prompt_ms = self._predicted_ms = 0.0

    @property
    def result(self) -> Generation:
        timings = Timings(len(self.prompt.tokens), self._prompt_ms, len(self._tokens), self._predicted_ms)
        reports = [loop.trace.report(loop.steering.strength) for loop in self._loops.values()]
        return Generation(self._text, self._tokens, self._stop_reason, timings, reports)

    def __iter__(self) -> Iterator[str]:
        if self._began:
            raise EngineError("this text has been generated", remedy="Make another TextStream for another text.")
        self._began = True
        self.engine.forget(0)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        held = ""
        with Sampler(self.sampling, self.engine.model.n_tokens) as sampler:
            started = time.perf_counter()
            self._prefill()
            for token in self._decode_tokens(sampler, started):
                held += decoder.decode(self.engine.model.piece(token))
                piece, held, stopped = split_at_stop(held, self.stop)
                if piece:
                    self._text += piece
                    yield piece
                if stopped:
                    self._stop_reason = "stop"
                    return
            held += decoder.decode(b"", final=True)
            if held:
                self._text += held
                yield held

    def run(self) -> Generation:
        """Generate to the end and return the result."""
        for _ in self:
            pass
        return self.result

    def _make_loops(self) -> dict[int, _Loop]:
        names = [c.name for c in self.engine.controllers]
        loops = {}
        for steering in self.steering:
            if steering.controller not in names:
                raise SteeringError(
                    "no such controller",
                    found=steering.controller,
                    expected=" or ".join(names) or "a loaded sidecar",
                )
            index = names.index(steering.controller)
            controller = self.engine.controllers[index]
            command = controller.command(steering.strength, steering.mode)
            warn_outside_safe_range(controller, steering.strength)
            sites = [i for i, site in enumerate(self.engine.sites) if site.controller == index]
            loops[index] = _Loop(
                steering,
                controller,
                command,
                make_effort(controller, steering),
                Trace(controller, command, sites),
            )
        return loops

    def _prefill(self) -> None:
        """Run the prompt in chunks, and let each outer loop start from what it reads over the prompt's words."""
        tokens, engine = self.prompt.tokens, self.engine
        commands = self._prompt_commands()
        readings: dict[int, list[Array]] = {index: [] for index in self._loops}
        for start in range(0, len(tokens), engine.batch_tokens):
            chunk = range(start, min(start + engine.batch_tokens, len(tokens)))
            outputs = [row == len(tokens) - 1 for row in chunk]
            engine.decode(tokens[chunk.start : chunk.stop], chunk, outputs, commands[chunk.start : chunk.stop])
            for index, loop in self._loops.items():
                if loop.trace.sensor_site is not None and engine.hook is not None:
                    readings[index].append(engine.hook.before[loop.trace.sensor_site, : len(chunk)].copy())
        for index, loop in self._loops.items():
            if isinstance(loop.effort, OuterLoop):
                loop.effort.start(np.concatenate(readings[index])[self.prompt.content])

    def _prompt_commands(self) -> Commands:
        tokens = self.prompt.tokens
        commands = self.engine.idle(len(tokens))
        for index, loop in self._loops.items():
            if loop.action == OFF:
                continue
            commands["action"][:, index] = SENSE if isinstance(loop.effort, OuterLoop) else OFF
            steered = np.zeros(len(tokens), dtype=bool)
            steered[-1] = True
            if loop.steering.rows == "all":
                steered[:] = True
            elif loop.steering.rows == "generated":
                steered |= self.prompt.generated
            commands[steered, index] = loop.row(loop.action)
        return commands

    def _decode_tokens(self, sampler: Sampler, started: float) -> Iterator[int]:
        position = len(self.prompt.tokens)
        command = self.engine.idle(1)
        while True:
            token = sampler.sample(self.engine.context)
            now = time.perf_counter()
            if not self._tokens:
                self._prompt_ms = (now - started) * 1000
                started = now
            self._predicted_ms = (now - started) * 1000
            if self.engine.model.ends_generation(token):
                self._stop_reason = "end"
                return
            self._tokens.append(token)
            yield token
            if len(self._tokens) >= self.max_tokens:
                return
            if position >= self.engine.context_tokens:
                self._stop_reason = "context"
                return
            for index, loop in self._loops.items():
                command[0, index] = loop.row(loop.action)
            self.engine.decode([token], [position], [True], command)
            self._observe()
            position += 1

    def _observe(self) -> None:
        hook = self.engine.hook
        if hook is None:
            return
        for loop in self._loops.values():
            if loop.action == OFF:
                continue
            effort = loop.effort.effort()
            alpha, control = loop.trace.take(hook.before[:, 0], hook.after[:, 0], hook.control[:, 0])
            loop.effort.observe(alpha, control)
            mean = loop.effort.mean if isinstance(loop.effort, OuterLoop) else float("nan")
            loop.trace.note(effort, mean)


def make_effort(controller: Controller, steering: Steering) -> Effort:
    """Return the outer loop that a request asks for."""
    if steering.loop == "decay":
        return Decay(steering.decay_tokens)
    if steering.loop == "closed" and controller.sensor is not None:
        return OuterLoop(controller.sensor, steering.strength)
    return FullEffort()


def warn_outside_safe_range(controller: Controller, strength: float) -> None:
    """Warn with SafeRangeWarning when the strength lies outside the controller's safe range."""
    low, high = controller.safe_range
    if not low <= strength <= high:
        warnings.warn(
            f"{controller.name}: strength {strength:g} is outside the safe range {low:g} to {high:g}; "
            "the text may break",
            SafeRangeWarning,
            stacklevel=3,
        )


def split_at_stop(text: str, stops: Sequence[str]) -> tuple[str, str, bool]:
    """Return (text that can be shown, text held back, whether a stop string was found).

    Held back is the longest end of the text that a stop string may begin with.
    """
    found = [text.find(stop) for stop in stops if stop in text]
    if found:
        return text[: min(found)], "", True
    held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
    return text[: len(text) - held], text[len(text) - held :], False
