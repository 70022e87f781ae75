"""`edgesteer models`: the models that have a name."""

from __future__ import annotations

from typing import Annotated

import typer

from edgesteer.cli.console import format_bytes, print_json, print_table
from edgesteer.cli.options import JsonOption
from edgesteer.registry import list_models, resolve_model

app = typer.Typer(help="Models that have a name.", no_args_is_help=True)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the models that have a name, and whether they are installed.

    JSON: a list of objects with name, source, licence, installed, file, sha256, bytes and path (null: not made yet).
    """
    entries = list_models()
    if as_json:
        print_json(
            [
                {
                    "name": each.name,
                    "source": each.source,
                    "licence": each.licence,
                    "installed": each.installed,
                    "file": each.file,
                    "sha256": each.sha256,
                    "bytes": each.size_bytes,
                    "path": each.path,
                }
                for each in entries
            ]
        )
        return
    print_table(
        ("name", "installed", "size", "licence", "source"),
        (
            (
                each.name,
                "yes" if each.installed else "no",
                format_bytes(each.size_bytes) if each.size_bytes else "-",
                each.licence,
                each.source,
            )
            for each in entries
        ),
    )


@app.command()
def path(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that `edgesteer models list` shows.")],
) -> None:
    """Print the path of a model's file; make, download and check it first where that is needed."""
    print(resolve_model(name))
