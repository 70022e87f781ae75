"""`edgesteer eval questionnaire`: what steering does to the five traits of which a model tells about itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from edgesteer.cli import options
from edgesteer.cli.console import print_json, progress_bars
from edgesteer.cli.declared import constant
from edgesteer.cli.degradation import answers
from edgesteer.cli.generate import choose_loop
from edgesteer.cli.profile_task import print_report
from edgesteer.cli.request import load_steering, parse_steer
from edgesteer.extras import needs_extra
from edgesteer.registry import resolve_model


@options.device_options
def questionnaire(
    model: options.ModelArgument,
    items: Annotated[Path, typer.Argument(metavar="ITEMS", help="CSV with the columns text, label_ocean and key.")],
    steer: options.SteerOption,
    devices: dict[str, Any],
    limit: Annotated[
        int | None, typer.Option(min=1, show_default="all", help="Most items of each trait and key.")
    ] = None,
    mode: options.ModeOption = None,
    rows: options.RowsOption = options.ROWS,
    open_loop: options.OpenOption = False,
    decay: options.DecayOption = None,
    parallel: Annotated[
        int,
        typer.Option("--parallel", "-np", min=1, max=256, rich_help_panel=options.MACHINE, help="Answers at once."),
    ] = constant("edgesteer.evaluate.capability", "PARALLEL"),
    threads: options.ThreadsOption = None,
    n_gpu_layers: options.OffloadOption = options.GPU_LAYERS,
    as_json: options.JsonOption = False,
) -> None:
    """Ask a model the items of a Big Five questionnaire, unsteered and steered, and compare the five traits.

    An item is scored by the log likelihoods of its five answers. JSON: a list with trait, n, before, after and change.
    """
    loop, values = choose_loop(open_loop, decay), [parse_steer(each) for each in steer or ()]
    with needs_extra("eval"):
        from edgesteer.evaluate.questionnaire import as_choices, compare, read_items, scores_table
    from edgesteer.runtime.model import LlamaModel

    asked = read_items(items, limit=limit)
    choices, load = as_choices(asked), partial(load_steering, mode=mode, rows=rows, **loop)
    n_choices = sum(len(each.choices) for each in choices)
    sides = {"before": partial(load, []), "after": partial(load, values)}
    with progress_bars() as bars:
        before, after = (
            answers(
                partial(LlamaModel, resolve_model(model), n_gpu_layers=n_gpu_layers, **devices), steer_with, choices,
                parallel=parallel, threads=threads, on_choice=bars.stage(name, n_choices),
            )
            for name, steer_with in sides.items()
        )  # fmt: skip
    scores = compare(asked, *([answer.scores for answer in side] for side in (before, after)))
    if as_json:
        print_json(scores)
    else:
        print_report("", [scores_table(scores)], [])
