"""Which quantization of a model: quality on a text against speed and energy, for every GGUF of a folder.

Quality is the negative log likelihood per token, unsteered. All files must share the tokenizer of the first, or their
likelihoods could not be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import EdgeSteerError
from edgesteer.fingerprint import sha256_of_file
from edgesteer.gguf_file import has_gguf_magic
from edgesteer.profile.consumption import joules_per_token
from edgesteer.profile.document import VERSION, Document
from edgesteer.profile.latency import Budget, Stopped
from edgesteer.profile.report import NONE, Table, megabytes, number
from edgesteer.profile.sweep import Progress, Settings, Sweep
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.likelihood import negative_log_likelihood
from edgesteer.runtime.model import LlamaModel

FORMAT = "edgesteer quantizations"
WINDOW = 512
"""Tokens that are read together: llama.cpp's default for its perplexity."""
NORMAL_95 = 1.96


@dataclass
class Quantization:
    """One file: what was measured, and -log p of every token of the text but the first, in nats."""

    sweep: Sweep
    nll: NDArray[np.float64]


@dataclass
class Quantizations:
    """All files, in order; skipped: why by the file's name."""

    files: list[Quantization]
    skipped: dict[str, str]
    stopped: str | None = None


def find_models(folder: Path) -> list[Path]:
    """Return the GGUF files of a folder by name; of a model in several files the first one.

    Raises EdgeSteerError when there are none.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix == ".gguf" and path.is_file())
    except OSError as error:
        raise EdgeSteerError("folder cannot be read", where=folder, found=error.strerror) from error
    models = [path for path in found if has_gguf_magic(path) and ("-of-" not in path.stem or "-00001-of-" in path.stem)]
    if not models:
        raise EdgeSteerError("no GGUF files", where=folder, remedy="Give the folder of a model's quantizations.")
    return models


def measure_quantizations(
    models: Sequence[Path],
    text: str,
    run: Callable[[Path], Sweep],
    settings: Settings,
    budget: Budget,
    progress: Progress,
) -> Quantizations:
    """Measure the quality and, by `run`, the speed of every file; one that cannot be used is skipped.

    Raises EdgeSteerError when no file can be used.
    """
    result = Quantizations([], {})
    tokenizer = ""
    for path in models:
        try:
            nll, tokenizer = likelihood(path, text, settings, budget, progress, tokenizer)
            sweep = run(path)
        except Stopped as reason:
            result.stopped = str(reason)
            break
        except EdgeSteerError as error:
            result.skipped[path.name] = str(error)
            continue
        if sweep.sizes:
            result.files.append(Quantization(sweep, nll))
        if sweep.stopped and not sweep.error:
            result.stopped = sweep.stopped
            break
    if not result.files and result.skipped:
        name, why = next(iter(result.skipped.items()))
        raise EdgeSteerError("no file could be measured", where=name, found=why)
    return result


def likelihood(
    path: Path, text: str, settings: Settings, budget: Budget, progress: Progress, tokenizer: str = ""
) -> tuple[NDArray[np.float64], str]:
    """Return -log p of every token of a text but the first, and the digest of the tokenizer.

    Raises EdgeSteerError when that is not `tokenizer`, or when the text is too short.
    """
    budget.check()
    with settings.open_model(path, settings.n_gpu_layers[0]) as model:
        if tokenizer not in ("", model.fingerprint.tokenizer_sha256):
            raise EdgeSteerError("another tokenizer than the first file's: likelihoods cannot be compared")
        tokens = model.tokenize(text)
        if len(tokens) < 2:
            raise EdgeSteerError("the text is too short", expected="at least 2 tokens", found=len(tokens))
        done = progress.stage(f"{path.name}: likelihood of {len(tokens)} tokens", 1)
        with _engine(model, settings) as engine:
            nll = negative_log_likelihood(engine, tokens, window=WINDOW, check=budget.check)
        done()
        return nll, model.fingerprint.tokenizer_sha256


def _engine(model: LlamaModel, settings: Settings) -> Engine:
    return Engine(
        model,
        context_tokens=WINDOW,
        threads=settings.threads[0],
        cache_type_k=settings.cache_type_k,
        cache_type_v=settings.cache_type_v,
    )


# ---- what came out ----


def make_quantizations_document(result: Quantizations, documents: Sequence[Document], text: Path) -> Document:
    """Return what was measured as JSON values. documents: the profile of each file. text: the file that was scored."""
    reference = max(result.files, key=lambda each: _bits(each.sweep)).nll if result.files else np.empty(0)
    return {
        "format": FORMAT,
        "version": VERSION,
        "stopped": result.stopped,
        "text": {"path": str(text), "sha256": sha256_of_file(text)},
        "window": WINDOW,
        "models": [
            {"quality": asdict(quality(each.nll, reference)), "profile": document}
            for each, document in zip(result.files, documents, strict=True)
        ],
        "skipped": [{"file": name, "reason": reason} for name, reason in result.skipped.items()],
    }


@dataclass(frozen=True)
class Quality:
    """Of one file on the text; lower is better. Intervals are 95 %, of the mean over tokens."""

    tokens: int
    nll: float
    """Mean of -log p, in nats per token."""
    perplexity: float
    loss: float
    """By how much nll is above that of the file with the most bits per weight, token by token."""
    loss_low: float
    loss_high: float


def quality(nll: NDArray[np.float64], reference: NDArray[np.float64]) -> Quality:
    """Compare the likelihoods of a text with those of another file."""
    mean, loss = float(nll.mean()), nll - reference
    error = NORMAL_95 * float(loss.std(ddof=1)) / math.sqrt(len(loss)) if len(loss) > 1 else math.inf
    middle = float(loss.mean())
    return Quality(len(nll), mean, math.exp(min(mean, 700.0)), middle, middle - error, middle + error)


def _bits(sweep: Sweep) -> float:
    return max(size.bits_per_weight for size in sweep.sizes.values())


def quantizations_table(document: Document) -> Table:
    """Return a row for each file, the largest first."""
    models = sorted(document["models"], key=lambda each: -each["profile"]["sizes"][0]["weight_bytes"])
    rows = [[*_facts(each), *_speeds(each["profile"])] for each in models]
    headers = [
        "file", "MB", "bits/weight", "nats/token", "loss", "95 % interval", "prompt tokens/s", "tokens/s", "J/token",
    ]  # fmt: skip
    return Table("Quality against speed", headers, rows)


def _facts(each: Mapping[str, Any]) -> list[str]:
    size, found = each["profile"]["sizes"][0], each["quality"]
    return [
        Path(each["profile"]["model"]["path"]).name,
        megabytes(size["file_bytes"]),
        number(size["bits_per_weight"], 3),
        f"{found['nll']:.4f}",
        f"{found['loss']:+.4f}",
        f"{found['loss_low']:+.4f} to {found['loss_high']:+.4f}",
    ]


def _speeds(profile: Document) -> list[str]:
    series = profile["series"][:1]
    if not series:
        return [NONE] * 3
    return [
        number(series[0]["prefill_tokens_per_second"]),
        number(series[0]["decode_tokens_per_second"]),
        number(joules_per_token(series[0], profile["energy"]["meters"])),
    ]


def quantizations_notes(document: Document) -> list[str]:
    """Return sentences that a reader of the table should know."""
    lines = [
        f"Quality: -log p of each token of {document['text']['path']}, in windows of {document['window']} tokens; loss "
        "is against the file with the most bits per weight."
    ]
    lines += [f"Skipped {each['file']}: {each['reason']}" for each in document["skipped"]]
    return lines + ([f"Ended early: {document['stopped']}."] if document["stopped"] else [])
