"""A conversation with a model: its turns, the dial of each controller, and the answers. Knows no terminal."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgesteer.chat import Message
from edgesteer.cli.interrupt import interrupt_later
from edgesteer.controller import Controller
from edgesteer.errors import EdgeSteerError, EngineError, SteeringError

if TYPE_CHECKING:
    from edgesteer.runtime.batch import Batch
    from edgesteer.runtime.request import Prompt, Request, Steering
    from edgesteer.runtime.sampling import Sampling
    from edgesteer.runtime.sequence import Generation, Piece
    from edgesteer.runtime.telemetry import Reading

ANSWER_SHARE = 4
"""A prompt leaves at least one part in so many of the context to the answer."""


@dataclass
class Token:
    """What a token shows, and what each controller's loop measured at it (nothing at the last one)."""

    text: str
    readings: dict[str, Reading] = field(default_factory=dict)


class Answer:
    """One answer: iterate `pieces` for its text as it comes; breaking off leaves what there is."""

    def __init__(self, batch: Batch, request: Request) -> None:
        self.request = request
        self.tokens: list[Token] = []
        self.result: Generation | None = None
        """None until the answer has ended."""
        self._batch = batch

    @property
    def text(self) -> str:
        return self.result.text if self.result is not None else ""

    def pieces(self) -> Generator[str, None, None]:
        """Yield the text as it comes. Ctrl-C takes effect between two decodes. Raises EdgeSteerError."""
        sequence = None
        try:
            with interrupt_later():
                sequence = self._batch.submit(self.request)
            while not sequence.done:
                with interrupt_later():
                    events = self._batch.step()
                for _, event in events:
                    if isinstance(event, EdgeSteerError):
                        raise event
                    self._take(event)
                    yield event.text
        finally:
            if sequence is not None:
                self._batch.cancel(sequence)
                self.result = sequence.result

    def reading(self, controller: str) -> Reading | None:
        """Return the last thing that was measured of a controller."""
        found = (token.readings[controller] for token in reversed(self.tokens) if controller in token.readings)
        return next(found, None)

    def _take(self, piece: Piece) -> None:
        if self.tokens:  # what was measured at a token comes with the next one
            self.tokens[-1].readings.update(piece.readings)
        if piece.token is not None or piece.text:
            self.tokens.append(Token(piece.text))


@dataclass
class Turn:
    """What the user said and what the model answered. answer: None where only its text is known, from a file."""

    user: str
    text: str = ""
    answer: Answer | None = None
    attempt: int = 0


