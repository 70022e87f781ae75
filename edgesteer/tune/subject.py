"""Subject: which prompts a controller is tuned on, and the judge that measures its effect.

The prompts are never those that it was made from, and the judge is never its probe.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edgesteer.concept import (
    ConceptSet,
    as_table,
    as_text,
    builtin_concepts,
    decode_toml,
    load_concept,
    load_neutral,
    numbered,
    read_text,
)
from edgesteer.controller import Controller
from edgesteer.errors import SuiteError
from edgesteer.evaluate.judges import Judge, make_judge
from edgesteer.evaluate.judges.fit import fit_head
from edgesteer.evaluate.judges.head import encoder_judge, write_head
from edgesteer.evaluate.judges.labelled import Labelled
from edgesteer.evaluate.suite import Suite, SuitePrompt, builtin_suites, load_suite


def subject_of(
    controller: Controller,
    *,
    suite: str | None = None,
    concept: ConceptSet | None = None,
    data: Path | None = None,
    max_tokens: int,
) -> tuple[Suite, Judge]:
    """Return the prompts and the judge: of a suite, of the built-in one of the concept, or fitted on a concept's texts.

    concept: a built-in one that the controller was made from is found by itself. Raises SuiteError when there is no
    judge or no prompt, and what suites and judges raise.
    """
    concept = concept or made_from(controller)
    name = suite or suite_of(controller, concept)
    if name is not None:
        chosen = load_suite(name, data)
        spec = next(each for each in chosen.judges if each["name"] == chosen.primary)
        judge = make_judge(spec, chosen.folder)
    elif concept is not None:
        chosen, judge = tuning_suite(concept), fitted_judge(concept)
    else:
        raise SuiteError(
            "there is nothing to measure the effect with",
            where=controller.name,
            expected="a suite, or the concept that the controller was made from",
            remedy="Give --suite, or --concept FILE.",
        )
    return held_out(replace(chosen, max_tokens=min(max_tokens, chosen.max_tokens)), concept), judge


def made_from(controller: Controller) -> ConceptSet | None:
    """Return the built-in concept that a controller was made from."""
    found = map(load_concept, builtin_concepts().values())
    return next((each for each in found if each.sha256 == controller.provenance.concept_sha256), None)


def suite_of(controller: Controller, concept: ConceptSet | None) -> str | None:
    """Return the built-in suite of a concept, by its name or the controller's."""
    names = (controller.name, *([concept.name] if concept is not None else []))
    return next((name for name in names if name in builtin_suites()), None)


def held_out(suite: Suite, concept: ConceptSet | None) -> Suite:
    """Return a suite without the prompts that controllers are made from. Raises SuiteError when none is left."""
    examples = [*load_neutral()]
    if concept is not None:
        examples += [*concept.positive_examples, *concept.negative_examples]
    seen = {same_text(text) for each in examples for text in (each.prompt, each.completion)}
    prompts = tuple(each for each in suite.prompts if same_text(each.text) not in seen)
    if not prompts:
        raise SuiteError("the controller was made from all of the prompts", where=suite.name, remedy="Give others.")
    return replace(suite, prompts=prompts)


def same_text(text: str) -> str:
    return " ".join(text.lower().split())


# ---- without a suite ----


def tuning_suite(concept: ConceptSet) -> Suite:
    """Return ordinary prompts, for a judge of the concept."""
    path = Path(str(files("edgesteer.models").joinpath("tuning.toml")))
    table = as_table(decode_toml(read_text(path), str(path)), str(path), required=("prompts",))
    texts = [as_text(item, "prompt", where) for where, item in numbered(table["prompts"], str(path))]
    prompts = tuple(SuitePrompt(str(number), text) for number, text in enumerate(texts, start=1))
    return Suite(f"tuning on {concept.name}", prompts, judges=(), primary=concept.name)


def fitted_judge(concept: ConceptSet) -> Judge:
    """Return a judge of the sentence encoder's that tells the completions of a concept's poles apart."""
    positive, negative = (
        [each.completion for each in examples] for examples in (concept.positive_examples, concept.negative_examples)
    )
    in_both = {*positive} & {*negative}
    texts = [text for text in dict.fromkeys(positive + negative) if text not in in_both]
    carries = np.isin(texts, positive)
    head = fit_head(Labelled(tuple(texts), carries, (concept.negative, concept.positive)))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "head.onnx"
        write_head(path, head.weight, head.bias, head.card)
        return encoder_judge(concept.name, path)
