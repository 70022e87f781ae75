"""`edgesteer inspect`: what a sidecar or a control vector holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edgesteer.cli.console import format_bytes, print_json, print_table
from edgesteer.cli.options import JsonOption, check_output, format_blocks
from edgesteer.control_vector import export_control_vector
from edgesteer.controller import LAWS_WITH_SIDES
from edgesteer.inspection import describe
from edgesteer.steering_file import SteeringFile, pick_controller, read_steering, split_name

CLASSES = ("positive", "negative", "neutral")


def inspect(
    file: Annotated[
        str, typer.Argument(metavar="FILE[#NAME]", help="A sidecar or a control vector, or one controller of it.")
    ],
    as_json: JsonOption = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="OUT.png", help="Draw separation, gain norms and spread of alpha at every block."),
    ] = None,
    control_vector: Annotated[
        Path | None,
        typer.Option(metavar="OUT.gguf", help="Write the open-loop shadow as a control vector of llama.cpp."),
    ] = None,
) -> None:
    """Show the controllers of a sidecar or a control vector.

    JSON: an object with file, bytes, kind, model and controllers; each controller has its own numbers, its sensor,
    its provenance, and block_rows: one object a block with gain_norm and the calibration statistics of alpha.
    """
    path, name = split_name(file)
    content = read_steering(path)
    if name is not None:
        content = SteeringFile({name: pick_controller(content.controllers, name, path)}, content.fingerprint)
    if control_vector is not None:
        check_output(control_vector, path)
        export_control_vector(control_vector, pick_controller(content.controllers, name, path))
    if plot is not None:
        check_output(plot, path)
        draw(content, plot)
    shown = {"file": str(path), "bytes": path.stat().st_size, **describe(content)}
    print_json(shown) if as_json else print_for_a_person(shown)


def draw(content: SteeringFile, plot: Path) -> None:
    from edgesteer.plot import plot_controllers

    plot_controllers(list(content.controllers.values()), plot)


def print_for_a_person(shown: dict[str, Any]) -> None:
    print(f"{shown['file']}: {shown['kind']}, {format_bytes(shown['bytes'])}")
    if model := shown["model"]:
        print(
            f"for {model['model_name']} ({model['architecture']}, {model['n_blocks']} blocks, width {model['width']})"
        )
    for controller in shown["controllers"]:
        print(f"\n{controller['name']}: {controller['positive']} (+) against {controller['negative']} (-)")
        for label, text in facts(controller).items():
            print(f"  {label:<17} {text}")
        print()
        print_table(*block_table(controller))


def facts(controller: dict[str, Any]) -> dict[str, str]:
    """Return what holds for the whole controller, by its label."""
    law, (low, high) = controller["law"], controller["safe_range"]
    shown = {
        "law": ", ".join([law, f"mode {controller['mode']}"] if law in LAWS_WITH_SIDES else [law]),
        "blocks": format_blocks(controller["blocks"]),
        "default strength": f"{controller['default_strength']:g}",
        "safe range": f"{low:g} to {high:g}",
    }
    if sensor := controller["sensor"]:
        memory = f"memory {sensor['memory_tokens']:g} tokens"
        above = "of the way from neutral to the pole" if sensor["reference"] else "above neutral"
        target = f"target {sensor['target']:.2f} {above}"
        shown["sensor"] = f"block {sensor['block']}, {target}, {memory}"
        fade = f"fades in {sensor['fade_tokens']:g} tokens, returns in {sensor['recovery_tokens']:g}"
        shown["effort"] = f"slope {sensor['slope']:g}, {fade if sensor['fade_tokens'] else 'never fades'}"
    if controller["certificate"] is not None:
        shown["tracking error"] = tracking_error(controller)
    if (made := controller["provenance"])["prompt_count"]:
        settings = f"pooling {made['pooling']}, shrinkage {made['shrinkage']:g}, seed {made['seed']}"
        costs = (f"{each} {made[f'{each}_cost']:g}" for each in ("state", "input", "terminal"))
        shown["costs"] = ", ".join(costs)
        shown["made from"] = f"{made['prompt_count']} texts, {made['jacobian_count']} Jacobians, {settings}"
        shown["concept"] = f"sha256 {made['concept_sha256'][:16]}"
    if has_statistics(controller):
        shown["below"] = "separation of the classes (d'), and mean ± spread of alpha at every block's output"
    return shown


def tracking_error(controller: dict[str, Any]) -> str:
    """Return what a certificate says at full effort: root mean squares over the blocks, towards both poles."""
    certificate = controller["certificate"]
    parts = []
    for pole, bound, measured in zip(
        (controller["positive"], controller["negative"]), certificate["bound"], certificate["measured"], strict=True
    ):
        free, left, most = (np.sqrt(np.mean(np.square(row))) for row in (measured[0], measured[-1], bound[-1]))
        parts.append(f"{pole}: {free:.2f} -> {left:.2f}, bound {most:.2f}")
    reach = f"to strength {certificate['level'] / controller['scale']:.3g} in mode {certificate['mode']}"
    return f"{'; '.join(parts)}; for {1 - certificate['risk']:.0%} of a text's tokens, up {reach}"


def has_statistics(controller: dict[str, Any]) -> bool:
    return controller["block_rows"][0]["separation"] is not None


def block_table(controller: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the headers and rows of the table of blocks; alpha is shown as mean and spread of each class."""
    rows = controller["block_rows"]
    measured = has_statistics(controller)
    headers = ["block", "gain norm"]
    if measured:
        headers += ["separation", *CLASSES]
    lines = []
    for row in rows:
        line = [str(row["block"]), "-" if row["gain_norm"] is None else f"{row['gain_norm']:.4g}"]
        if measured:
            line.append(f"{row['separation']:.2f}")
            line += [f"{row[f'{each}_mean']:.2f} ± {row[f'{each}_spread']:.2f}" for each in CLASSES]
        lines.append(line)
    return headers, lines
