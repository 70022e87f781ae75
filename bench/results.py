"""Results: every way of steering on every concept and model, in one run, and docs/results.md out of it.

Judges are fitted on labelled data that is not part of the project (--data); sidecars are exported, and texts generated
with the same prompts and seeds for all arms. What is there already in the work folder is not made again, so that a run
that was broken off goes on. Takes an estimated four hours on two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from results_page import LOOPS, REFERENCE, REPEATED, SCHEDULED, UPPER, Run, draw, page, picture_of

from edgesteer.concept import load_concept, load_neutral, resolve_concept
from edgesteer.control.options import SCHEDULED_LOOP
from edgesteer.controller import Controller
from edgesteer.errors import SteeringError
from edgesteer.evaluate.arm import Arm
from edgesteer.evaluate.experiment import run_experiment, settings_of
from edgesteer.evaluate.folder import ResultsFolder
from edgesteer.evaluate.judges import Judge, make_judge
from edgesteer.evaluate.record import Key, Record
from edgesteer.evaluate.report import write_report
from edgesteer.evaluate.suite import Suite, load_suite
from edgesteer.fingerprint import sha256_of_file
from edgesteer.registry import resolve_model
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.quantize import quantize
from edgesteer.sidecar import Sidecar, read_sidecar, write_sidecar
from edgesteer.tune.settings import restricted


@dataclass(frozen=True)
class Plan:
    """How a model takes part. quantization: what it is requantized to. n_prompts: most of a suite; None: as it is."""

    quantization: str | None = None
    n_prompts: int | None = None


MODELS = {"smollm2": Plan(quantization="Q4_0"), "gemma3": Plan(n_prompts=12)}
"""llama.cpp decodes batches of Q4_0 faster than those of Q4_1; Gemma's vocabulary makes a text three times as slow."""
CONCEPTS = (
    "ocean", "dogs", "optimism", "french", "simplicity", "civility", "refusal", "extraversion", "conscientiousness",
)  # fmt: skip
REFERENCE_FRACTIONS, OPEN_FRACTIONS = (0.2, 0.35, 0.5, 0.75), (0.25, 0.45, 0.7)
CLOSED_FRACTIONS = (0.25, 0.5, 0.75, 1.0)
"""Strengths, as shares of the upper end of a controller's safe range."""
SCHEDULED_FRACTIONS = (0.15, 0.3, 0.45, 0.6)
"""Those of `scheduled` without its loop: its range on neutral text is longer than that of a static vector."""
REPEATED_FRACTIONS, REPEATED_SAMPLES = ((0.35, 0.5), (0.7, 1.0)), 3
"""Strengths of the static vector and of the loop whose texts are repeated, to tell prompts from chance."""
DECAY_FRACTIONS = (1.0, 1.4)
"""The end of the dial of a push that decays: beyond the range of one that stays."""
UPPER_STRENGTH = 1.4
"""How much further a static vector's dial goes where only the upper half of the blocks pushes."""
JACOBIAN_PROMPTS, CALIBRATION_TEXTS = 8, 2
"""Fewer than by default: the sweep finds by itself what a strength does."""

PARTS = ("", "-scheduled")
"""Endings of the names of a concept's sidecars, which are made apart."""

Rows = Iterator[tuple[str, int]]


