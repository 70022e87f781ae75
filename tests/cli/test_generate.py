"""edgesteer generate, on the tiny model and on SmolLM2."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgesteer.cli.generate import print_stream

ONE_THREAD = ("--threads", 1)
QUICK = (*ONE_THREAD, "--ctx-size", 256, "--n-predict", 8, "--seed", 3)

# ---- on the tiny model ----


@pytest.mark.torch
def test_prompt_may_come_from_the_option_a_file_or_standard_input(
    edgesteer: Any, tiny_model: Any, tmp_path: Path
) -> None:
    (tmp_path / "prompt.txt").write_text("the end\n")
    option = edgesteer("generate", tiny_model.gguf, "-p", "the end", *QUICK)
    assert (option.code, option.err) == (0, "")
    assert option.out.endswith("\n")
    assert edgesteer("generate", tiny_model.gguf, "-f", tmp_path / "prompt.txt", *QUICK) == option
    assert edgesteer("generate", tiny_model.gguf, *QUICK, stdin=b"the end\n") == option
    assert edgesteer("generate", tiny_model.gguf, *QUICK, stdin=b"the beginning\n") != option


@pytest.mark.torch
def test_json_holds_text_tokens_timings_and_telemetry(edgesteer: Any, tiny_model: Any, tiny_steer: Any) -> None:
    steered = ("--steer", f"{tiny_steer()}=0.5", "--steer", f"{tiny_steer(law='add', file='static.gguf')}=1")
    result = edgesteer("generate", tiny_model.gguf, "-p", "the end", *steered, "--json", *QUICK)
    assert (result.code, result.err) == (0, "")
    shown = json.loads(result.out)
    assert list(shown) == ["model", "text", "tokens", "stop_reason", "timings", "steering", "telemetry"]
    assert shown["model"] == {"path": str(tiny_model.gguf), "name": "tiny"}
    assert shown["timings"]["predicted_n"] == len(shown["tokens"])
    assert [(each["controller"], each["strength"], each["loop"]) for each in shown["steering"]] == [
        ("warm", 0.5, "closed"),
        ("warm-2", 1.0, "closed"),
    ]
    assert [each["controller"] for each in shown["telemetry"]] == ["warm", "warm-2"]
    assert len(shown["telemetry"][0]["alpha"]) == len(shown["telemetry"][0]["effort"]) > 0


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--open"], "loop", "open"),
        (["--decay", "4"], "loop", "decay"),
        (["--decay", "4"], "decay_tokens", 4.0),
        (["--mode", "floor"], "mode", "floor"),
        (["--rows", "all"], "rows", "all"),
        ([], "rows", "last"),
    ],
)
def test_steering_options_reach_the_request(
    arguments: list[str], field: str, value: Any, edgesteer: Any, tiny_model: Any, tiny_steer: Any
) -> None:
    command = ("generate", tiny_model.gguf, "-p", "the", "--steer", tiny_steer(), "--json", *arguments, *QUICK)
    assert json.loads(edgesteer(*command).out)["steering"][0][field] == value


@pytest.mark.torch
def test_sampling_options_reach_the_sampler(edgesteer: Any, tiny_model: Any) -> None:
    def text(*arguments: object) -> str:
        return str(edgesteer("generate", tiny_model.gguf, "-p", "the", *arguments, *QUICK).out)

    greedy = text("--temp", 0)
    assert text("--temp", 5, "--top-k", 1) == greedy
    assert text("--temp", 5, "--top-p", 0) == greedy
    assert text("--temp", 5, "--min-p", 1, "--top-p", 1) == greedy
    assert text("--temp", 5, "--min-p", 0, "--top-k", 0) != greedy


@pytest.mark.torch
def test_text_ends_before_a_stop_string(edgesteer: Any, tiny_model: Any) -> None:
    command = ("generate", tiny_model.gguf, "-p", "the", "--temp", 0, "--json", *QUICK)
    text = json.loads(edgesteer(*command).out)["text"]
    shown = json.loads(edgesteer(*command, "--stop", "never there", "--stop", text[2]).out)
    assert (shown["text"], shown["stop_reason"]) == (text[: text.index(text[2])], "stop")


@pytest.mark.torch
def test_no_limit_means_until_the_end_or_a_full_context(edgesteer: Any, tiny_model: Any) -> None:
    shown = json.loads(
        edgesteer("generate", tiny_model.gguf, "-p", "a", "-c", 256, "-n", -1, "--json", *ONE_THREAD).out
    )
    assert shown["stop_reason"] in ("end", "context")
    assert len(shown["tokens"]) > 8


@pytest.mark.torch
def test_raw_leaves_out_the_chat_template(edgesteer: Any, tiny_model: Any) -> None:
    command = ("generate", tiny_model.gguf, "-p", "t t t", "--json", *QUICK)
    plain, chat = (json.loads(edgesteer(*command, *raw).out)["timings"]["prompt_n"] for raw in (["--raw"], []))
    system = json.loads(edgesteer(*command, "-sys", "hm").out)["timings"]["prompt_n"]
    assert plain == 5
    assert plain < chat < system


@pytest.mark.torch
def test_verbose_prints_speed_and_a_line_a_controller_on_stderr(
    edgesteer: Any, tiny_model: Any, tiny_steer: Any
) -> None:
    command = ("generate", tiny_model.gguf, "-p", "the end", "--steer", f"{tiny_steer()}=1", *QUICK)
    quiet, verbose = edgesteer(*command), edgesteer(*command, "-v")
    assert (quiet.err, quiet.out) == ("", verbose.out)
    speed, loop = verbose.err.splitlines()
    assert speed.startswith("prompt: ")
    assert "tokens/s; ended by: " in speed
    assert loop.startswith("warm at 1: alpha mean ")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.gguf", "-p", "x"], "none.gguf: no such file. Check the path, or see `edgesteer models list`."),
        (["nope", "-p", "x"], "nope: unknown model; expected a path or one of smollm2"),
        (["text.gguf", "-p", "x"], "text.gguf: not a GGUF file."),
        (["broken.gguf", "-p", "x"], "broken.gguf: llama.cpp cannot load this model; found "),
        ([".", "-p", "x"], ".: no such model file."),
        (["tiny", "-p", ""], "--prompt: the prompt is empty."),
        (["tiny"], "standard input: the prompt is empty."),
        (["tiny", "-f", "latin1.txt"], "latin1.txt: the text is not UTF-8; found a broken character at 3"),
        (["tiny", "-f", "none.txt"], "none.txt: the prompt cannot be read; found No such file or directory"),
        (["tiny", "-p", "x" * 300, "-c", "256"], "the prompt is longer than the context; expected < 256 tokens; found"),
        (["tiny", "-p", "x", "-n", "0"], "no tokens are asked for; expected at least 1; found 0"),
        (["tiny", "-p", "x", "--raw", "-sys", "y"], "tiny: a system message needs a chat template."),
        (["tiny", "-p", "x", "--open", "--decay", "3"], "--open and --decay exclude each other."),
        (["tiny", "-p", "x", "--steer", "none.gguf=1"], "none.gguf: no such file. Check the path."),
        (["tiny", "-p", "x", "--steer", "warm.gguf=much"], "warm.gguf=much: strength is not a number; expected "),
        (["tiny", "-p", "x", "--steer", "warm.gguf#cold"], "warm.gguf: no such controller; expected warm; found cold."),
        (["tiny", "-p", "x", "--steer", "text.gguf"], "text.gguf: not a GGUF file."),
        (["tiny", "-p", "x", "--steer", "tiny"], "tiny: not a sidecar; expected architecture edgesteer; found llama."),
        (
            ["tiny", "-p", "x", "--steer", "other.gguf"],
            "other.gguf: sidecar belongs to another model; expected Thin (",
        ),
        (["tiny", "-p", "x", "--steer", "warm.gguf", "--rows", "top"], "warm: unknown rows; expected last or all or"),
        (["tiny", "-p", "x", "--steer", "warm.gguf", "--mode", "up"], "warm: unknown mode; expected one-sided or hold"),
        (["tiny", "-p", "x", "--steer", "warm.gguf", "--decay", "0"], "warm: decay must be positive; found 0.0"),
    ],
)
def test_errors(
    arguments: list[str], message: str, edgesteer: Any, tiny_model: Any, tiny_steer: Any, tiny_sidecar: Any,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    tiny_steer()
    Path("other.gguf").write_bytes(tiny_sidecar().read_bytes().replace(b"Tiny", b"Thin"))
    Path("tiny").symlink_to(tiny_model.gguf)
    Path("text.gguf").write_text("hello")
    Path("broken.gguf").write_bytes(b"GGUF" + bytes(100))
    Path("latin1.txt").write_bytes(b"caf\xe9")
    result = edgesteer("generate", *arguments, *ONE_THREAD)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: {message}")
    assert result.err.count("\n") == 1


@pytest.mark.torch
def test_strength_outside_the_safe_range_warns_with_the_range(edgesteer: Any, tiny_model: Any, tiny_steer: Any) -> None:
    result = edgesteer("generate", tiny_model.gguf, "-p", "the", "--steer", f"{tiny_steer()}=1.5", *QUICK)
    assert result.code == 0
    assert result.err == ("Warning: warm: strength 1.5 is outside the safe range -1 to 1; the text may break\n")


# ---- without a model ----


class FakeStream:
    """A stream of text that ends as it is told to."""

    def __init__(self, ending: BaseException | None = None) -> None:
        self.ending = ending
        self.result = SimpleNamespace(text="one two")

    def __iter__(self) -> Iterator[str]:
        yield "one "
        yield "two"
        if self.ending is not None:
            raise self.ending


def test_text_is_printed_as_it_comes_and_ends_with_a_newline(capsys: pytest.CaptureFixture[str]) -> None:
    stream: Any = FakeStream()
    assert print_stream(stream) is stream.result
    assert capsys.readouterr().out == "one two\n"


def test_ctrl_c_leaves_what_was_generated(capsys: pytest.CaptureFixture[str]) -> None:
    stream: Any = FakeStream(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        print_stream(stream)
    assert capsys.readouterr().out == "one two\n"


# ---- on SmolLM2 ----


@pytest.mark.llama
def test_strength_zero_gives_the_unsteered_text(edgesteer: Any, smollm2: Path, smollm2_steer: Any) -> None:
    command = ("generate", smollm2, "-p", "Name a colour.", *QUICK)
    file = smollm2_steer()
    unsteered = edgesteer(*command)
    assert len(unsteered.out) > 10
    assert edgesteer(*command, "--steer", f"{file}=0") == unsteered
    assert edgesteer(*command, "--steer", f"{file}=1", "--rows", "none") == unsteered
    assert edgesteer(*command, "--steer", f"{file}=1").out != unsteered.out


@pytest.mark.llama
def test_wrong_models_sidecar_is_refused_with_both_sides(edgesteer: Any, smollm2: Path, tiny_sidecar: Any) -> None:
    result = edgesteer("generate", smollm2, "-p", "Hello", "--steer", tiny_sidecar(), *QUICK)
    assert (result.code, result.out) == (1, "")
    assert "sidecar belongs to another model; expected Tiny (n_blocks 4, width 32, " in result.err
    assert "; found Smollm2 135M 8k Lc100K Mix1 Ep2 (n_blocks 30, width 576, " in result.err


@pytest.mark.llama
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_while_generating_keeps_the_text_and_exits_with_130(start: Any, smollm2: Path) -> None:
    with start("generate", smollm2, "-p", "Once upon", "--raw", "-n", 2000, "--temp", 2, *ONE_THREAD) as process:
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(timeout=60) == 130
        assert process.stderr.read() == "Interrupted.\n"
    assert (first + rest).endswith("\n")
    assert len(first + rest) < 4000
