"""`edgesteer certify`: how far from its setpoint a controller may leave alpha, measured and written into the sidecar.

Needs the export extra.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from edgesteer.cli.console import print_table, progress_bars
from edgesteer.cli.inspect import tracking_error
from edgesteer.cli.options import ModelArgument, check_output, loading_options, options_from
from edgesteer.concept import ConceptSet, builtin_concepts, load_concept, load_neutral, resolve_concept
from edgesteer.controller import Controller
from edgesteer.errors import ConceptError
from edgesteer.extras import needs_extra
from edgesteer.fingerprint import check
from edgesteer.inspection import describe_controller
from edgesteer.registry import resolve_model
from edgesteer.sidecar import read_sidecar, write_sidecar
from edgesteer.steering_file import pick_controller


@options_from("edgesteer.export.certify", "CertifyOptions", argument="measuring", panel="The bound")
@loading_options
def certify(
    model: ModelArgument,
    sidecar: Annotated[Path, typer.Argument(metavar="SIDECAR", help="The sidecar, made from this model.")],
    measuring: dict[str, Any],
    loading: dict[str, Any],
    controller: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="all", help="One controller of the sidecar.")
    ] = None,
    concept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE",
            show_default="all others",
            help="Concepts whose texts to measure on, built in or from files; may be given several times.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT.gguf", show_default="SIDECAR itself", help="The file to write."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Bound the tracking error of a sidecar's controllers, from linearization residuals on held-out texts.

    The bound goes into the sidecar; `generate --verbose` then prints it beside the error of the run and counts where
    the error was larger. Nothing is left behind when this is interrupted.
    """
    source, target = resolve_model(model), output or sidecar
    check_output(target, source)
    content = read_sidecar(sidecar)
    chosen = content.controllers
    if controller is not None:
        chosen = {controller: pick_controller(content.controllers, controller, sidecar)}
    concepts = held_out_concepts(concept, chosen)
    with needs_extra("export"):
        from edgesteer.export.certify import CertifyOptions, certify_controllers, check_law, held_out_examples
        from edgesteer.export.weights import LoadOptions, load_model

        options = CertifyOptions(**measuring)
        for each in chosen.values():
            check_law(each)
        texts = held_out_examples(chosen, concepts, load_neutral())
        with progress_bars(quiet=quiet) as progress:
            loaded = load_model(source, LoadOptions(**loading))
            check(content.fingerprint, loaded.fingerprint, sidecar)
            certified = certify_controllers(loaded, chosen, texts, options, progress)
    write_sidecar(target, replace(content, controllers={**content.controllers, **certified}))
    if not quiet:
        for each in certified.values():
            print_bound(describe_controller(each))


def held_out_concepts(names: list[str] | None, controllers: Mapping[str, Controller]) -> list[ConceptSet]:
    """Return the concepts of these names, all built-in ones by default.

    Raises ConceptError when a controller was made from one that is named.
    """
    concepts = [load_concept(resolve_concept(name)) for name in names or builtin_concepts()]
    made_from = {each.provenance.concept_sha256: each.name for each in controllers.values()}
    for each in concepts if names else ():
        if each.sha256 in made_from:
            raise ConceptError(
                "the texts are not held out",
                where=each.name,
                found=f"{made_from[each.sha256]} was made from them",
                remedy="Give another --concept.",
            )
    return concepts


def print_bound(controller: dict[str, Any]) -> None:
    """Print what the bound says of each block at full effort, towards both poles."""
    print(f"{controller['name']}: tracking error after control, {tracking_error(controller)}")
    certificate = controller["certificate"]
    headers = ["block"]
    for pole in (controller["positive"], controller["negative"]):
        headers += [f"unsteered ({pole})", "measured", "bound"]
    columns = [column for b, m in zip(certificate["bound"], certificate["measured"], strict=True)
               for column in (m[0], m[-1], b[-1])]  # fmt: skip
    rows = [
        [str(block), *(f"{value:.2f}" for value in values)]
        for block, *values in zip(controller["blocks"], *columns, strict=True)
    ]
    print_table(headers, rows)
