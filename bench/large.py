"""Large models: an export that streams, from a synthetic GGUF with the shape of Llama 7B, in under 3 GB resident.

The model has random weights in F16 and one token a character, so that a text's length is known; it is written here and
deleted afterwards. Then the cost over width and over the prompts' length, on small models of the same kind. One thread;
seconds are its CPU time, which other processes disturb little.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter, TokenType
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

from edgesteer.concept import ConceptSet, Example
from edgesteer.export.jacobians import LinearizationPoints, sensitivities_at
from edgesteer.export.pipeline import ExportOptions, export_controller, tokenize_all
from edgesteer.export.weights import LoadOptions, load_model

STREAM = LoadOptions(stream="always", device="cpu")
PROMPTS, NEUTRAL, TOKENS = 16, 2, 24
"""Texts to linearize at, neutral texts, and the tokens of each; each pole has half as many texts as the first."""
WIDTHS, LENGTHS = (512, 1024, 2048, 4096), (16, 64, 256)
CURVE_BLOCKS, CURVE_WIDTH = 2, 1024


@dataclass(frozen=True)
class Shape:
    """Of a Llama without grouped key-value heads."""

    blocks: int = 32
    width: int = 4096
    ffn: int = 11008
    vocabulary: int = 32000

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield each tensor's name and shape, rows first."""
        yield "token_embd.weight", (self.vocabulary, self.width)
        for block in range(self.blocks):
            for name in ("attn_norm", "ffn_norm"):
                yield f"blk.{block}.{name}.weight", (self.width,)
            for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
                yield f"blk.{block}.{name}.weight", (self.width, self.width)
            for name in ("ffn_gate", "ffn_up"):
                yield f"blk.{block}.{name}.weight", (self.ffn, self.width)
            yield f"blk.{block}.ffn_down.weight", (self.width, self.ffn)
        yield "output_norm.weight", (self.width,)
        yield "output.weight", (self.vocabulary, self.width)


def write_model(path: Path, shape: Shape) -> None:
    """Write a GGUF of random weights, one tensor at a time; all blocks get the same, which is quicker."""
    with closing(GGUFWriter(path, "llama")) as writer:
        add_metadata(writer, shape)
        tensors = list(shape.tensors())
        for name, size in tensors:
            kind = np.dtype(np.float32 if len(size) == 1 else np.float16)
            writer.add_tensor_info(name, size, kind, int(np.prod(size)) * kind.itemsize)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, size in tensors:
            writer.write_tensor_data(random_weights(name.split(".")[-2], size))


@cache
def random_weights(name: str, size: tuple[int, ...]) -> NDArray[np.floating]:
    """Return what a tensor of this name holds in every block."""
    if len(size) == 1:
        return np.ones(size, np.float32)
    random = np.random.default_rng([ord(letter) for letter in name])
    scale = 1.0 if name == "token_embd" else size[1] ** -0.5
    return (scale * random.standard_normal(size, dtype=np.float32)).astype(np.float16)


