"""SteeredModel: the Python API. A local model with dials on it; blocking, for one thread.

    model = SteeredModel("smollm2", steer={"warm.gguf": 0.8})
    print(model.chat("My train was late again.").text)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from pathlib import Path
from typing import Literal, overload

from edgesteer.chat import Message, conversation
from edgesteer.controller import Controller
from edgesteer.errors import EdgeSteerError, SteeringError
from edgesteer.registry import resolve_model
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.generate import warn_outside_safe_range
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Prompt, Request, Steering, chat_prompt, plain_prompt
from edgesteer.runtime.sampling import Sampling
from edgesteer.runtime.sequence import Generation, Piece, Sequence
from edgesteer.steering_file import pick_controller, read_steering, split_name, unused_name

Dials = Mapping[str, float | Steering]
"""Strengths by controller name; a Steering says more than a strength."""
Messages = str | SequenceOf[Message]


class SteeredModel:
    """A model and its controllers. Use as a context manager, or call close().

    model: a GGUF file, or a name that `edgesteer models list` shows. steer: sidecars or control vectors (FILE or
    FILE#NAME) and their strengths. context_tokens: shared by `parallel` texts at once; None = 2048 for each. threads:
    as llama.cpp has it. n_gpu_layers, rpc, device, tensor_split: which blocks run where, as in LlamaModel.
    Raises ModelError, SidecarError, FingerprintError (the sidecar belongs to another model) and EngineError.
    """

    def __init__(
        self,
        model: str | Path,
        steer: Mapping[str | Path, float] | None = None,
        *,
        context_tokens: int | None = None,
        batch_tokens: int = 512,
        parallel: int = 1,
        threads: int | None = None,
        n_gpu_layers: int = 0,
        rpc: SequenceOf[str] = (),
        device: SequenceOf[str] = (),
        tensor_split: SequenceOf[float] = (),
    ) -> None:
        self._model = LlamaModel(
            resolve_model(str(model)), n_gpu_layers=n_gpu_layers, rpc=rpc, device=device, tensor_split=tensor_split
        )
        self.strengths: dict[str, float] = {}
        """The dials, by controller name; set one, and it holds from the next text on. 0 = off, 1 = calibrated."""
        try:
            engine = Engine(
                self._model,
                context_tokens=context_tokens,
                batch_tokens=batch_tokens,
                n_sequences=parallel,
                threads=threads,
                reloadable=True,
            )
        except EdgeSteerError:
            self._model.close()
            raise
        self._batch = Batch(engine)
        try:
            for file, strength in (steer or {}).items():
                self.load(file, strength)
        except EdgeSteerError:
            self.close()
            raise

    # ---- dials ----

    @property
    def controllers(self) -> dict[str, Controller]:
        """The loaded controllers, by name."""
        return {each.name: each for each in self._batch.controllers}

    def load(self, file: str | Path, strength: float = 0.0, name: str | None = None) -> str:
        """Add a dial from a sidecar or control vector (FILE or FILE#NAME); return its name.

        name: None = the controller's own, with a number where it is taken.
        """
        path, inside = split_name(str(file))
        controller = pick_controller(read_steering(path, self._model.fingerprint).controllers, inside, path)
        chosen = name or unused_name(controller.name, list(self.controllers))
        self._batch.load(replace(controller, name=chosen))
        self.strengths[chosen] = strength
        return chosen

    def unload(self, name: str) -> None:
        """Remove a dial. Raises SteeringError for an unknown name."""
        self._batch.unload(name)
        del self.strengths[name]

    # ---- texts ----

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        stream: Literal[False] = False,
        steer: Dials | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: SequenceOf[str] = (),
    ) -> Generation: ...

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        stream: Literal[True],
        steer: Dials | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: SequenceOf[str] = (),
    ) -> Iterator[str]: ...

    def chat(
        self,
        messages: Messages,
        *,
        stream: bool = False,
        steer: Dials | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: SequenceOf[str] = (),
    ) -> Generation | Iterator[str]:
        """Answer a conversation in the model's chat template.

        messages: dicts with role and content, or one user message. stream: yield the text as it comes, instead of
        returning the Generation at the end; closing the iterator ends the text. steer: dials for this text alone, by
        controller name; those that are not named keep their strength. max_tokens: None = until the model ends the text
        or the context is full.
        Raises ModelError for a model without a chat template, EngineError for a prompt longer than the context,
        SteeringError for an unknown controller.
        """
        request = self._request(self._chat_prompt(messages), steer, sampling, max_tokens, stop)
        return self._texts(request) if stream else self._last(request)

    def complete(
        self,
        text: str,
        *,
        steer: Dials | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: SequenceOf[str] = (),
    ) -> Generation:
        """Continue a text as it is, without a chat template; otherwise as `chat`."""
        return self._last(self._request(plain_prompt(self._model, text), steer, sampling, max_tokens, stop))

    def pieces(
        self,
        messages: Messages,
        *,
        steer: Dials | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: SequenceOf[str] = (),
        logprobs: int | None = None,
    ) -> Iterator[Piece]:
        """As `chat` with stream, with all that is known of each token: readings of the loops, log probabilities."""
        request = self._request(self._chat_prompt(messages), steer, sampling, max_tokens, stop, logprobs)
        return self._batch.stream(request)

    def chat_all(
        self,
        conversations: Iterable[Messages],
        *,
        steer: Dials | Iterable[Dials] | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: SequenceOf[str] = (),
    ) -> list[Generation]:
        """Answer many conversations, `parallel` at a time in one batch; the answers come in their order.

        steer: as in `chat` for all of them, or one for each.
        """
        prompts = [self._chat_prompt(each) for each in conversations]
        dials = [steer] * len(prompts) if steer is None or isinstance(steer, Mapping) else list(steer)
        requests = [
            self._request(prompt, each, sampling, max_tokens, stop) for prompt, each in zip(prompts, dials, strict=True)
        ]
        return self._all(requests)

    def close(self) -> None:
        """Free the context and the weights."""
        self._batch.engine.close()
        self._model.close()

    def __enter__(self) -> SteeredModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chat_prompt(self, messages: Messages) -> Prompt:
        return chat_prompt(self._model, conversation(messages) if isinstance(messages, str) else messages)

    def _request(
        self,
        prompt: Prompt,
        steer: Dials | None,
        sampling: Sampling | None,
        max_tokens: int | None,
        stop: SequenceOf[str],
        logprobs: int | None = None,
    ) -> Request:
        dials: dict[str, float | Steering] = {**self.strengths, **(steer or {})}
        steering = [each if isinstance(each, Steering) else Steering(name, each) for name, each in dials.items()]
        self._check(steering)
        return Request(prompt, steering, sampling or Sampling(), max_tokens, tuple(stop), logprobs)

    def _check(self, steering: SequenceOf[Steering]) -> None:
        for each in steering:
            controller = self.controllers.get(each.controller)
            if controller is None:
                names = " or ".join(self.controllers) or "a loaded sidecar"
                raise SteeringError("no such controller", found=each.controller, expected=names)
            warn_outside_safe_range(controller, each.strength)

    def _texts(self, request: Request) -> Iterator[str]:
        for piece in self._batch.stream(request):
            if piece.text:
                yield piece.text

    def _last(self, request: Request) -> Generation:
        return self._all([request])[0]

    def _all(self, requests: SequenceOf[Request]) -> list[Generation]:
        sequences: list[Sequence] = []
        try:
            sequences += [self._batch.submit(request) for request in requests]
            while self._batch.busy:
                for _, event in self._batch.step():
                    if isinstance(event, EdgeSteerError):
                        raise event
        finally:
            for sequence in sequences:
                self._batch.cancel(sequence)
        return [sequence.result for sequence in sequences]
