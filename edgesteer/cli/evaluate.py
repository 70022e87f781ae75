"""`edgesteer eval`: does it steer, and what does it cost? The sweep is the group's own command; others join `app`.

A subcommand of another module joins where `app` is made: app.command()(degradation.degradation).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from edgesteer.cli import degradation, options, questionnaire
from edgesteer.cli.console import print_table, progress_bars
from edgesteer.cli.declared import constant, field_default
from edgesteer.cli.groups import CommandOrGroup
from edgesteer.errors import EdgeSteerError
from edgesteer.extras import needs_extra
from edgesteer.fingerprint import sha256_of_file
from edgesteer.registry import resolve_model
from edgesteer.steering_file import pick_controller, read_steering, split_name, unused_name

if TYPE_CHECKING:
    from edgesteer.evaluate.arm import Arm
    from edgesteer.evaluate.judges import Judge
    from edgesteer.evaluate.suite import Suite
    from edgesteer.fingerprint import Fingerprint
    from edgesteer.runtime.model import LlamaModel

WORK = "How much"
STRENGTHS = constant("edgesteer.evaluate.arm", "STRENGTHS")
BASELINES = constant("edgesteer.evaluate.arm", "BASELINES")
EXPERIMENT = "edgesteer.evaluate.experiment"

app = typer.Typer(cls=CommandOrGroup, invoke_without_command=True, context_settings={"allow_interspersed_args": True})
app.command()(degradation.degradation)
app.command()(questionnaire.questionnaire)


@app.callback()
@options.device_options
def evaluate(
    model: options.ModelArgument,
    devices: dict[str, Any],
    steer: Annotated[
        str,
        typer.Option(
            metavar="FILE[#NAME]", rich_help_panel=options.STEERING, help="The sidecar or control vector to evaluate."
        ),
    ],
    suite: Annotated[str, typer.Option(help="A built-in suite's name, or a TOML file: prompts and judges.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Where results, report and plots go."),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[#NAME]",
            rich_help_panel=options.STEERING,
            help="Compare with this one; may be given several times.",
        ),
    ] = None,
    baselines: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            rich_help_panel=options.STEERING,
            help="Compare with these too: system-prompt (the suite's), open and decay (the controller of --steer with "
            "the loop across tokens opened; with a decaying effort).",
        ),
    ] = "",
    strengths: Annotated[
        str,
        typer.Option(
            metavar="S,...", rich_help_panel=options.STEERING, help="Of the dial; 0, unsteered, is always there."
        ),
    ] = ",".join(map("{:g}".format, STRENGTHS)),
    mode: options.ModeOption = None,
    rows: options.RowsOption = options.ROWS,
    decay: Annotated[
        float,
        typer.Option(
            metavar="TOKENS",
            min=0,
            rich_help_panel=options.STEERING,
            help="Time constant of the baseline decay.",
        ),
    ] = field_default("edgesteer.evaluate.arm", "Arm", "decay_tokens"),
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files lie from which the suite takes prompts.")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, rich_help_panel=WORK, help="Texts for each prompt, arm and strength.")
    ] = constant(EXPERIMENT, "SAMPLES"),
    limit: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=WORK, show_default="all", help="Most prompts, evenly from all groups."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", "-n", min=1, rich_help_panel=WORK, show_default="the suite's", help="Most tokens of a text."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(rich_help_panel=WORK, help="Each prompt and sample has one of its own from it in all arms.")
    ] = 0,
    parallel: Annotated[
        int, typer.Option("--parallel", "-np", min=1, max=256, rich_help_panel=WORK, help="Texts that run at once.")
    ] = constant(EXPERIMENT, "PARALLEL"),
    threads: options.ThreadsOption = None,
    n_gpu_layers: options.OffloadOption = options.GPU_LAYERS,
    force: Annotated[bool, typer.Option("--force", help="Drop what another run left in DIR, and start anew.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many texts it would take, and stop.")] = False,
) -> None:
    """Measure on a suite what a controller does at every strength, and what it costs; compare it with others.

    Writes results.jsonl (every text with its scores), report.md and plots to DIR. The same command resumes an
    evaluation that was interrupted.
    """
    with needs_extra("eval"):
        from edgesteer.evaluate.experiment import n_texts
        from edgesteer.evaluate.judges import make_judge
        from edgesteer.evaluate.suite import load_suite
        from edgesteer.runtime.engine import default_threads
        from edgesteer.runtime.model import LlamaModel
    chosen = load_suite(suite, data)
    chosen = chosen if limit is None else chosen.limited(limit)
    chosen = chosen if max_tokens is None else replace(chosen, max_tokens=max_tokens)
    judges = [make_judge(spec, chosen.folder) for spec in chosen.judges]
    files = [steer, *(against or ())]
    steering = {"mode": mode, "rows": rows}
    with LlamaModel(resolve_model(model), n_gpu_layers=n_gpu_layers, **devices) as loaded:
        arms = arms_of(files, loaded.fingerprint, read_strengths(strengths), **steering)
        arms += baselines_of(baselines, arms[0], chosen, decay)
        warn_outside_safe_ranges(arms)
        numbers = {"samples": samples, "seed": seed, "parallel": parallel, "threads": threads or default_threads()}
        total = n_texts(chosen, arms, samples)
        print(f"{total} texts of at most {chosen.max_tokens} tokens, and their likelihoods", file=sys.stderr)
        if not dry_run:
            digests = [sha256_of_file(split_name(each)[0]) for each in files]
            others = {"steer": digests, "n_gpu_layers": n_gpu_layers, **devices}
            carry_out(Evaluation(loaded, chosen, arms, judges, numbers), output, others, force=force)


def arms_of(values: Sequence[str], loaded: Fingerprint, strengths: tuple[float, ...], **steering: Any) -> list[Arm]:
    """Return an arm for each FILE[#NAME], with the file's name.

    Raises SidecarError, FingerprintError and SteeringError.
    """
    from edgesteer.evaluate.arm import Arm

    arms: list[Arm] = []
    for value in values:
        file, inside = split_name(value)
        controller = pick_controller(read_steering(file, loaded).controllers, inside, file)
        name = unused_name(file.stem if inside is None else f"{file.stem}#{inside}", [arm.name for arm in arms])
        arms.append(Arm(name, controller, strengths, **steering))
    return arms


def baselines_of(names: str, arm: Arm, suite: Suite, decay: float) -> list[Arm]:
    """Return the baselines that are named. Raises SteeringError for one that there is not."""
    from edgesteer.evaluate.arm import baseline

    faded = replace(arm, decay_tokens=decay)
    return [baseline(name.strip(), faded, suite.system) for name in names.split(",") if name.strip()]


def read_strengths(text: str) -> tuple[float, ...]:
    """Return the strengths other than 0 of a text such as `0.5,1`, each once, ascending. Raises EdgeSteerError."""
    try:
        found = sorted({float(each) for each in text.split(",")} - {0.0})
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise EdgeSteerError("not a list of strengths", where="--strengths", expected="such as 0.5,1", found=repr(text))
    return tuple(found)


def warn_outside_safe_ranges(arms: Sequence[Arm]) -> None:
    """Warn once of each controller that an arm takes outside its safe range, at the furthest strength."""
    from edgesteer.runtime.generate import warn_outside_safe_range

    furthest = {id(arm.controller): arm for arm in arms}
    for arm in furthest.values():
        if arm.controller is not None:
            warn_outside_safe_range(arm.controller, max(arm.strengths, key=abs))


class Evaluation(NamedTuple):
    """What is run. numbers: samples, seed, parallel and threads."""

    model: LlamaModel
    suite: Suite
    arms: list[Arm]
    judges: list[Judge]
    numbers: dict[str, int]


def carry_out(evaluation: Evaluation, output: Path, others: dict[str, Any], *, force: bool) -> None:
    """Run an evaluation, or what is left of it, and report. others: what else decides the results."""
    from edgesteer.evaluate.experiment import n_texts, run_experiment, settings_of
    from edgesteer.evaluate.folder import ResultsFolder
    from edgesteer.evaluate.report import write_report
    from edgesteer.evaluate.tables import headline

    model, suite, arms, judges, numbers = evaluation
    settings = {"model": sha256_of_file(model.path), **others, **settings_of(suite, arms, **numbers)}
    with ResultsFolder(output, settings, force=force) as folder, progress_bars() as bars:
        left = n_texts(suite, arms, numbers["samples"]) - len(folder.records)
        advance = bars.stage("texts", left)
        try:
            records = run_experiment(
                model, suite, arms, judges, **numbers,
                records=folder.records, on_record=folder.append, on_text=advance,
            )  # fmt: skip
        except KeyboardInterrupt:
            print(f"What was done is in {output}; the same command goes on from there.", file=sys.stderr)
            raise
        folder.finish(records)
    name = model.fingerprint.model_name or model.path.stem
    report = write_report(output, records, suite, judges, f"{name}, {suite.name}")
    print_table(*headline(records, suite.primary))
    print(f"Written: {report}", file=sys.stderr)
