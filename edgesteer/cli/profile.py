"""`edgesteer profile`: latency, memory and energy of a model; `edgesteer profile compare`: of two runs.

The options, and what they come to; profile_task.py carries it out.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from edgesteer.cli import options
from edgesteer.cli.console import print_json
from edgesteer.cli.declared import constant, field_default
from edgesteer.cli.generate import choose_loop
from edgesteer.cli.groups import CommandOrGroup
from edgesteer.cli.options import MACHINE
from edgesteer.cli.profile_task import INTERRUPTED, Files, Task, ended_by_interrupt, print_report
from edgesteer.cli.request import load_steering, parse_steer
from edgesteer.errors import EdgeSteerError
from edgesteer.extras import needs_extra
from edgesteer.registry import resolve_model

MEASURED = "What to measure; all by default"
SWEEP = "Lengths and repeats; lists such as 128,512 are swept over"
FILES = "Files"
QUANTIZATIONS = "Choosing a quantization"
MOST = 1 << 20
"""Tokens, requests, threads or blocks that no machine goes beyond."""

SETTINGS = ("edgesteer.profile.sweep", "Settings")
CACHE_TYPES = "|".join(constant("edgesteer.runtime.engine", "CACHE_TYPES"))


app = typer.Typer(cls=CommandOrGroup, invoke_without_command=True, context_settings={"allow_interspersed_args": True})


def default_list(field: str) -> str:
    """Return a default of Settings as the option has it."""
    return ",".join(map(str, field_default(*SETTINGS, field)))


def quantity(name: str, help_text: str) -> Any:
    return typer.Option(name, rich_help_panel=MEASURED, help=help_text)


def numbers(name: str, help_text: str, *short: str, **details: Any) -> Any:
    return typer.Option(name, *short, metavar="N,...", rich_help_panel=SWEEP, help=help_text, **details)


@app.callback()
@options.device_options
def profile(
    devices: dict[str, Any],
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A GGUF file, or a name that `edgesteer models list` shows.")
    ] = None,
    size: Annotated[bool, quantity("--size", "Parameters, weights, KV cache, buffers, sidecars.")] = False,
    ttft: Annotated[bool, quantity("--ttft", "Time to the first token.")] = False,
    tpot: Annotated[bool, quantity("--tpot", "Time per token after the first.")] = False,
    ttlt: Annotated[bool, quantity("--ttlt", "Time to the last token.")] = False,
    energy: Annotated[bool, quantity("--energy", "Joules and watts, where a meter can be read.")] = False,
    prompt_len: Annotated[str, numbers("--prompt-len", "Tokens of the prompt.")] = default_list("prompt_len"),
    gen_len: Annotated[str, numbers("--gen-len", "Tokens to generate.")] = default_list("gen_len"),
    batch: Annotated[str, numbers("--batch", "Requests that run at once.")] = default_list("batch"),
    threads: Annotated[
        str | None, numbers("--threads", "CPU threads.", "-t", show_default="the machine's cores")
    ] = None,
    n_gpu_layers: Annotated[str, numbers("--n-gpu-layers", "Blocks to offload; -1: all.", "-ngl")] = default_list(
        "n_gpu_layers"
    ),
    repeats: Annotated[
        int, typer.Option("--repeats", "-r", min=1, rich_help_panel=SWEEP, help="Measurements of each combination.")
    ] = field_default(*SETTINGS, "repeats"),
    warmup: Annotated[
        int, typer.Option(min=0, rich_help_panel=SWEEP, help="Measurements before them that do not count.")
    ] = field_default(*SETTINGS, "warmup"),
    max_seconds: Annotated[
        float | None,
        typer.Option(min=0, rich_help_panel=SWEEP, help="End after so long, and print what was measured by then."),
    ] = None,
    steer: options.SteerOption = None,
    mode: options.ModeOption = None,
    rows: options.RowsOption = options.ROWS,
    open_loop: options.OpenOption = False,
    decay: options.DecayOption = None,
    batch_size: options.BatchOption = options.BATCH_TOKENS,
    cache_type_k: Annotated[
        str, typer.Option("--cache-type-k", "-ctk", metavar=CACHE_TYPES, rich_help_panel=MACHINE, help="Type of keys.")
    ] = field_default(*SETTINGS, "cache_type_k"),
    cache_type_v: Annotated[
        str,
        typer.Option("--cache-type-v", "-ctv", metavar=CACHE_TYPES, rich_help_panel=MACHINE, help="Type of values."),
    ] = field_default(*SETTINGS, "cache_type_v"),
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="OUT.json", rich_help_panel=FILES, help="Write everything, each sample too."),
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", metavar="OUT.csv", rich_help_panel=FILES, help="Write a line for every request."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.json",
            rich_help_panel=FILES,
            help="Write where the time of one measurement goes, for Perfetto or chrome://tracing.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="OUT.png", rich_help_panel=FILES, help="Draw latency and energy over what was swept."),
    ] = None,
    quantizations: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", rich_help_panel=QUANTIZATIONS, help="Measure every GGUF of a folder in place of MODEL."
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=QUANTIZATIONS, help="The text on which their quality is measured."
        ),
    ] = None,
) -> None:
    """Measure a model's size, latency and energy on this machine, steered and unsteered in alternation.

    `edgesteer profile compare A.json B.json` compares two runs.
    """
    wanted = chosen({"size": size, "ttft": ttft, "tpot": tpot, "ttlt": ttlt, "energy": energy})
    files = Files(json_file, csv_file, trace, plot, quantizations, text)
    loop, values = choose_loop(open_loop, decay), [parse_steer(each) for each in steer or ()]
    with needs_extra("profile"):
        from edgesteer.profile.latency import Budget
        from edgesteer.profile.run import fewer
        from edgesteer.profile.sweep import Settings, SteerWith
        from edgesteer.runtime.engine import default_threads
    settings = Settings(
        prompt_len=read_numbers("--prompt-len", prompt_len),
        gen_len=read_numbers("--gen-len", gen_len),
        batch=read_numbers("--batch", batch),
        threads=read_numbers("--threads", threads) if threads else (default_threads(),),
        n_gpu_layers=read_numbers("--n-gpu-layers", n_gpu_layers, least=-1),
        devices=devices,
        repeats=repeats,
        warmup=warmup,
        batch_tokens=batch_size,
        cache_type_k=cache_type_k,
        cache_type_v=cache_type_v,
    )
    load = partial(load_steering, values, mode=mode, rows=rows, **loop)
    steer_with = SteerWith(load, tuple(value.file for value in values)) if values else None
    task = Task(fewer(settings, wanted), wanted, files, steer_with, Budget(max_seconds))
    if (model is None) == (quantizations is None):
        raise EdgeSteerError("what is to be measured?", expected="MODEL or --quantizations DIR, and not both")
    path = None if model is None else resolve_model(model)
    files.check(*filter(None, [path, text]), *task.sidecars)
    with ended_by_interrupt(task.budget):
        task.profile_folder() if path is None else task.profile_model(path)
    if task.budget.reason == INTERRUPTED:
        raise KeyboardInterrupt


def chosen(given: dict[str, bool]) -> tuple[str, ...]:
    """Return the quantities that were asked for, all when none was."""
    return tuple(name for name, wanted in given.items() if wanted) or tuple(given)


def read_numbers(option: str, text: str, least: int = 1) -> tuple[int, ...]:
    """Return the numbers of a text such as `128,512`, each once. Raises EdgeSteerError."""
    try:
        found = tuple(dict.fromkeys(int(each) for each in text.split(",")))
    except ValueError:
        found = ()
    if not found or min(found) < least or max(found) > MOST:
        raise EdgeSteerError(
            "not a list of numbers", where=option, expected=f"{least} to {MOST}, as in 128,512", found=repr(text)
        )
    return found


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="A file of `edgesteer profile --json`.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="Another one.")],
    as_json: options.JsonOption = False,
) -> None:
    """Compare two profiles, and say where they differ beyond noise.

    JSON: an object with confidence (of all intervals together), rows (cell, variant, metric, before and after: medians,
    ratio: of after to before, n_before, n_after, verdict), differences and unmatched.
    """
    with needs_extra("profile"):
        from edgesteer.profile.compare import compare_profiles
        from edgesteer.profile.document import read_document
        from edgesteer.profile.report import comparison_notes, comparison_table
    comparison = compare_profiles(read_document(before), read_document(after))
    if as_json:
        print_json(comparison)
        return
    print_report("", [comparison_table(comparison)], comparison_notes(comparison))
