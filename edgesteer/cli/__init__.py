"""The command line. One module a command, and the one place where an error becomes a line and an exit code.

The modules of the commands are light: torch and llama.cpp are imported inside the commands that need them.
Exit codes: 0; 1 for an error; 2 for a command line that cannot be read; 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from edgesteer import __version__
from edgesteer.cli import (
    certify,
    chat,
    demo,
    doctor,
    evaluate,
    export,
    generate,
    inspect,
    judge,
    learn,
    linearize,
    models,
    profile,
    retune,
    rpc_server,
    serve,
    tune,
)
from edgesteer.errors import EdgeSteerError, SafeRangeWarning

INTERRUPTED = 130

app = typer.Typer(
    name="edgesteer",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
)
app.command()(export.export)
app.command()(linearize.linearize)
app.command()(learn.learn)
app.command()(retune.retune)
app.command()(certify.certify)
app.command()(tune.tune)
app.command()(inspect.inspect)
app.command()(generate.generate)
app.command()(chat.chat)
app.command()(serve.serve)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.command()(rpc_server.rpc_server)
app.add_typer(evaluate.app, name="eval")
app.add_typer(profile.app, name="profile")
app.add_typer(judge.app, name="judge")
app.add_typer(models.app, name="models")


def print_version(wanted: bool) -> None:
    if wanted:
        print(f"edgesteer {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def edgesteer(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Steer a local, quantized LLM while it runs on llama.cpp, by feedback control on its activations."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, sys.argv's by default, and exit."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character still gets the others
    with warnings_as_lines():
        code = run(arguments)
    sys.exit(flush_output() or code)


def run(arguments: Sequence[str] | None) -> int:
    """Run the command line and return its exit code."""
    try:
        app(arguments, prog_name="edgesteer")
    except (EdgeSteerError, OSError) as error:
        return failed(error)
    except KeyboardInterrupt:
        return interrupted()
    except SystemExit as ending:
        return interrupted() if ending.code == INTERRUPTED else int(ending.code or 0)
    return 0


def failed(error: Exception) -> int:
    print(f"Error: {' '.join(str(error).splitlines())}", file=sys.stderr)
    return 1


def interrupted() -> int:
    print("Interrupted.", file=sys.stderr)
    return INTERRUPTED


def flush_output() -> int:
    """Write what stdout still holds; return 1 when that fails, without a word when only the reader has gone."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it exits
        return 1 if isinstance(error, BrokenPipeError) else failed(error)
    return 0


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show our own warnings as one line each, and those of other libraries only where python -W asks for them."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        warnings.simplefilter("always", SafeRangeWarning)
        warnings.showwarning = show_warning
        yield


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"Warning: {message}", file=sys.stderr)
