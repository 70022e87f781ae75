"""edgesteer chat in a pipe, on the tiny model. The terminal is tested in test_chat_input.py."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from edgesteer.cli.chat import COMMANDS
from edgesteer.cli.chat_screen import gauge

pytestmark = pytest.mark.torch

OPTIONS = ("--threads", 1, "--ctx-size", 512, "--temp", 0, "--grammar")
LETTERS = 'root ::= "abc"'
"""Holds every answer to three letters, so that what is printed can be told."""
FREE = ""

Say = Callable[..., Any]


@pytest.fixture
def say(edgesteer: Any, tiny_model: Any) -> Say:
    """Return a function that runs a chat with these lines as input."""

    def say(*lines: str, options: tuple[object, ...] = (), grammar: str = LETTERS, end: str = "\n") -> Any:
        data = ("\n".join(lines) + end).encode("utf-8", "surrogateescape")
        return edgesteer("chat", tiny_model.gguf, *OPTIONS, grammar, *options, stdin=data)

    return say


@pytest.fixture
def steer(tiny_steer: Any, tmp_path: Path) -> tuple[str, ...]:
    """The options that load `warm` at 0.5 and `formal` at 0."""
    warm, formal = tiny_steer(), tiny_steer("formal", "formal.gguf", seed=1)
    return ("--steer", f"{warm}=0.5", "--steer", f"{formal}=0")


# ---- messages ----


def test_every_line_is_answered(say: Say) -> None:
    assert say("one", "", "  ", "two") == (0, "abc\nabc\n", "")


def test_the_last_line_needs_no_newline(say: Say) -> None:
    assert say("one", end="") == (0, "abc\n", "")


def test_the_end_of_the_input_ends_the_chat(say: Say) -> None:
    assert say(end="") == (0, "", "")


@pytest.mark.parametrize("leave", ["/exit", "/exit "])
def test_exit_ends_the_chat(leave: str, say: Say) -> None:
    assert say("one", leave, "two") == (0, "abc\n", "")


def test_a_backslash_goes_on_in_the_next_line(say: Say, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    say("one \\", "\\", "two", "three\\", f"/save {path}", "four\\", end="")
    assert not path.exists()
    say("one \\", "\\", "two", "three", f"/save {path}", "four\\", end="")
    asked = [each["content"] for each in json.loads(path.read_bytes())["messages"] if each["role"] == "user"]
    assert asked == ["one \n\ntwo", "three"]


def test_a_line_that_is_not_utf8_is_refused_and_the_chat_goes_on(say: Say) -> None:
    result = say("caf\udce9", "two")
    assert (result.code, result.out) == (1, "abc\n")
    assert result.err == "Error: standard input: the text is not UTF-8; found a broken character at 3\n"


def test_a_message_may_begin_with_a_space_and_a_slash(say: Say) -> None:
    assert say(" /etc is a folder") == (0, "abc\n", "")


def test_the_answer_is_the_one_that_generate_gives(say: Say, edgesteer: Any, tiny_model: Any, steer: Any) -> None:
    options = (*steer[:2], "-n", 12, "-sys", "brief")
    command = ("generate", tiny_model.gguf, "-p", "the end", "--threads", 1, "-c", 512, "--temp", 0, *options, "--json")
    text = json.loads(edgesteer(*command).out)["text"]
    shown = say("the end", options=options, grammar=FREE).out
    assert shown == re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text) + "\n"
    assert "\x1b" not in shown


def test_verbose_prints_speed_and_what_the_loop_measured(say: Say, steer: Any) -> None:
    result = say("one", options=(*steer, "--verbose"))
    speed, warm, formal = result.err.splitlines()
    assert speed.startswith("prompt: ")
    assert warm.startswith("warm at 0.5: alpha mean ")
    assert formal.startswith("formal at 0: ")


def test_an_answer_that_fills_the_context_says_so(say: Say) -> None:
    result = say("one", grammar='root ::= "a" root')
    assert result.code == 0
    assert 300 < len(result.out) <= 512
    assert result.err == "The context is full, so the answer ends here; /clear begins anew.\n"


def test_turns_that_no_longer_fit_are_left_out_with_a_line(say: Say) -> None:
    result = say(*("x" * 60 for _ in range(8)))
    assert (result.code, result.out) == (0, "abc\n" * 8)
    assert re.search(r"^The context no longer holds the first turns \(\d\); /clear begins anew\.$", result.err, re.M)


def test_a_message_that_is_too_long_is_refused_and_the_chat_goes_on(say: Say) -> None:
    result = say("x" * 600, "one")
    assert (result.code, result.out) == (1, "abc\n")
    assert result.err.startswith("Error: the message is too long for the context; expected at most 384 tokens; found 6")


def test_an_empty_answer_takes_the_message_back(say: Say, tmp_path: Path) -> None:
    result = say("one", f"/save {tmp_path / 'a.json'}", grammar='root ::= ""')
    assert "There is no answer; the message is taken back.\n" in result.err
    assert json.loads((tmp_path / "a.json").read_bytes())["messages"] == []


# ---- commands ----


def test_steer_shows_the_gauges(say: Say, steer: Any) -> None:
    lines = say("/steer", "one", "/steer warm", options=steer).out.splitlines()
    assert lines[0] == "warm 0.5, safe -1 to 1"
    assert re.fullmatch(r"  down [-.+|]{28}o[-.+|]{12} up", lines[1])
    assert lines[2] == "formal 0, safe -1 to 1"
    assert re.fullmatch(r"  down [-.+|]{20}o[-.+|]{20} up", lines[3])
    assert lines[4:7] == ["abc", *lines[:2]]
    assert re.fullmatch(
        r"  alpha -?\d+\.\d\d, setpoint -?\d+\.\d\d, running mean -?\d+\.\d\d, effort \d\.\d\d", lines[7]
    )
    assert len(lines) == 8


def test_steer_sets_a_dial_by_a_part_of_its_name(say: Say, steer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    result = say("/steer w -0.25", "/steer formal 1", "one", "/steer warm off", "two", f"/save {path}", options=steer)
    assert result.code == 0
    answers = [each for each in json.loads(path.read_bytes())["messages"] if each["role"] == "assistant"]
    strengths = [[(dial["controller"], dial["strength"]) for dial in each["steering"]] for each in answers]
    assert strengths == [[("warm", -0.25), ("formal", 1.0)], [("warm", 0.0), ("formal", 1.0)]]


def test_steering_changes_the_answer(say: Say, steer: Any) -> None:
    lines = ("/clear", "the end", "/clear", "/steer warm off", "the end")
    options = (*steer, "-n", 12)
    steered, unsteered = say(*lines, options=options, grammar="root ::= [a-z] root").out.split("\n")[0::4][:2]
    assert steered != unsteered


def test_strengths_outside_the_safe_range_are_one_line_when_they_are_set(say: Say, tiny_steer: Any) -> None:
    result = say("one", "/steer warm -3", "two", options=("--steer", f"{tiny_steer()}=1.5"))
    assert result.code == 0
    assert result.err.splitlines() == [
        f"Warning: warm: strength {strength} is outside the safe range -1 to 1; the text may break"
        for strength in ("1.5", "-3")
    ]


def test_compare_shows_the_answer_without_and_with_steering(say: Say, steer: Any) -> None:
    assert say("one", "/compare", options=steer).out == "abc\n--- unsteered\nabc\n--- warm 0.5\nabc\n"


def test_compare_answers_as_without_steering(say: Say, steer: Any) -> None:
    grammar, options = "root ::= [a-z] root", (*steer, "-n", 12)
    first, head, unsteered, _, steered = say("the end", "/compare", options=options, grammar=grammar).out.splitlines()
    assert (head, first) == ("--- unsteered", steered)
    assert unsteered == say("/steer warm off", "the end", options=options, grammar=grammar).out.splitlines()[-1]
    assert unsteered != steered


def test_tokens_show_alpha_at_each(say: Say, steer: Any) -> None:
    shown = say("one", "/tokens", "/tokens w", options=steer).out.splitlines()
    assert re.fullmatch(r"a\[-?\d+\.\d\d\]b\[-?\d+\.\d\d\]c(\[-?\d+\.\d\d\])?", shown[1])
    assert shown[1] == shown[2]


def test_system_sets_shows_and_removes_the_system_message(say: Say, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    result = say("/system", "/system be brief", "/system", f"/save {path}", "/system off", options=("-sys", "first"))
    assert result.out == "first\nbe brief\nbe brief\nThere is no system message.\n"
    assert json.loads(path.read_bytes())["messages"] == [{"role": "system", "content": "be brief"}]


def test_a_system_message_may_have_several_lines(say: Say) -> None:
    assert say("/system\\", "one\\", " two", "/system").out == "one\n two\none\n two\n"


def test_undo_clear_and_retry(say: Say, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{number}.json" for number in (1, 2, 3))
    lines = ("one", "two", "/retry", f"/save {first}", "/undo", f"/save {second}", "/clear", f"/save {third}")
    result = say(*lines)
    assert result.out == "abc\n" * 3
    saved = [json.loads(path.read_bytes())["messages"] for path in (first, second, third)]
    assert [[each["content"] for each in messages] for messages in saved] == [
        ["one", "abc", "two", "abc"],
        ["one", "abc"],
        [],
    ]


def test_a_saved_conversation_can_be_gone_on_with(say: Say, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    say("one", f"/save {path}", options=("-sys", "brief"))
    result = say("lost", f"/load {path}", "two", f"/save {path}")
    assert (result.code, result.out) == (0, "abc\nabc\n")
    said = [each["content"] for each in json.loads(path.read_bytes())["messages"]]
    assert said == ["brief", "one", "abc", "two", "abc"]


def test_save_takes_no_file_that_this_chat_has_not_written(say: Say, tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("mine")
    result = say("one", f"/save {path}", f"/save {tmp_path / 'b.md'}", "two", f"/save {tmp_path / 'b.md'}")
    assert (result.code, path.read_text()) == (1, "mine")
    assert f"Error: {path}: there is a file already. Give another name.\n" in result.err
    assert (tmp_path / "b.md").read_text().count("**You:**") == 2


def test_help_lists_every_command(say: Say) -> None:
    shown = say("/help").out
    commands = ("steer", "compare", "tokens", "retry", "undo", "clear", "system", "save", "load", "help", "exit")
    assert re.findall(r"^/(\w+)", shown, re.M) == list(commands)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/stear warm 1", "/stear: unknown command; expected /steer or /clear. /help lists the commands;"),
        ("/xyzzy", "/xyzzy: unknown command. /help lists the commands; a message may begin with a space."),
        ("/", "/: unknown command. /help"),
        ("/steer cold", "cold: no such controller; expected warm or formal"),
        ("/steer warm much", "warm: strength is not a number; expected a number such as 0.5, or off; found much"),
        ("/steer warm nan", "warm: strength is not a finite number; found nan."),
        ("/steer warm 1 2", "/steer takes a name and a strength; found warm 1 2"),
        ("/compare", "there is no message yet. Write one first."),
        ("/retry", "there is no message yet."),
        ("/undo", "there is no message yet."),
        ("/tokens", "there is no message yet."),
        ("/save", "there is no file name; expected FILE.json or FILE.md"),
        ("/save a.txt", "a.txt: unknown kind of file; expected .json or .md"),
        ("/save no/a.md", "no/a.md: cannot be written: its folder does not exist."),
        ("/load none.json", "none.json: cannot be read; found No such file or directory"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_one_line_and_the_chat_goes_on(
    line: str, message: str, say: Say, steer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = say(line, "one", options=steer)
    assert (result.code, result.out) == (1, "abc\n")
    assert result.err.startswith(f"Error: {message}")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/steer", "no controller is loaded. Start the chat with --steer FILE."),
        ("/tokens", "nothing was measured. Set a strength, and ask again."),
        ("/compare", "the last answer was not steered. Set a strength, and /retry."),
    ],
)
def test_without_controllers_commands_say_so(line: str, message: str, say: Say) -> None:
    result = say("one", line)
    assert (result.code, result.out, result.err) == (1, "abc\n", f"Error: {message}\n")


# ---- the start ----


def test_a_model_without_a_chat_template_is_refused(edgesteer: Any, tiny_model: Any, tmp_path: Path) -> None:
    plain = tmp_path / "plain.gguf"
    data = tiny_model.gguf.read_bytes()
    plain.write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.chat_forgotten"[:23]))
    assert GGUFReader(plain).get_field("tokenizer.chat_template") is None
    result = edgesteer("chat", plain, stdin=b"one\n")
    assert (result.code, result.out) == (1, "")
    assert result.err == (f"Error: {plain}: the model has no chat template. Use `edgesteer generate --raw` with it.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steer", "none.gguf=1"), "none.gguf: no such file."),
        (("--open", "--decay", 3), "--open and --decay exclude each other."),
        (("-sys", "\udcff"), "--system: the text is not UTF-8"),
        (("--temp", -1000), "temp is out of range"),
    ],
)
def test_options_that_cannot_be_used_end_the_chat_before_it_begins(
    arguments: Any, message: str, edgesteer: Any, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = edgesteer("chat", tiny_model.gguf, "--threads", 1, *arguments, stdin=b"one\n")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: {message}")


# ---- docs/chat.md ----


def test_the_page_names_every_command_and_shows_a_true_gauge() -> None:
    page = (Path(__file__).parents[2] / "docs" / "chat.md").read_text("utf-8")
    assert set(COMMANDS) == set(re.findall(r"`/(\w+)", page))
    assert gauge(0.5, (-1.5, 2.0)) in page
