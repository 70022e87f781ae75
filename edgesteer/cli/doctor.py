"""`edgesteer doctor`: what this installation has, and what it lacks."""

from __future__ import annotations

import typer

from edgesteer.cli.console import print_json, print_table
from edgesteer.cli.options import JsonOption, RpcOption, split_names


def doctor(rpc: RpcOption = None, as_json: JsonOption = False) -> None:
    """Look at everything that edgesteer needs or can use: llama.cpp, the hook, devices, meters, extras, models.

    The exit code is 1 when llama.cpp or the hook cannot be loaded. With --rpc, servers are tried as well. JSON: an
    object with usable, and findings: a list of part, name, state (ok, absent, broken), detail and remedy.
    """
    from edgesteer.doctor import examine, is_usable

    findings = examine(split_names(rpc or ()))
    usable = is_usable(findings)
    if as_json:
        print_json({"usable": usable, "findings": findings})
    else:
        rows = [(f.part, f.name, f.state, ". ".join(filter(None, (f.detail, f.remedy)))) for f in findings]
        print_table(("part", "name", "state", "detail"), rows)
    if not usable:
        raise typer.Exit(1)
