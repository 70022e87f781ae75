"""The command line as a whole: help, exit codes, and what errors, warnings, Ctrl-C and closed pipes look like."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import edgesteer
from edgesteer import cli
from edgesteer.errors import EdgeSteerError, SafeRangeWarning

HEAVY = ("torch", "transformers", "llama_cpp", "matplotlib")
COMMANDS = (
    "export", "linearize", "learn", "retune", "certify", "tune", "inspect", "generate", "chat", "serve", "profile",
    "profile compare", "demo", "judge",
    "judge fit", "judge test", "models", "models list", "models path",
    "eval", "eval degradation", "eval questionnaire", "doctor", "rpc-server",
)  # fmt: skip


def fail_with(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.fixture
def broken_models(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Return a function that makes `edgesteer models list` end with an error."""
    return lambda error: monkeypatch.setattr("edgesteer.cli.models.list_models", fail_with(error))


def test_version_is_the_packages(edgesteer: Any) -> None:
    from edgesteer import __version__

    assert edgesteer("--version") == (0, f"edgesteer {__version__}\n", "")


def test_no_arguments_print_the_help(edgesteer: Any) -> None:
    assert edgesteer() == edgesteer("--help")
    assert edgesteer().code == 0
    assert "Usage: edgesteer" in edgesteer().out


def test_the_commands_are_the_ones_of_the_readme() -> None:
    assert set(get_command(cli.app).commands) == {name for name in COMMANDS if " " not in name}  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_for_itself_and_each_option(command: str, edgesteer: Any) -> None:
    result = edgesteer(*command.split(), "--help")
    assert result.code == 0
    node: Any = get_command(cli.app)
    for name in command.split():
        node = node.commands[name]
    assert [each.name for each in node.params if not each.help] == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_neither_torch_nor_llama_cpp(command: str) -> None:
    code = (
        "import sys\nfrom edgesteer.cli import main\n"
        f"try: main({[*command.split(), '--help']!r})\n"
        f"except SystemExit: sys.exit(' '.join(each for each in {HEAVY!r} if each in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Usage: edgesteer" in done.stdout
    assert done.stderr.strip() == ""


def test_error_is_one_line_on_stderr_and_exit_code_1(edgesteer: Any, broken_models: Any) -> None:
    broken_models(EdgeSteerError("is wrong", where="a\nb", found=3, remedy="Mend it."))
    assert edgesteer("models", "list") == (1, "", "Error: a b: is wrong; found 3. Mend it.\n")


def test_error_of_the_system_is_one_line_too(edgesteer: Any, broken_models: Any) -> None:
    broken_models(OSError(5, "Input/output error", "x"))
    assert edgesteer("models", "list") == (1, "", "Error: [Errno 5] Input/output error: 'x'\n")


def test_ctrl_c_exits_with_130_and_a_short_line(edgesteer: Any, broken_models: Any) -> None:
    broken_models(KeyboardInterrupt())
    assert edgesteer("models", "list") == (130, "", "Interrupted.\n")


def test_a_bug_keeps_its_traceback(broken_models: Any) -> None:
    broken_models(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["models", "list"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["inspect"], "Missing argument"),
        (["inspect", "a.gguf", "--nonsense"], "No such option"),
        (["generate", "smollm2", "--ctx-size", "0"], "--ctx-size"),
        (["generate", "smollm2", "--temp", "hot"], "--temp"),
        (["export", "smollm2", "-o", "a.gguf"], "--concept"),
    ],
)
def test_command_line_that_cannot_be_read_exits_with_2(arguments: list[str], message: str, edgesteer: Any) -> None:
    result = edgesteer(*arguments)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


def test_safe_range_warning_is_one_line(edgesteer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*_: object) -> list[Any]:
        warnings.warn("strength 3 is outside", SafeRangeWarning, stacklevel=2)
        warnings.warn("some library's own business", stacklevel=2)
        return []

    monkeypatch.setattr("edgesteer.cli.models.list_models", warn)
    result = edgesteer("models", "list")
    assert (result.code, result.err) == (0, "Warning: strength 3 is outside\n")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGPIPE on Windows")
@pytest.mark.parametrize("command", ["models list", "generate --help"])
def test_reader_that_goes_away_is_no_error(command: str, start: Any) -> None:
    process = start(*command.split())
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_output_that_cannot_be_written_is_an_error(start: Any) -> None:
    with open("/dev/full", "w") as full, start("models", "list", stdout=full) as process:
        assert process.wait(timeout=60) == 1
        assert process.stderr.read() == "Error: [Errno 28] No space left on device\n"


def test_python_minus_m_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "edgesteer", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"edgesteer {edgesteer.__version__}\n"