# ---- judges ----


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def sentiment_rows(data: Path) -> Rows:
    for line in (data / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines():
        text, _, label = line.rpartition("\t")
        yield text, int(label)


def civil_rows(data: Path) -> Rows:
    with (data / "paradetox" / "paradetox.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            yield row["toxic"], 0
            yield row["neutral1"], 1


def refusal_rows(data: Path) -> Rows:
    for row in json_lines(data / "cast_ibm" / "behavior_refusal.jsonl"):
        yield row["text"], int(row["kind"] == "non_compliant_responses")


def trait_rows(trait: str) -> Callable[[Path], Rows]:
    def rows(data: Path) -> Rows:
        for row in json_lines(data / "persona_ocean" / f"{trait}.jsonl"):
            yield row["statement"], int(row["answer_matching_behavior"].strip() == "Yes")

    return rows


HEADS: Mapping[str, Callable[[Path], Rows]] = {
    "optimism": sentiment_rows,
    "civility": civil_rows,
    "refusal": refusal_rows,
    "extraversion": trait_rows("extraversion"),
    "conscientiousness": trait_rows("conscientiousness"),
}
"""Concepts whose judge is a head on the sentence encoder; the others keep that of their suite."""


def fitted_head(concept: str, data: Path, work: Path) -> Path:
    """Return the head of a concept's judge, fitted if need be."""
    head, labelled = work / "judges" / f"{concept}.onnx", work / "judges" / f"{concept}.tsv"
    if not head.exists():
        labelled.parent.mkdir(parents=True, exist_ok=True)
        rows = {" ".join(text.split()): label for text, label in HEADS[concept](data) if text.strip()}
        labelled.write_text("".join(f"{text}\t{label}\n" for text, label in rows.items()), encoding="utf-8")
        command = [str(Path(sys.executable).with_name("edgesteer")), "judge", "fit", str(labelled), "-o", str(head)]
        subprocess.run(command, check=True)
    return head


def suite_of(concept: str, data: Path, work: Path, limit: int | None) -> Suite:
    """Return the concept's suite, judged by a head where there is one; its own judge stays as another."""
    suite = load_suite(concept)
    if limit is not None:
        suite = suite.limited(limit)
    if concept not in HEADS:
        return suite
    name = f"{concept}-head"
    spec = {"kind": "encoder", "name": name, "head": str(fitted_head(concept, data, work).resolve())}
    return replace(suite, judges=(spec, *suite.judges), primary=name)


# ---- controllers ----


def export_all(model: str, concepts: Sequence[str], work: Path) -> None:
    """Write the sidecars with all controllers of each concept, where one is missing."""
    from edgesteer.export.pipeline import ExportOptions, analyse, controller_of
    from edgesteer.export.weights import load_model

    files = {concept: [sidecar_path(model, concept, work, part) for part in PARTS] for concept in concepts}
    missing = [concept for concept, paths in files.items() if not all(path.exists() for path in paths)]
    if not missing:
        return
    loaded = load_model(model_path(model, work))
    options = ExportOptions(jacobian_prompts=JACOBIAN_PROMPTS)
    third = loaded.n_blocks // 3
    first: dict[str, dict[str, Any]] = {
        LOOPS[0]: {},
        REFERENCE: {"law": "add"},
        "static-middle": {"law": "add", "blocks": tuple(range(third, loaded.n_blocks - third))},
        "pca": {"law": "add", "direction": "pca"},
        "a-lqr": {"law": "a-lqr"},
        "pid": {"law": "pid"},
        "rotate": {"law": "rotate"},
    }
    variants = {PARTS[0]: first, PARTS[1]: {SCHEDULED[0]: {"law": "scheduled"}}}
    for concept in missing:
        print(f"export {model} {concept}", flush=True)
        analysis = analyse(loaded, load_concept(resolve_concept(concept)), load_neutral(), options, Quiet())
        analysis = replace(analysis, calibration_texts=analysis.calibration_texts[:CALIBRATION_TEXTS])
        for part, path in zip(PARTS, files[concept], strict=True):
            if path.exists():
                continue
            controllers = {}
            for name, changes in variants[part].items():
                try:
                    made = controller_of(loaded, analysis, replace(options, **changes), Quiet())
                except SteeringError as error:  # such as `rotate` where no block has its classes on opposite sides
                    print(f"{model} {concept}: no {name}: {error}", flush=True)
                    continue
                controllers[name] = replace(made, name=name)
            write_sidecar(path, Sidecar(loaded.fingerprint, controllers))


class Quiet:
    """A Progress that shows nothing."""

    def stage(self, name: str, total: int) -> Callable[[], None]:
        return lambda: None


def model_path(model: str, work: Path) -> Path:
    """Return the file of a model, requantized if need be."""
    path, quantization = resolve_model(model), MODELS[model].quantization
    if quantization is None:
        return path
    output = work / f"{model}-{quantization}.gguf"
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        quantize(path, output, quantization)
    return output


def sidecar_path(model: str, concept: str, work: Path, part: str = "") -> Path:
    folder = work / model
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{concept}{part}.gguf"


def arms_of(controllers: Mapping[str, Controller], suite: Suite, has_chat: bool) -> list[Arm]:
    """Return all ways of steering: ours first."""
    closed, static = controllers[LOOPS[0]], controllers[REFERENCE]
    others = {name: each for name, each in controllers.items() if name not in (LOOPS[0], REFERENCE)}
    arms = [
        Arm(LOOPS[0], closed, strengths(closed, CLOSED_FRACTIONS)),
        Arm(LOOPS[1], static, strengths(static, CLOSED_FRACTIONS)),
        Arm(REFERENCE, static, strengths(static, REFERENCE_FRACTIONS), loop="open"),
        *(Arm(name, each, strengths(each, OPEN_FRACTIONS), loop="open") for name, each in others.items()),
        decay_of(static, OPEN_FRACTIONS),
    ]
    return [*arms, Arm("system-prompt", system=suite.system)] if has_chat else arms


def decay_of(static: Controller, fractions: Iterable[float]) -> Arm:
    return Arm("decay", static, strengths(static, fractions), loop="decay")


def upper_arms_of(controllers: Mapping[str, Controller]) -> list[Arm]:
    """Return the ways of steering that leave the lower half of the blocks alone; these have runs of their own."""
    closed, static = upper_half(controllers[LOOPS[0]]), upper_half(controllers[REFERENCE], UPPER_STRENGTH)
    return [
        Arm(UPPER[0], closed, strengths(closed, CLOSED_FRACTIONS)),
        Arm(UPPER[1], static, strengths(static, CLOSED_FRACTIONS)),
        Arm(UPPER[2], static, strengths(static, REFERENCE_FRACTIONS), loop="open"),
    ]


def loop_arms_of(static: Controller, scheduled: Controller) -> list[Arm]:
    """Return the static vector and a scheduled gain with the loop that the latter has by default."""
    pairs = zip(SCHEDULED[1:], (scheduled, static), strict=True)
    return [Arm(name, with_default_loop(each), strengths(each, CLOSED_FRACTIONS)) for name, each in pairs]


def with_default_loop(controller: Controller) -> Controller:
    assert controller.sensor is not None
    return replace(controller, sensor=replace(controller.sensor, **SCHEDULED_LOOP._asdict()))


def upper_half(controller: Controller, further: float = 1.0) -> Controller:
    low, high = controller.safe_range
    kept = np.array(controller.blocks) >= controller.n_blocks // 2
    return replace(restricted(controller, kept), safe_range=(further * low, further * high))


def repeated_arms_of(arms: Sequence[Arm]) -> list[Arm]:
    """Return the static vector and a loop with a scheduled gain, at a few strengths."""
    chosen = [next(arm for arm in arms if arm.name == name) for name in REPEATED]
    return [
        replace(arm, strengths=strengths(arm.controller, fractions))
        for arm, fractions in zip(chosen, REPEATED_FRACTIONS, strict=True)
        if arm.controller is not None
    ]


def strengths(controller: Controller, fractions: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(f"{fraction * controller.safe_range[1]:.3g}") for fraction in fractions)


# ---- texts ----


def sweep(model: LlamaModel, name: str, concept: str, suite: Suite, work: Path, options: argparse.Namespace) -> Run:
    """Generate and judge the texts of one concept, or read those that are there; new ones get a report."""
    path, scheduled = (sidecar_path(name, concept, work, part) for part in PARTS)
    judges = [make_judge(spec, suite.folder) for spec in suite.judges]
    controllers = read_sidecar(path).controllers
    static, gain = controllers[REFERENCE], read_sidecar(scheduled).controllers[SCHEDULED[0]]
    records: dict[Key, Record] = {}
    folder = work / name / concept
    parts = {
        folder: (path, arms_of(controllers, suite, model.chat.source is not None)),
        folder / "upper": (path, upper_arms_of(controllers)),
        folder / "decay": (path, [decay_of(static, DECAY_FRACTIONS)]),
        folder / "scheduled": (
            scheduled,
            [Arm(SCHEDULED[0], gain, strengths(gain, SCHEDULED_FRACTIONS), loop="open")],
        ),
        folder / "loops": (scheduled, loop_arms_of(static, gain)),
    }
    for part, (sidecar, arms) in parts.items():
        for record in texts_of(model, suite, arms, judges, part, sidecar, options, options.samples):
            records.setdefault(record.key, record)  # the unsteered ones are in all
    arms = repeated_arms_of([arm for _, each in parts.values() for arm in each])
    repeated = texts_of(model, suite, arms, judges, folder / "repeated", scheduled, options, REPEATED_SAMPLES)
    print(f"{name} {concept}: {len(records) + len(repeated)} texts", flush=True)
    return Run(name, concept, suite, judges, list(records.values()), repeated)


def texts_of(
    model: LlamaModel,
    suite: Suite,
    arms: Sequence[Arm],
    judges: Sequence[Judge],
    path: Path,
    sidecar: Path,
    options: argparse.Namespace,
    samples: int,
) -> list[Record]:
    numbers = {"samples": samples, "seed": 0, "parallel": options.parallel, "threads": options.threads}
    files = {"model": sha256_of_file(model.path), "steer": sha256_of_file(sidecar)}
    settings = {**files, **settings_of(suite, arms, **numbers)}
    with ResultsFolder(path, settings) as folder:
        known = len(folder.records)
        records = run_experiment(model, suite, arms, judges, **numbers, records=folder.records, on_record=folder.append)
        folder.finish(records)
    if len(records) > known or not (path / "report.md").exists():
        write_report(folder.path, records, suite, judges, f"{model.path.stem}, {suite.name}")
    return records


def sweeps(name: str, options: argparse.Namespace) -> list[Run]:
    """Generate and judge the texts of all concepts on one model."""
    with LlamaModel(model_path(name, options.work)) as model:
        limit = options.limit or MODELS[name].n_prompts
        suites = {concept: suite_of(concept, options.data, options.work, limit) for concept in options.concepts}
        return [sweep(model, name, concept, suite, options.work, options) for concept, suite in suites.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of labelled data")
    parser.add_argument("--work", type=Path, default=Path("build/results"))
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--limit", type=int, help="most prompts of a suite")
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="of each model; the models run side by side")
    parser.add_argument("--step", choices=("texts", "export"), help=argparse.SUPPRESS)  # of one model, in a process
    options = parser.parse_args()
    if options.step == "export":
        export_all(options.models[0], options.concepts, options.work)
    elif options.step == "texts":
        in_process(options.models[0], "export", options.threads).check_returncode()
        sweeps(options.models[0], options)
    else:
        for concept in filter(HEADS.__contains__, options.concepts):
            fitted_head(concept, options.data, options.work)
        with ThreadPoolExecutor() as pool:
            for ended in [pool.submit(in_process, name, "texts", options.threads) for name in options.models]:
                ended.result().check_returncode()
        runs = [run for name in options.models for run in sweeps(name, options)]
        for name in options.models:
            draw([run for run in runs if run.model == name], options.output.with_name(picture_of(name)))
        options.output.write_text(page(runs, "make results DATA=FOLDER"), encoding="utf-8")


def in_process(name: str, step: str, threads: int) -> subprocess.CompletedProcess[bytes]:
    """Do one step of one model with the options of this call: an export gives its memory back by ending."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    return subprocess.run([sys.executable, *sys.argv, "--models", name, "--step", step], env=environment)


if __name__ == "__main__":
    main()
