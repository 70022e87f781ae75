"""Judges: they say of a text how much it carries a concept, offline. `make_judge` makes one from a suite's table.

    [[judges]]
    kind = "words"              # words, stems and patterns: lists, at least one of them
    name = "sea"
    words = ["sea", "tide"]     # whole words, in any case
    stems = ["ocean"]           # beginnings of words
    patterns = ["salt\\\\w*"]     # regular expressions
    kind = "sentiment"          # wanted = "positive" (default) or "negative"; threshold
    kind = "language"           # wanted = "de": a code; threshold
    kind = "readability"        # wanted = "easy" (default) or "hard"; threshold
    kind = "encoder"            # head = "refusal.onnx", of `edgesteer judge fit`; wanted: one of its labels; threshold
    labelled = "texts.tsv"      # any kind: measure its accuracy on these texts ...
    positive = "refusal"        # ... of which those with this label carry the concept; 1 by default

Knows nothing of models and of how texts came about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesteer.errors import SuiteError
from edgesteer.evaluate.judges.head import encoder_judge
from edgesteer.evaluate.judges.judge import Accuracy, Judge, judge_text
from edgesteer.evaluate.judges.labelled import measure, read_labelled
from edgesteer.evaluate.judges.language import language_judge
from edgesteer.evaluate.judges.readability import readability_judge
from edgesteer.evaluate.judges.sentiment import sentiment_judge
from edgesteer.evaluate.judges.table import arguments
from edgesteer.evaluate.judges.words import word_judge

__all__ = ["KINDS", "Accuracy", "Judge", "judge_text", "make_judge"]

KINDS: dict[str, Callable[..., Any]] = {
    "words": word_judge,
    "sentiment": sentiment_judge,
    "language": language_judge,
    "readability": readability_judge,
    "encoder": encoder_judge,
}
"""What makes a judge of each kind; its parameters are the fields of the table."""


def make_judge(spec: Mapping[str, Any], folder: Path) -> Judge:
    """Return the judge that a table describes, with its kind's name if it has none. folder: where its paths begin.

    Raises SuiteError when the table is wrong, JudgeError when a file that it names is.
    """
    kind = str(spec.get("kind"))
    where = f"judge {spec.get('name', kind)}"
    if kind not in KINDS:
        raise SuiteError("unknown kind of judge", where=where, expected=" or ".join(KINDS), found=kind)
    about_labels = ("labelled", "positive") if "labelled" in spec else ()
    fields = {"name": kind, **{key: value for key, value in spec.items() if key not in ("kind", *about_labels)}}
    judge: Any = KINDS[kind](**arguments(KINDS[kind], fields, where, folder))
    if not about_labels:
        return judge  # type: ignore[no-any-return]
    labels = arguments(read_labelled, {key: spec[key] for key in about_labels if key in spec}, where, folder)
    return replace(judge, accuracy=measure(judge, read_labelled(**labels)))  # type: ignore[no-any-return]
