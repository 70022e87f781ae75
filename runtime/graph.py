"""Names of the nodes in llama.cpp's compute graphs; the only file that knows them.

llama.cpp names a node `<label>-<block>`, or `<label>` outside the blocks, when it builds a model's graph
(src/models/*.cpp). Labels differ between architectures; a block's output is `l_out` in those we can steer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgesteer.errors import ModelError

BLOCK_OUTPUT = "l_out"

EMBEDDING_NAMES = (
    "embd", "inp_embd", "model.embed_tokens", "model.input_embed", "embedding_output", "inpL",
    "inp_scaled", "inp_embd_scaled", "embd_norm", "inp_norm", "inp_norm-0",
)  # fmt: skip
"""What boundary 0 is called. A graph may hold several, each made from the one before; the last one counts."""

ATTENTION_OUTPUTS = ("ffn_inp", "sa_out", "attn_residual")
"""What the residual stream between a block's attention and its feed-forward part is called; not all models have one."""

LOGITS = "result_output"

BLOCK_SUFFIX = re.compile(r"-\d+(?= |$)")


def boundary_name(boundary: int) -> str:
    """Name of the node that carries a boundary of the residual stream, for a person to read."""
    return f"{BLOCK_OUTPUT}-{boundary - 1}" if boundary else "embedding"


def label_and_block(name: str) -> tuple[str, int | None]:
    """Split a node's name into its label and its block; None for a node outside the blocks."""
    label, dash, number = name.rpartition("-")
    return (label, int(number)) if dash and number.isdecimal() else (name, None)


def labels(names: Iterable[str]) -> list[str]:
    """The distinct labels of some nodes, without their block numbers, in the order of first appearance."""
    return list(dict.fromkeys(BLOCK_SUFFIX.sub("", name) for name in names if name))


def usable_blocks_error(names: Iterable[str], *, where: object) -> ModelError:
    """The error for a model whose graph, which has these nodes, lacks one that steering needs."""
    return ModelError(
        "the model has no usable block output",
        where=where,
        expected=f"nodes {BLOCK_OUTPUT}-<block> at every block, and one of {', '.join(EMBEDDING_NAMES)}",
        found=", ".join(labels(names)) or "no nodes at all",
        remedy="This architecture cannot be steered; use another model.",
    )
