"""Groups of commands that are commands themselves."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class CommandOrGroup(TyperGroup):
    """A first word that names a subcommand belongs to it; with any other one, the group itself is the command."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if args and args[0] in self.commands:
            name, *rest = args
            return self.commands[name].make_context(f"{info_name} {name}", rest, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)
