"""`edgesteer eval degradation`: did steering, or another quantization, make a model worse?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesteer.cli import options
from edgesteer.cli.console import print_json, progress_bars
from edgesteer.cli.declared import constant
from edgesteer.cli.generate import choose_loop
from edgesteer.cli.profile_task import print_report
from edgesteer.cli.request import load_steering, parse_steer
from edgesteer.errors import EdgeSteerError
from edgesteer.extras import needs_extra
from edgesteer.registry import resolve_model

if TYPE_CHECKING:
    from edgesteer.controller import Controller
    from edgesteer.evaluate.capability import Answer, Item
    from edgesteer.fingerprint import Fingerprint
    from edgesteer.runtime.model import LlamaModel
    from edgesteer.runtime.request import Steering

    Loaded = tuple[list[Controller], list[Steering]]

BUILT_IN: list[Path | None] = [None]
CAPABILITY = "edgesteer.evaluate.capability"
DEGRADED = 4
"""The exit code of --fail."""


@options.device_options
def degradation(
    before: Annotated[str, typer.Argument(metavar="MODEL_A", help="A GGUF file, or a model's name; unsteered.")],
    devices: dict[str, Any],
    after: Annotated[
        str | None, typer.Argument(metavar="MODEL_B", help="Another quantization; MODEL_A, steered, by default.")
    ] = None,
    items: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            show_default="built-in ones",
            help="Items with several choices: TOML, JSONL or CSV; may be given several times.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, show_default="all", help="Most items of each benchmark.")] = None,
    steer: options.SteerOption = None,
    mode: options.ModeOption = None,
    rows: options.RowsOption = options.ROWS,
    open_loop: options.OpenOption = False,
    decay: options.DecayOption = None,
    level: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="How often no damage may pass for damage.")
    ] = constant("edgesteer.evaluate.statistics", "LEVEL"),
    parallel: Annotated[
        int,
        typer.Option("--parallel", "-np", min=1, max=256, rich_help_panel=options.MACHINE, help="Choices at once."),
    ] = constant(CAPABILITY, "PARALLEL"),
    threads: options.ThreadsOption = None,
    n_gpu_layers: options.OffloadOption = options.GPU_LAYERS,
    as_json: options.JsonOption = False,
    fail: Annotated[bool, typer.Option("--fail", help=f"Exit with code {DEGRADED} when the model got worse.")] = False,
) -> None:
    """Test on items with several choices whether steering, or another quantization, made a model worse.

    Compares MODEL_A unsteered with MODEL_B, or with itself, under --steer. JSON: an object with degraded, level,
    benchmarks (accuracy before and after, counts of items that changed, p_value, smallest_drop, calibration errors),
    pooled (the same of all items), and combined p-values.
    """
    loop, values = choose_loop(open_loop, decay), [parse_steer(each) for each in steer or ()]
    if after is None and not values:
        raise EdgeSteerError("what is MODEL_A to be compared with?", expected="MODEL_B or --steer")
    with needs_extra("eval"):
        from edgesteer.evaluate.capability import read_items
        from edgesteer.evaluate.degradation import compare, verdict_notes, verdict_table
    from edgesteer.runtime.model import LlamaModel

    asked = [item for path in items or BUILT_IN for item in read_items(path, limit=limit)]
    load = partial(load_steering, mode=mode, rows=rows, **loop)
    sides = [("before", before, partial(load, [])), ("after", after or before, partial(load, values))]
    with progress_bars() as bars:
        n_choices = sum(len(item.choices) for item in asked)
        first, second = (
            answers(
                partial(LlamaModel, resolve_model(model), n_gpu_layers=n_gpu_layers, **devices), steer_with, asked,
                parallel=parallel, threads=threads, on_choice=bars.stage(name, n_choices),
            )
            for name, model, steer_with in sides
        )  # fmt: skip
    verdict = compare(first, second, level=level)
    if as_json:
        print_json(verdict)
    else:
        print_report("", [verdict_table(verdict)], verdict_notes(verdict))
    if fail and verdict.degraded:
        raise typer.Exit(DEGRADED)


def answers(
    open_model: Callable[[], LlamaModel], load: Callable[[Fingerprint], Loaded], items: list[Item], **options: Any
) -> list[Answer]:
    """Return what a model makes of the items. load: gives the controllers and what is asked of them, for that model.

    options: of answer_items. Warns outside safe ranges.
    """
    from edgesteer.evaluate.capability import answer_items
    from edgesteer.runtime.generate import warn_outside_safe_range

    with open_model() as model:
        controllers, steering = load(model.fingerprint)
        for controller, asked in zip(controllers, steering, strict=True):
            warn_outside_safe_range(controller, asked.strength)
        return answer_items(model, items, controllers, steering, **options)
