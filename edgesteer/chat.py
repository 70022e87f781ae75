"""Chat templates: turn messages into the one text that the model was trained to see.

The exporter and the runtime both render here, so the texts that a controller is made from and the texts that it steers
have the same form. Knows nothing of tokenizers; templates are untrusted input and run in Jinja's sandbox.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgesteer.errors import ModelError

Message = dict[str, str]

MARKER = "\N{OBJECT REPLACEMENT CHARACTER}{}\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for a message's words, to find where a template puts them: the words may also be part of the template."""
MARKED = re.compile(MARKER.format(r"(\d+)"))


@dataclass(frozen=True)
class ChatTemplate:
    """A model's Jinja chat template with the special tokens that it may print.

    source: the template's text, or None for a model without one (then only plain text can be rendered).
    adds_bos: whether the tokenizer puts the BOS token before every text by itself; a BOS that the template prints is
    then removed, so that there is never a second one.
    """

    source: str | None
    bos: str
    eos: str
    adds_bos: bool

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Return the text of a conversation, ready to be tokenized with special tokens parsed.

        messages: dicts with keys role and content. Raises ModelError when there is no template or it fails; a template
        that refuses a system message gets it merged into the first user message instead.
        """
        if self.source is None:
            raise ModelError("the model has no chat template", remedy="Use plain text (--raw) with this model.")
        try:
            text = self._render(self.source, messages, add_generation_prompt)
        except Exception as error:  # a template is a program: it raises what Python raises
            if messages and messages[0]["role"] == "system":
                return self.render(merge_system(messages), add_generation_prompt=add_generation_prompt)
            raise ModelError("the chat template cannot render these messages", found=error) from error
        return text.removeprefix(self.bos) if self.adds_bos and self.bos else text

    def render_turn(self, prompt: str, system: str = "") -> tuple[str, str, str]:
        """Return the text of a single user turn in parts: what comes before the user's words, they, and the rest.

        Raises ModelError as `render` does.
        """
        text, spans = self.render_spans(conversation(prompt, system))
        start, end = spans[-1]
        return text[:start], text[start:end], text[end:]

    def render_spans(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """Return the text of a conversation, and where in it each message's words begin and end.

        A message that the template leaves out has an empty span at the end. Raises ModelError as `render` does.
        """
        text = self.render(messages)
        marked = self.render([dict(each, content=MARKER.format(number)) for number, each in enumerate(messages)])
        first, *rest = MARKED.split(marked)
        spans = [(len(text), len(text))] * len(messages)
        at = len(first)
        for number, following in zip(map(int, rest[::2]), rest[1::2], strict=True):
            end = _end_of_words(text, at, messages[number]["content"], following)
            spans[number] = (at, end)
            at = end + len(following)
        return text, spans

    def _render(self, source: str, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        context: dict[str, Any] = {
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos,
            "eos_token": self.eos,
        }
        return _compile(source).render(context)


@functools.lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def merge_system(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with a leading system message put in front of the first user message."""
    system, first, *rest = messages
    return [{"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def conversation(prompt: str, system: str = "") -> list[Message]:
    """Return the messages of a single user turn, with a system turn before it when there is one."""
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": prompt}]


def _end_of_words(text: str, start: int, words: str, following: str) -> int:
    """Return where a message's words end, which begin at start; the template may have trimmed or changed them."""
    if not following:
        return len(text)
    for candidate in (words, words.strip()):
        if text.startswith(candidate + following, start):
            return start + len(candidate)
    found = text.find(following, start)
    return found if found >= 0 else len(text)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
