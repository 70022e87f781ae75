"""The profile document: everything that a run measured, as plain JSON values, and its files. profile.schema.json
describes it; VERSION changes when a reader of the old form would misread the new one.

Knows no llama.cpp: summary.py makes documents, and what tables, pictures and comparisons show is taken from them.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesteer.errors import EdgeSteerError
from edgesteer.files import atomic_write
from edgesteer.profile.consumption import PHASES

FORMAT = "edgesteer profile"
VERSION = 1
METRICS = ("ttft_ms", "tpot_ms", "ttlt_ms")
CELL = ("prompt_len", "gen_len", "batch", "threads", "n_gpu_layers")
"""What tells series apart, beside the variant."""
UNSTEERED = "unsteered"
STEERED = "steered"
REMEDY = "Give a file that `edgesteer profile MODEL --json FILE` wrote."

Document = dict[str, Any]


def per_repeat(samples: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    """Return the mean over the requests of each repeat: requests of one batch are not independent of each other."""
    return [sum(sample[metric]) / len(sample[metric]) for sample in samples if sample[metric]]


def write_json(path: str | os.PathLike[str], document: Document) -> None:
    """Raises EdgeSteerError when the file cannot be written."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(document, allow_nan=False, indent=1) + "\n", "utf-8")


def write_csv(path: str | os.PathLike[str], document: Document) -> None:
    """Write a line for every request. Raises EdgeSteerError when the file cannot be written."""
    lines = list(csv_lines(document))
    names = list(dict.fromkeys(name for line in lines for name in line))
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names or ["model"])
        writer.writeheader()
        writer.writerows(lines)


def csv_lines(document: Document) -> Iterator[dict[str, Any]]:
    """Yield a line for every request; energies are those of the repeat that it was part of."""
    for series in document["series"]:
        for number, sample in enumerate(series["samples"]):
            for request in range(series["batch"]):
                yield {
                    "model": document["model"]["path"],
                    "variant": series["variant"],
                    **{name: series[name] for name in CELL},
                    "repeat": number,
                    "request": request,
                    "started_s": sample["started_s"],
                    "megahertz": sample["megahertz"],
                    **{metric: sample[metric][request] if sample[metric] else None for metric in METRICS},
                    **_energy_columns(sample),
                }


def _energy_columns(sample: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{phase}_joules[{meter}]": joules
        for phase in PHASES
        if sample[f"{phase}_energy"]
        for meter, joules in sample[f"{phase}_energy"]["joules"].items()
    }


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read a profile that write_json wrote. Raises EdgeSteerError for anything else."""
    try:
        document = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise EdgeSteerError("file cannot be read", where=path, found=error.strerror) from error
    except ValueError as error:
        raise EdgeSteerError("not a JSON file", where=path, found=error, remedy=REMEDY) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise EdgeSteerError("not a profile", where=path, expected=f'"format": "{FORMAT}"', remedy=REMEDY)
    if document.get("version") != VERSION:
        raise EdgeSteerError(
            "a profile of another version", where=path, expected=VERSION, found=document.get("version"), remedy=REMEDY
        )
    return document
