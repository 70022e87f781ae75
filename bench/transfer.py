"""Transfer: how well a sidecar that was made from one quantization of a model works on another.

People download sidecars that were made elsewhere. All quantizations of SmolLM2 here are written from the one that the
registry has, so what is measured is how far each moves away from it. The texts are forced: every engine reads the same
tokens of the built-in neutral texts, and steers all of them but each text's first.

    alpha error   of alpha at the steered blocks, root mean square over that of the reference
    added         what strength 1 adds to alpha at the sensor; one sensor reads it everywhere, that of the sidecar made
                  from Q4_1
    nats          divergence of the next-token distribution that strength 1 causes, per token

What is there already in the work folder is not made again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import print_table

from edgesteer.concept import load_neutral
from edgesteer.controller import Array, Command, Controller, Sensor
from edgesteer.registry import resolve_model
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.hook import SENSE, STEER, phi_code
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.quantize import quantize
from edgesteer.sidecar import read_sidecar

MODEL, MADE_FROM = "smollm2", "Q4_1"
QUANTIZATIONS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q4_1")
COLUMNS = (
    "model", "MB", f"alpha error against {MADE_FROM}", f"{MADE_FROM}'s sidecar: added", "nats", "own sidecar: added",
    "nats", f"alpha error of {MADE_FROM}'s against own",
)  # fmt: skip


@dataclass(frozen=True)
class Readings:
    """What one engine measured over N tokens; m steered blocks."""

    alpha: Array
    """(m, N) before control."""
    sensor: Array
    """(N,) before control."""
    logits: Array
    """(N, vocabulary)"""

    def divergence_to(self, other: Readings) -> float:
        """Return the mean Kullback-Leibler divergence per token, in nats."""
        ours, theirs = log_softmax(self.logits), log_softmax(other.logits)
        return float((np.exp(ours) * (ours - theirs)).sum(axis=1).mean())


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probabilities


def model_at(quantization: str, work: Path, threads: int) -> Path:
    """Return the model in a quantization."""
    source = resolve_model(MODEL)
    if quantization == MADE_FROM:
        return source
    output = work / f"{MODEL}-{quantization}.gguf"
    if not output.exists():
        quantize(source, output, quantization, threads=threads)
    return output


def sidecar_of(model: Path, quantization: str, work: Path, options: argparse.Namespace) -> Controller:
    """Return the controller that is exported from a model, in a process of its own."""
    output = work / f"{options.concept}-{options.jacobian_prompts}-{quantization}.gguf"
    if not output.exists():
        command = [sys.executable, "-m", "edgesteer", "export", str(model), "--concept", options.concept]
        command += ["--jacobian-prompts", str(options.jacobian_prompts), "-o", str(output)]
        subprocess.run(command, check=True)
    (controller,) = read_sidecar(output).controllers.values()
    return controller


def forced(model: LlamaModel, controller: Controller, strength: float, texts: Sequence[str], threads: int) -> Readings:
    """Read texts under one strength, with no outer loop, and with the sensor on where nothing is steered, too."""
    command = controller.command(strength) if strength else Command(0.0, 0.0, "hold")
    parts: list[tuple[Array, Array, Array]] = []
    with Engine(model, [controller], threads=threads) as engine:
        for text in texts:
            tokens = model.tokenize(text)[: engine.batch_tokens]
            commands = engine.idle(len(tokens))
            commands[:, 0] = (command.level, command.effort, STEER, phi_code(command.mode))
            commands[0, 0]["action"] = SENSE
            engine.decode(tokens, range(len(tokens)), [True] * len(tokens), commands)
            before, _, _ = engine.measured(controller)
            logits = np.stack([engine.logits(row) for row in range(1, len(tokens))])
            parts.append((before[:-1, 1:].copy(), before[-1, 1:].copy(), logits))
            engine.forget()
    alphas, sensors, all_logits = zip(*parts, strict=True)
    return Readings(np.concatenate(alphas, axis=1), np.concatenate(sensors), np.concatenate(all_logits))


def relative_error(measured: Array, reference: Array) -> float:
    return float(np.linalg.norm(measured - reference) / np.linalg.norm(reference))


@dataclass(frozen=True)
class Effect:
    """What strength 1 of one sidecar does on one model."""

    steered: Readings
    added: float
    nats: float


def effect_of(model: LlamaModel, controller: Controller, texts: Sequence[str], threads: int) -> Effect:
    plain, steered = (forced(model, controller, strength, texts, threads) for strength in (0.0, 1.0))
    return Effect(steered, float((steered.sensor - plain.sensor).mean()), plain.divergence_to(steered))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concept", default="ocean")
    parser.add_argument("--jacobian-prompts", type=int, default=25)
    parser.add_argument("--texts", type=int, default=12)
    parser.add_argument("--own", nargs="*", default=QUANTIZATIONS, help="those that get a sidecar of their own, too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("build/transfer"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    texts = [text.completion for text in load_neutral()][: options.texts]
    made = sidecar_of(model_at(MADE_FROM, options.work, options.threads), MADE_FROM, options.work, options)
    with LlamaModel(model_at(MADE_FROM, options.work, options.threads)) as model:
        reference = effect_of(model, made, texts, options.threads)
    rows = []
    for quantization in QUANTIZATIONS:
        path = model_at(quantization, options.work, options.threads)
        with LlamaModel(path) as model:
            foreign = effect_of(model, made, texts, options.threads)
            error = relative_error(foreign.steered.alpha, reference.steered.alpha)
            cells = [f"{path.stat().st_size / 1e6:.0f}", f"{error:.1%}", f"{foreign.added:.2f}", f"{foreign.nats:.2f}"]
            cells += own_cells(model, foreign, made.sensor, quantization, texts, options)
        rows.append([quantization, *cells])
    title = f"{options.concept} at strength 1, {len(reference.steered.sensor)} tokens of {len(texts)} texts"
    print_table(title, COLUMNS, rows)


def own_cells(
    model: LlamaModel,
    foreign: Effect,
    sensor: Sensor | None,
    quantization: str,
    texts: Sequence[str],
    options: argparse.Namespace,
) -> list[str]:
    if quantization not in options.own:
        return ["", "", ""]
    controller = replace(sidecar_of(model.path, quantization, options.work, options), sensor=sensor)
    own = effect_of(model, controller, texts, options.threads)
    return [f"{own.added:.2f}", f"{own.nats:.2f}", f"{relative_error(foreign.steered.alpha, own.steered.alpha):.1%}"]


if __name__ == "__main__":
    main()
