"""Where a chat's messages come from: a terminal, with editing and history, or the lines of a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgesteer.cli.request import STANDARD_INPUT, require_utf8

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

CONTINUED = "\\"
"""At the end of a line: the message goes on in the next one."""


class Source(Protocol):
    """Gives one message after the other."""

    @property
    def interactive(self) -> bool: ...

    def read(self) -> str:
        """Return the next message. Raises EOFError at the end, KeyboardInterrupt for Ctrl-C, EdgeSteerError."""
        ...


def choose_source(words: Callable[[], Sequence[str]], status: Callable[[], str]) -> Source:
    """Return the terminal, or standard input where either end is none. words: to complete; status: a line below."""
    return Terminal(words, status) if sys.stdin.isatty() and sys.stdout.isatty() else Pipe()


class Pipe:
    """Messages from the lines of standard input."""

    interactive = False

    def read(self) -> str:
        message = self._line()
        if message is None:
            raise EOFError
        while message.endswith(CONTINUED):
            message = f"{message.removesuffix(CONTINUED)}\n{self._line() or ''}"
        return require_utf8(message, STANDARD_INPUT)

    def _line(self) -> str | None:
        data = sys.stdin.buffer.readline()
        return data.decode("utf-8", "surrogateescape").rstrip("\r\n") if data else None


class Terminal:
    """Messages that are typed: Enter sends, Alt+Enter and a backslash before Enter begin a new line."""

    interactive = True

    def __init__(self, words: Callable[[], Sequence[str]], status: Callable[[], str]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter

        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            history=open_history(state_folder() / "chat_history"),
            completer=WordCompleter(lambda: list(words()), sentence=True),
            key_bindings=key_bindings(),
            bottom_toolbar=status,
        )

    def read(self) -> str:
        return require_utf8(self._session.prompt(), "the message")


def key_bindings() -> KeyBindings:
    """Return what Enter, Alt+Enter and Ctrl-C do, in a message of several lines too."""
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith(CONTINUED):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c")
    @bindings.add("<sigint>")
    def interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return bindings


def open_history(path: Path) -> History:
    """Return the messages of earlier chats, which only their user may read; none where they cannot be kept."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def state_folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "edgesteer"
