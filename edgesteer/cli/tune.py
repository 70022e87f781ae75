"""`edgesteer tune`: strength 1 of a sidecar becomes the best setting within a budget. Needs the eval extra."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from edgesteer.cli import options
from edgesteer.cli.console import print_json, progress_bars
from edgesteer.cli.declared import constant
from edgesteer.cli.options import check_output, options_from
from edgesteer.cli.profile_task import print_report
from edgesteer.concept import load_concept, resolve_concept
from edgesteer.extras import needs_extra
from edgesteer.fingerprint import check
from edgesteer.registry import resolve_model
from edgesteer.sidecar import read_sidecar, write_sidecar
from edgesteer.steering_file import pick_controller


@options_from("edgesteer.tune.tuning", "TuneOptions", argument="tuning", panel="How much")
@options.device_options
def tune(
    model: options.ModelArgument,
    sidecar: Annotated[Path, typer.Argument(metavar="SIDECAR", help="The sidecar, made from this model.")],
    tuning: dict[str, Any],
    devices: dict[str, Any],
    controller: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="the only one", help="Which controller of the sidecar.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            show_default="the built-in one of the concept",
            help="Its prompts, and its primary judge, measure the effect.",
        ),
    ] = None,
    concept: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="What the controller was made from: its prompts are left out, and without a suite its texts make a "
            "judge. Built-in ones are found by themselves.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files lie from which the suite takes prompts.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A coarse run: a quarter of the texts, half of the settings.")
    ] = False,
    no_degradation: Annotated[
        bool, typer.Option("--no-degradation", help="Do not test on items whether the model gets worse.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT.gguf", show_default="SIDECAR itself", help="The file to write."),
    ] = None,
    parallel: Annotated[
        int,
        typer.Option(
            "--parallel", "-np", min=1, max=256, rich_help_panel=options.MACHINE, help="Texts that run at once."
        ),
    ] = constant("edgesteer.evaluate.experiment", "PARALLEL"),
    threads: options.ThreadsOption = None,
    n_gpu_layers: options.OffloadOption = options.GPU_LAYERS,
    as_json: options.JsonOption = False,
) -> None:
    """Find the setting with the most effect within a budget of cost, and make it strength 1 of the sidecar.

    Tries which blocks are steered, the gains over the blocks, the mode and the outer loop; calibrates both sides of the
    dial; finds the range beyond which text breaks. Nothing is written when this is interrupted. JSON: an object with
    what was chosen (chosen, scale, negative_scale, safe_range, blocks, judge), candidates, rivals and dial.
    """
    source, target = resolve_model(model), output or sidecar
    check_output(target, source)
    content = read_sidecar(sidecar)
    chosen = pick_controller(content.controllers, controller, sidecar)
    made_from = None if concept is None else load_concept(resolve_concept(concept))
    with needs_extra("eval"):
        from edgesteer.evaluate.capability import read_items
        from edgesteer.runtime.model import LlamaModel
        from edgesteer.tune import report
        from edgesteer.tune.settings import candidates
        from edgesteer.tune.subject import subject_of
        from edgesteer.tune.tuning import TuneOptions
        from edgesteer.tune.tuning import tune as tune_controller
    wanted = TuneOptions(**tuning)
    candidates(chosen)  # refuses a law that cannot be tuned before anything is loaded
    items = read_items(limit=wanted.items) if wanted.items and not no_degradation else []
    subject = subject_of(chosen, suite=suite, concept=made_from, data=data, max_tokens=wanted.max_tokens)
    with LlamaModel(source, n_gpu_layers=n_gpu_layers, **devices) as loaded, progress_bars() as bars:
        check(content.fingerprint, loaded.fingerprint, sidecar)
        tuned = tune_controller(
            loaded, chosen, subject, wanted, items, quick=quick, parallel=parallel, threads=threads, stage=bars.stage
        )
    write_sidecar(target, replace(content, controllers={**content.controllers, chosen.name: tuned.controller}))
    if as_json:
        print_json(report.as_record(tuned, subject[1]))
    else:
        prompts, judge = subject
        accuracy = judge.accuracy or "accuracy not measured"
        measured = f"Prompts: {prompts.name}; judge: {judge.name}, {accuracy}."
        print_report("", report.tables(tuned), [*report.notes(tuned, wanted.budget), measured, f"Written: {target}"])