class Conversation:
    """The turns so far, and what the next answer is asked for with.

    dials: what is asked of each controller, by its name. limit: most tokens of an answer, None: until it ends.
    """

    def __init__(
        self,
        batch: Batch,
        dials: Sequence[Steering],
        sampling: Sampling,
        *,
        system: str = "",
        limit: int | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        self.batch = batch
        self.controllers: dict[str, Controller] = {each.name: each for each in batch.controllers}
        self.dials = {each.controller: each for each in dials}
        self.system = system
        self.turns: list[Turn] = []
        self.left_out = 0
        """The oldest turns, which the context no longer holds."""
        self._sampling = sampling
        self._limit = limit
        self._stop = stop

    # ---- turns ----

    def ask(self, text: str) -> Answer:
        """Add a turn. Raises EdgeSteerError when it does not fit in the context, and adds nothing."""
        return self._begin(Turn(text))

    def retry(self) -> Answer:
        """Answer the last message again, by another seed. Raises EdgeSteerError when there is none."""
        last = self.last
        self.turns.pop()
        try:
            return self._begin(Turn(last.user, attempt=last.attempt + 1))
        except EdgeSteerError:
            self.turns.append(last)
            raise

    def settle(self) -> None:
        """Keep the last turn as far as it was answered; take it back if it was not answered at all."""
        turn = self.last
        turn.text = turn.answer.text if turn.answer is not None else turn.text
        if not turn.text:
            self.undo()

    def unsteered(self) -> Answer:
        """Return the last answer anew, by the same seed and without control; what the loops would see is measured.

        Raises SteeringError when the last answer was not steered.
        """
        answer = self.last.answer
        if answer is None or not any(each.strength for each in answer.request.steering):
            raise SteeringError("the last answer was not steered", remedy="Set a strength, and /retry.")
        measured = [replace(each, rows="none") for each in answer.request.steering]
        return Answer(self.batch, replace(answer.request, steering=measured))

    def undo(self) -> None:
        """Take the last turn back. Raises EdgeSteerError when there is none."""
        self._require_turn()
        self.turns.pop()
        self.left_out = min(self.left_out, len(self.turns))

    def clear(self) -> None:
        """Take all turns back; the system message and the dials stay."""
        self.turns.clear()
        self.left_out = 0

    @property
    def last(self) -> Turn:
        """The last turn. Raises EdgeSteerError when there is none."""
        self._require_turn()
        return self.turns[-1]

    def _require_turn(self) -> None:
        if not self.turns:
            raise EdgeSteerError("there is no message yet", remedy="Write one first.")

    # ---- dials ----

    def find(self, name: str) -> Controller:
        """Return the controller of this name, or the only one whose name begins so. Raises SteeringError."""
        found = [name] if name in self.controllers else [each for each in self.controllers if each.startswith(name)]
        if len(found) != 1:
            what = "several controllers are meant" if found else "no such controller"
            expected = " or ".join(found or self.controllers) or "one that --steer loaded"
            raise SteeringError(what, where=name, expected=expected)
        return self.controllers[found[0]]

    def set_strength(self, controller: Controller, strength: float) -> None:
        """Turn a dial; it holds from the next answer on. Raises SteeringError for a strength that is not finite."""
        dial = self.dials[controller.name]
        controller.command(strength, dial.mode)
        self.dials[controller.name] = replace(dial, strength=strength)

    def reading(self, name: str) -> Reading | None:
        """Return what was measured last of a controller, in the last answer."""
        answer = self.turns[-1].answer if self.turns else None
        return answer.reading(name) if answer is not None else None

    # ---- prompts ----

    def messages(self) -> list[Message]:
        """Return the messages that the model sees next: without the turns that were left out."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns[self.left_out :]:
            messages.append({"role": "user", "content": turn.user})
            if turn.text:
                messages.append({"role": "assistant", "content": turn.text})
        return messages

    def _begin(self, turn: Turn) -> Answer:
        from edgesteer.runtime.request import Request

        self.turns.append(turn)
        try:
            prompt = self._fitting_prompt()
            sampling = self._sampling
            if sampling.seed >= 0:
                sampling = replace(sampling, seed=sampling.seed + turn.attempt)
            request = Request(prompt, list(self.dials.values()), sampling, self._limit, self._stop)
        except EdgeSteerError:
            self.turns.pop()
            raise
        turn.answer = Answer(self.batch, request)
        return turn.answer

    def _fitting_prompt(self) -> Prompt:
        """Return the prompt; leave out the oldest turns if it is too long, and then enough for some more to come."""
        from edgesteer.runtime.request import chat_prompt

        model, context = self.batch.engine.model, self.batch.engine.context_tokens
        room = context - context // ANSWER_SHARE
        prompt, left_out = chat_prompt(model, self.messages()), self.left_out
        if len(prompt.tokens) <= room:
            return prompt
        while len(prompt.tokens) > context // 2 and self.left_out < len(self.turns) - 1:
            self.left_out += 1
            prompt = chat_prompt(model, self.messages())
        if len(prompt.tokens) > room:
            self.left_out = left_out
            raise EngineError(
                "the message is too long for the context",
                expected=f"at most {room} tokens",
                found=f"{len(prompt.tokens)} tokens",
                remedy="Shorten it, or use a larger --ctx-size.",
            )
        return prompt
