"""Typing in a chat: single keys on prompt_toolkit's own test input, and whole chats in a pseudo-terminal."""

from __future__ import annotations

import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from edgesteer.cli.chat_input import Terminal, open_history
from edgesteer.errors import EdgeSteerError

CTRL_C, CTRL_D, ENTER, ALT_ENTER, UP = "\x03", "\x04", "\r", "\x1b\r", "\x1b[A"

Typist = Callable[[str], str]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "edgesteer" / "chat_history"


@pytest.fixture
def type_keys(state: Path) -> Iterator[Typist]:
    """Return a function that types some keys and returns the message that was read."""
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        terminal = Terminal(lambda: ["/steer warm"], lambda: "status")

        def type_keys(text: str) -> str:
            keys.send_bytes(text.encode("utf-8", "surrogateescape"))
            return terminal.read()

        yield type_keys


# ---- keys ----


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (f"one{ENTER}", "one"),
        (f"one{ALT_ENTER}two{ENTER}", "one\ntwo"),
        (f"one\\{ENTER}two{ENTER}", "one\ntwo"),
        (f"one{CTRL_C}two{ENTER}", "two"),
        (f"o\\ne{ENTER}", "o\\ne"),
    ],
)
def test_keys_make_a_message(keys: str, message: str, type_keys: Typist) -> None:
    assert type_keys(keys) == message


def test_pasted_lines_are_one_message(type_keys: Typist) -> None:
    assert type_keys(f"\x1b[200~one\ntwo\x1b[201~{ENTER}") == "one\ntwo"


def test_ctrl_c_at_an_empty_prompt_and_ctrl_d_are_raised(type_keys: Typist) -> None:
    with pytest.raises(KeyboardInterrupt):
        type_keys(CTRL_C)
    with pytest.raises(EOFError):
        type_keys(CTRL_D)


def test_earlier_messages_can_be_called_back(type_keys: Typist) -> None:
    type_keys(f"one{ENTER}")
    assert type_keys(f"{UP}!{ENTER}") == "one!"


def test_bytes_that_are_not_utf8_are_refused(type_keys: Typist) -> None:
    with pytest.raises(EdgeSteerError, match="the message: the text is not UTF-8"):
        type_keys(f"a\udcff{ENTER}")


# ---- history ----


def test_history_outlasts_the_chat_and_is_for_its_user_only(type_keys: Typist, state: Path) -> None:
    type_keys(f"one{ALT_ENTER}two{ENTER}")
    assert list(open_history(state).load_history_strings()) == ["one\ntwo"]
    assert sys.platform == "win32" or stat.S_IMODE(state.stat().st_mode) == 0o600


def test_where_history_cannot_be_kept_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert list(open_history(tmp_path / "file" / "chat_history").load_history_strings()) == []


# ---- whole chats ----