def add_metadata(writer: GGUFWriter, shape: Shape) -> None:
    special = ["<unknown>", "<start>", "<end>"]
    characters = sorted(ByteLevel.alphabet())
    unused = ["ee", *(f"<unused {i}>" for i in range(shape.vocabulary - len(special) - len(characters) - 1))]
    writer.add_name(f"llama of width {shape.width}")
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.blocks)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.width // 128)
    writer.add_head_count_kv(shape.width // 128)
    writer.add_rope_dimension_count(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(special + characters + unused)
    kinds = ((special, TokenType.CONTROL), (characters, TokenType.NORMAL), (unused, TokenType.UNUSED))
    writer.add_token_types([kind for tokens, kind in kinds for _ in tokens])
    writer.add_token_merges(["e e"])  # one is the least, and letters are drawn from a to d
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def texts_of(count: int, seed: int, tokens: int = TOKENS) -> tuple[Example, ...]:
    """Return texts of random letters, one token each."""
    letters = np.random.default_rng(seed).integers(ord("a"), ord("e"), (count, tokens))
    return tuple(Example("", bytes(row.astype(np.uint8)).decode()) for row in letters)


class Stopwatch:
    """A Progress that notes when each stage began, in CPU seconds, and how many steps it has."""

    def __init__(self) -> None:
        self._began: list[tuple[str, int, float]] = []

    def stage(self, name: str, total: int) -> Callable[[], None]:
        self._began.append((name, total, time.process_time()))
        return lambda: None

    def rows(self) -> Iterator[list[str]]:
        """Yield name, CPU seconds and CPU seconds a step of each stage, the last of which ends now."""
        ends = [began for _, _, began in self._began[1:]] + [time.process_time()]
        for (name, total, began), end in zip(self._began, ends, strict=True):
            yield [name, f"{end - began:.1f}", str(total), f"{(end - began) / total:.3f}"]


def peak_gigabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def export(path: Path, shape: Shape) -> None:
    """Export a controller, and print what each stage took and the peak memory of the process."""
    watch = Stopwatch()
    watch.stage("loading", 1)
    model = load_model(path, STREAM)
    concept = ConceptSet("noise", "up", "down", texts_of(PROMPTS // 2, 1), texts_of(PROMPTS // 2, 2), "00" * 32)
    # The dial of random weights says nothing: few levels of it are enough, and all of them would take 17 passes.
    options = ExportOptions(cost="feature", jacobian_prompts=PROMPTS, dial_nats=1e-6, safe_nats=1e-6)
    export_controller(model, concept, texts_of(NEUTRAL, 3), options, watch)
    rows = list(watch.rows())
    print_table(
        f"{shape.blocks} blocks of width {shape.width}, FFN {shape.ffn}: {path.stat().st_size / 1e9:.1f} GB of F16, "
        f"texts of {TOKENS} tokens; peak {peak_gigabytes():.2f} GB resident",
        ["stage", "CPU seconds", "steps", "a step"],
        rows,
    )


def seconds_of(path: Path, tokens: int) -> tuple[float, float]:
    """Return the CPU seconds that a block and prompt take: on the way there, and of the Jacobian products."""
    model = load_model(path, STREAM)
    sequences = [text.tokens for text in tokenize_all(model, texts_of(PROMPTS, 1, tokens))]
    probes = np.random.default_rng(0).normal(size=(model.n_blocks + 1, model.width)) / model.width
    started = time.process_time()
    points = LinearizationPoints(model, sequences)
    there = time.process_time()
    sensitivities_at(points, probes)
    steps = model.n_blocks * PROMPTS
    return (there - started) / steps, (time.process_time() - there) / steps


def curve(folder: Path) -> None:
    """Print what a block and prompt take over the width, and over the prompts' length."""
    rows = []
    for width in WIDTHS:
        lengths = LENGTHS if width == CURVE_WIDTH else (TOKENS,)
        path = folder / f"width-{width}.gguf"
        write_model(path, Shape(CURVE_BLOCKS, width, round(2.6875 * width), 1000))
        for tokens in lengths:
            run, products = seconds_of(path, tokens)
            rows.append([str(width), str(tokens), f"{run:.3f}", f"{products:.3f}"])
        path.unlink()
    print_table(
        f"CPU seconds a block and prompt, {PROMPTS} prompts, weights read from F16 included",
        ["width", "tokens", "residual stream", "Jacobian products"],
        rows,
    )


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    lines = [f"\n**{title}**\n", *(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *rows))]
    print("\n".join(lines), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=("write", "export", "curve"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the model is written")
    parser.add_argument("--blocks", type=int, default=Shape.blocks)
    parser.add_argument("--keep", action="store_true", help="do not delete the model")
    given = parser.parse_args()
    torch.set_num_threads(1)
    shape, path = Shape(given.blocks), given.folder / f"edgesteer-large-{given.blocks}.gguf"
    if given.part == "write" and not path.exists():
        write_model(path, shape)
    elif given.part == "export":
        export(path, shape)
    elif given.part == "curve":
        curve(given.folder)
    if given.part:
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(given.folder)}
    options = ["--folder", str(given.folder), "--blocks", str(given.blocks)]
    try:
        for part in ("write", "export", "curve"):  # in processes of their own: peak memory is a process's
            subprocess.run([sys.executable, __file__, part, *options], check=True, env=environment)
    finally:
        if not given.keep:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
