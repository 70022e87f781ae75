"""Head: a linear judge on top of the sentence encoder, stored as one ONNX file that says how good it is.

The graph takes `embedding` (n, 384) and gives `probability` (n,); a card in the metadata says of what.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import EdgeSteerError, JudgeError
from edgesteer.evaluate.judges.encoder import NAME, WIDTH, load_encoder, open_session
from edgesteer.evaluate.judges.judge import Accuracy
from edgesteer.evaluate.judges.poles import check_pole
from edgesteer.extras import needs_extra
from edgesteer.files import atomic_write

KEY = "edgesteer.judge"
INPUT = "embedding"
OUTPUT = "probability"
OPSET = 17
IR_VERSION = 8
"""Old enough for every onnxruntime that edgesteer allows."""
MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Card:
    """What a head is about. It holds no date and no path, so that the same texts give the same file."""

    labels: tuple[str, str]
    """Of the texts that do not carry the concept, and of those that do."""
    accuracy: Accuracy
    """On texts that were held out of the fit."""
    fitted: int
    """Number of texts it was fitted on."""
    regularization: float
    """C of the logistic regression."""
    seed: int
    encoder: str
    encoder_sha256: str


@dataclass(frozen=True)
class EncoderJudge:
    """The score is the head's probability of the wanted label."""

    name: str
    card: Card
    session: Any
    wanted: str
    threshold: float
    accuracy: Accuracy | None

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        if not texts:
            return np.empty(0)
        (found,) = self.session.run([OUTPUT], {INPUT: load_encoder().embed(texts)})
        probability = np.asarray(found, dtype=np.float64)
        return probability if self.wanted == self.card.labels[1] else 1 - probability


def encoder_judge(name: str, head: Path, wanted: str | None = None, threshold: float = 0.5) -> EncoderJudge:
    """Return the judge that a head's file holds; wanted: one of its two labels, the positive one by default.

    Raises JudgeError for a file that is no head of this encoder, SuiteError for another label.
    """
    session, card = read_head(head)
    chosen = card.labels[1] if wanted is None else wanted
    check_pole(name, chosen, card.labels)
    return EncoderJudge(name, card, session, chosen, threshold, card.accuracy)


def write_head(path: str | os.PathLike[str], weight: NDArray[np.float64], bias: float, card: Card) -> None:
    """Write probability = 1 / (1 + exp(-(embedding . weight + bias))) with its card. weight: (WIDTH,).

    Raises EdgeSteerError when the file cannot be written.
    """
    with needs_extra("eval"):
        from onnx import TensorProto, helper, numpy_helper
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [INPUT, "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], [OUTPUT]),
        ],
        name="head",
        inputs=[helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", WIDTH])],
        outputs=[helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n"])],
        initializer=[
            numpy_helper.from_array(weight.astype(np.float32), "weight"),
            numpy_helper.from_array(np.array(bias, dtype=np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(model, {KEY: json.dumps(asdict(card), sort_keys=True)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def read_head(path: str | os.PathLike[str]) -> tuple[Any, Card]:
    """Return the onnxruntime session and the card of a head's file.

    Raises JudgeError when the file cannot be read, is no head, or is one of another encoder.
    """
    session = _open(Path(path))
    card = _card(session.get_modelmeta().custom_metadata_map.get(KEY, ""), str(path))
    found, expected = card.encoder_sha256, load_encoder().sha256
    if found != expected:
        raise JudgeError(
            "the head belongs to another sentence encoder",
            where=path,
            expected=f"{NAME} {expected[:12]}",
            found=f"{card.encoder} {found[:12]}",
            remedy="Fit it again with `edgesteer judge fit`.",
        )
    _try(session, str(path))
    return session, card


def _open(path: Path) -> Any:
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MOST_BYTES else b""
    except OSError as error:
        raise JudgeError("the file cannot be read", where=path, found=error.strerror) from error
    if size > MOST_BYTES:
        raise _no_head(str(path), f"{size} bytes")
    try:
        return open_session(content)
    except EdgeSteerError:
        raise
    except Exception as error:  # onnxruntime's errors have no class in common
        raise _no_head(str(path), "no ONNX model that can be loaded") from error


def _card(text: str, path: str) -> Card:
    try:
        values = json.loads(text)
        card = Card(**{**values, "labels": tuple(values["labels"]), "accuracy": Accuracy(**values["accuracy"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _no_head(path, "an ONNX model without its card") from error
    if not _is_sound(card):
        raise _no_head(path, "a card that cannot be read")
    return card


def _is_sound(card: Card) -> bool:
    """Whether a card that came from a file has the types that it says it has, where they are used."""
    texts, numbers = (*card.labels, card.encoder, card.encoder_sha256), asdict(card.accuracy).values()
    return (
        len(card.labels) == 2
        and all(isinstance(each, str) for each in texts)
        and all(isinstance(each, int | float) for each in numbers)
    )


def _try(session: Any, path: str) -> None:
    """Raise JudgeError unless the graph turns embeddings into probabilities."""
    try:
        (found,) = session.run([OUTPUT], {INPUT: np.eye(3, WIDTH, dtype=np.float32)})
    except Exception as error:  # as above
        raise _no_head(path, "another graph") from error
    if found.shape != (3,) or not ((found >= 0) & (found <= 1)).all():
        raise _no_head(path, "a graph that gives no probabilities")


def _no_head(path: str, found: str) -> JudgeError:
    return JudgeError("not a judge's head", where=path, expected="a file of `edgesteer judge fit`", found=found)
