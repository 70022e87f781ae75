"""`edgesteer generate`: one text from one prompt, or many from many, under any number of controllers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesteer.cli import options
from edgesteer.cli.bulk import generate_lines, open_lines
from edgesteer.cli.bulk_task import Settings
from edgesteer.cli.console import as_plain, print_json, speed, summarize
from edgesteer.cli.options import options_from
from edgesteer.cli.records import timings_record
from edgesteer.cli.request import SteerValue, load_steering, make_prompt, parse_steer, read_prompt
from edgesteer.errors import EdgeSteerError, SteeringError
from edgesteer.registry import resolve_model

if TYPE_CHECKING:
    from edgesteer.runtime.generate import TextStream
    from edgesteer.runtime.model import LlamaModel
    from edgesteer.runtime.request import Steering
    from edgesteer.runtime.sequence import Generation


@options_from("edgesteer.runtime.sampling", "Sampling", argument="sampling", panel="Sampling", flags={"seed": ("-s",)})
@options.device_options
def generate(
    model: options.ModelArgument,
    sampling: dict[str, Any],
    devices: dict[str, Any],
    prompt: options.PromptOption = None,
    file: options.FileOption = None,
    source: options.InputOption = None,
    output: options.OutputOption = None,
    parallel: options.ParallelOption = options.PARALLEL,
    samples: options.SamplesOption = 1,
    ordered: options.OrderOption = True,
    system: options.SystemOption = "",
    raw: options.RawOption = False,
    n_predict: options.LengthOption = options.MAX_TOKENS,
    stop: options.StopOption = None,
    steer: options.SteerOption = None,
    mode: options.ModeOption = None,
    rows: options.RowsOption = options.ROWS,
    open_loop: options.OpenOption = False,
    decay: options.DecayOption = None,
    ctx_size: options.ContextOption = None,
    batch_size: options.BatchOption = options.BATCH_TOKENS,
    threads: options.ThreadsOption = None,
    n_gpu_layers: options.OffloadOption = options.GPU_LAYERS,
    as_json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Generate text, steered or not; with --input, of many prompts at once.

    JSON: an object with model, text, tokens, stop_reason, timings (as llama.cpp's server names them), steering (what
    was asked of each controller) and telemetry (what its loop measured; null where nothing was). With --input, an
    object a line for each text, and for each error.
    """
    loop, values = choose_loop(open_loop, decay), [parse_steer(each) for each in steer or ()]
    one_prompt = {"--prompt": prompt is not None, "--file": file is not None, "--json": as_json, "--verbose": verbose}
    check_bulk(source, one_prompt, {"--output": output is not None, "--samples": samples != 1})
    lines = open_lines(source, output, parallel) if source is not None else None
    text = read_prompt(prompt, file) if lines is None else ""
    from edgesteer.runtime.engine import Engine
    from edgesteer.runtime.generate import TextStream
    from edgesteer.runtime.model import LlamaModel
    from edgesteer.runtime.sampling import Sampling

    with LlamaModel(resolve_model(model), n_gpu_layers=n_gpu_layers, **devices) as llama:
        controllers, steering = load_steering(values, llama.fingerprint, mode=mode, rows=rows, **loop)
        with Engine(
            llama,
            controllers,
            context_tokens=ctx_size,
            batch_tokens=batch_size,
            n_sequences=1 if lines is None else parallel,
            threads=threads,
        ) as engine:
            if lines is not None:
                settings = Settings(tuple(steering), Sampling(**sampling), system, raw, n_predict, stop or (), samples)
                return generate_lines(engine, values, settings, lines, output, ordered=ordered)
            words = make_prompt(llama, text, system, raw)
            limit = n_predict if n_predict >= 0 else engine.context_tokens
            stream = TextStream(engine, words, steering, Sampling(**sampling), limit, stop or ())
            generation = stream.run() if as_json else print_stream(stream)
    if as_json:
        print_json(as_object(generation, llama, values, steering))
    if verbose:
        print_measurements(generation)


def check_bulk(source: Path | None, one: dict[str, bool], many: dict[str, bool]) -> None:
    """Raise EdgeSteerError for an option that goes only with one prompt, or only with many. one, many: given or not."""
    wrong = [name for name, given in (many if source is None else one).items() if given]
    if wrong:
        raise EdgeSteerError(f"{wrong[0]} {'needs' if source is None else 'does not go with'} --input")


def choose_loop(open_loop: bool, decay: float | None) -> dict[str, Any]:
    """Return the fields of Steering that say what happens across tokens."""
    if open_loop and decay is not None:
        raise SteeringError("--open and --decay exclude each other", remedy="Give one of them.")
    if decay is not None:
        return {"loop": "decay", "decay_tokens": decay}
    return {"loop": "open"} if open_loop else {}


def print_stream(stream: TextStream) -> Generation:
    """Print the text as it comes; Ctrl-C leaves what there is, on a line of its own."""
    try:
        for piece in stream:
            print(piece, end="", flush=True)
    finally:
        print(flush=True)
    return stream.result


def as_object(
    generation: Generation, model: LlamaModel, values: list[SteerValue], steering: list[Steering]
) -> dict[str, Any]:
    """Return what --json prints."""
    return {
        "model": {"path": model.path, "name": model.fingerprint.model_name},
        "text": generation.text,
        "tokens": generation.tokens,
        "stop_reason": generation.stop_reason,
        "timings": timings_record(generation.timings),
        "steering": [{"file": value.file, **as_plain(asked)} for value, asked in zip(values, steering, strict=True)],
        "telemetry": generation.steering,
    }


def print_measurements(generation: Generation) -> None:
    """Print the speed, and a line a controller of what its loop measured, on stderr."""
    timings = generation.timings
    print(
        f"prompt: {timings.prompt_n} tokens at {timings.prompt_per_second:.1f} tokens/s; "
        f"text: {timings.predicted_n} tokens at {speed(timings)}; ended by: {generation.stop_reason}",
        file=sys.stderr,
    )
    for report in generation.steering:
        print(f"{report.controller} at {report.strength:g}: {summarize(report)}", file=sys.stderr)
