"""`edgesteer demo`: one prompt unsteered, steered up and steered down, with what it cost and what the loop measured."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel
from rich.text import Text

from edgesteer import __version__
from edgesteer.cli import options
from edgesteer.cli.console import console, progress_bars, speed, summarize
from edgesteer.cli.declared import fields_of
from edgesteer.cli.export import PIPELINE, make_sidecar
from edgesteer.cli.making import described, generate_command
from edgesteer.cli.request import make_prompt
from edgesteer.concept import ConceptSet, load_concept, resolve_concept
from edgesteer.controller import Controller
from edgesteer.files import atomic_write
from edgesteer.fingerprint import fingerprint_of_gguf
from edgesteer.registry import cache_folder, resolve_model
from edgesteer.steering_file import pick_controller, read_steering

if TYPE_CHECKING:
    from edgesteer.runtime.sequence import Generation

STYLES = {0.0: "none", 1.0: "green", -1.0: "blue"}


def demo(
    model: Annotated[str, typer.Option(help="A GGUF file, or a name of `edgesteer models list`.")] = options.DEMO_MODEL,
    concept: Annotated[str, typer.Option(help="A built-in concept, or a file.")] = options.DEMO_CONCEPT,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to ask.")] = options.DEMO_PROMPT,
    n_predict: Annotated[
        int, typer.Option("--n-predict", "-n", min=1, help="Most tokens of each text.")
    ] = options.DEMO_TOKENS,
    keep: Annotated[Path | None, typer.Option(metavar="OUT.gguf", help="Keep a copy of the sidecar here.")] = None,
) -> None:
    """Export a sidecar for a concept, and answer one prompt unsteered, steered up and steered down.

    The sidecar is made once, which takes some minutes, and kept in the user's cache for the next time.
    """
    path, contrast = resolve_model(model), load_concept(resolve_concept(concept))
    if keep is not None:
        options.check_output(keep, path)
    sidecar = find_or_make(path, contrast)
    if keep is not None:
        with atomic_write(keep) as temporary:
            shutil.copyfile(sidecar, temporary)
    controller = show_answers(path, sidecar, prompt, n_predict)
    print(f"Steered by {described(controller)}")
    print(f"Try: {generate_command(model, keep or sidecar)}")


def find_or_make(model: Path, concept: ConceptSet) -> Path:
    """Return the cached sidecar of a concept for a model; make it when there is none of this version."""
    sidecar = cached_sidecar(model, concept)
    if sidecar.exists():
        print(f"Using {sidecar}, made before")
        return sidecar
    print(f"Making {sidecar}", flush=True)
    sidecar.parent.mkdir(parents=True, exist_ok=True)
    options.check_output(sidecar)
    with progress_bars() as progress:
        make_sidecar(model, concept, sidecar, {}, progress)
    return sidecar


def cached_sidecar(model: Path, concept: ConceptSet) -> Path:
    """Return where the sidecar belongs: its name changes with the model, the concept, the version and the defaults."""
    defaults = [(field.name, field.default) for field in fields_of(PIPELINE, "ExportOptions")]
    facts = repr((fingerprint_of_gguf(model), concept.sha256, __version__, defaults))
    key = hashlib.sha256(facts.encode()).hexdigest()[:12]
    return cache_folder() / "sidecars" / f"{concept.name}-{key}.gguf"


def show_answers(model: Path, sidecar: Path, prompt: str, n_predict: int) -> Controller:
    """Print the three answers and return the controller that steered them."""
    from edgesteer.runtime.engine import Engine
    from edgesteer.runtime.generate import TextStream
    from edgesteer.runtime.model import LlamaModel
    from edgesteer.runtime.request import Steering
    from edgesteer.runtime.sampling import Sampling

    sampling = Sampling(temp=options.DEMO_TEMP)
    with LlamaModel(model) as llama:
        controller = pick_controller(read_steering(sidecar, llama.fingerprint).controllers, None, sidecar)
        words = make_prompt(llama, prompt, "", raw=False)
        print(f"\n{prompt}\n")
        with Engine(llama, [controller]) as engine:
            for direction in STYLES:
                asked = Steering(controller.name, direction * controller.default_strength)
                show_answer(direction, controller, TextStream(engine, words, [asked], sampling, n_predict).run())
    return controller


def show_answer(direction: float, controller: Controller, generation: Generation) -> None:
    """Print one answer, in a panel where there is a terminal."""
    report, text = generation.steering[0], generation.text.strip()
    pole = {0.0: "unsteered", 1.0: f"towards {controller.positive}", -1.0: f"towards {controller.negative}"}[direction]
    title = f"{pole}, strength {report.strength:g}, {speed(generation.timings)}"
    measured = str(summarize(report)) if direction else ""
    if sys.stdout.isatty():
        body = Text.assemble(text, (f"\n\n{measured}" if measured else "", "dim"))
        console().print(Panel(body, title=title, border_style=STYLES[direction]))
    else:
        print(f"--- {title}\n{text}\n{measured}")