class Screen:
    """The other end of a pseudo-terminal that a chat runs in."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self._end, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal for it
        )
        os.close(theirs)
        self._shown = ""

    def send(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def wait_for(self, pattern: str) -> str:
        """Read until this pattern is there, without what only moves and colours; return what came up to its end."""
        deadline = time.monotonic() + 20
        while not (found := re.search(pattern, self._shown)):
            ready, _, _ = select.select([self._end], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self._shown!r}"
            self._shown = re.sub(r"\x1b(\[[0-9;?]*[a-zA-Z]|[=>])", "", self._shown + self._read())
        taken, self._shown = self._shown[: found.end()], self._shown[found.end() :]
        return taken

    def _read(self) -> str:
        data = os.read(self._end, 65536)
        if b"\x1b[6n" in data:  # where the cursor is; a chat that does not know shows no line below the prompt
            self.send("\x1b[5;1R")
        return data.decode("utf-8", "replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def chat(tiny_model: Any, tmp_path: Path) -> Iterator[Callable[..., Screen]]:
    """Return a function that starts a chat in a pseudo-terminal."""
    opened = []

    def start(*options: object, grammar: str = 'root ::= "abc"') -> Screen:
        code = "from edgesteer.cli import main; main()"
        arguments = ["chat", tiny_model.gguf, "--threads", 1, "-c", 4096, "--temp", 0, "--grammar", grammar, *options]
        changes = {"TERM": "xterm", "XDG_STATE_HOME": str(tmp_path)}
        opened.append(Screen([sys.executable, "-c", code, *map(str, arguments)], {**os.environ, **changes}))
        return opened[-1]

    yield start
    for screen in opened:
        screen.close()


@pytest.mark.torch
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals like these")
class TestInATerminal:
    def test_a_chat_shows_its_dials_answers_and_ends_with_ctrl_d(self, chat: Any, tiny_steer: Any) -> None:
        screen = chat("--steer", f"{tiny_steer()}=0.5")
        screen.wait_for("/help lists the commands")
        screen.wait_for(r"warm 0\.5   0 of 4096 tokens")
        screen.send(f"one{ENTER}")
        screen.wait_for("\nabc\r\n")
        screen.send(f"/steer w 0.25{ENTER}")
        screen.wait_for(r"warm 0\.25, safe")
        screen.wait_for(r"warm 0\.25   \d+ of 4096 tokens")
        screen.send(CTRL_D)
        assert screen.process.wait(timeout=60) == 0

    def test_ctrl_c_stops_the_answer_and_not_the_chat(self, chat: Any) -> None:
        screen = chat(grammar='root ::= "a" root')
        screen.wait_for("0 of 4096 tokens")
        screen.send(f"one{ENTER}")
        screen.wait_for("aaaaaaaa")
        screen.send(CTRL_C)
        screen.wait_for(r"Stopped\.")
        screen.wait_for(r"\d of 4096 tokens")
        screen.send(f"/system{ENTER}")
        screen.wait_for(r"There is no system message\.")
        screen.wait_for(r"\d of 4096 tokens")
        screen.send(CTRL_D)
        assert screen.process.wait(timeout=60) == 0

    def test_ctrl_c_twice_at_an_empty_prompt_says_how_to_leave(self, chat: Any) -> None:
        screen = chat()
        screen.wait_for("of 4096 tokens")
        screen.send(CTRL_C)
        screen.wait_for("of 4096 tokens")
        screen.send(CTRL_C)
        screen.wait_for(r"Ctrl-D or /exit ends the chat\.")
        screen.wait_for("of 4096 tokens")
        screen.send(f"/exit{ENTER}")
        assert screen.process.wait(timeout=60) == 0

    def test_tokens_are_coloured(self, chat: Any, tiny_steer: Any) -> None:
        screen = chat("--steer", f"{tiny_steer()}=0.5")
        screen.wait_for("of 4096 tokens")
        screen.send(f"one{ENTER}")
        screen.wait_for("\nabc\r\n")
        screen.send(f"/tokens{ENTER}")
        screen.wait_for("\nabc\r\n")  # without numbers: they are colours here


@pytest.mark.torch
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_stops_an_answer_in_a_pipe_too(start: Any, tiny_model: Any) -> None:
    options = ("--threads", 1, "-c", 4096, "--temp", 0, "--grammar", 'root ::= "a" root')
    with start("chat", tiny_model.gguf, *options, stdin=subprocess.PIPE) as process:
        process.stdin.write("one\n")
        process.stdin.flush()
        assert process.stdout.read(8) == "aaaaaaaa"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "Stopped.\n"
        process.stdin.write("/system\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 0
        assert process.stdout.read().endswith("\nThere is no system message.\n")


@pytest.mark.torch
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_a_piped_chat_that_waits_for_a_line(start: Any, tiny_model: Any) -> None:
    with start("chat", tiny_model.gguf, "--threads", 1, "-n", 2, stdin=subprocess.PIPE) as process:
        process.stdin.write("/system\n")
        process.stdin.flush()
        assert process.stdout.readline() == "There is no system message.\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read() == "Interrupted.\n"
