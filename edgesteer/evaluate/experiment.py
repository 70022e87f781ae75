"""Experiment: a suite's texts under several ways of steering, in one batch with the same seeds, scored and judged.

The work is cut into blocks that do not depend on what was done before. llama.cpp's last digits depend on what else is
in a batch, so a run that was killed repeats an unfinished block as a whole, and ends with the same records.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from typing import Any

from edgesteer.chat import conversation
from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.arm import Arm, controllers_of, with_own_controllers, with_unsteered
from edgesteer.evaluate.judges import Judge, judge_text
from edgesteer.evaluate.record import Key, Record, Score, plain
from edgesteer.evaluate.suite import Suite, SuitePrompt
from edgesteer.fingerprint import sha256_of_file
from edgesteer.runtime.batch import generate_all
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.likelihood import continuation_log_likelihoods
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Prompt, Request, chat_prompt, plain_prompt
from edgesteer.runtime.sampling import Sampling
from edgesteer.runtime.sequence import Generation

SAMPLES = 2
PARALLEL = 8
WAVES = 4
"""Texts of a block for each that runs at once."""
JUDGE_FILES = ("head", "labelled")
"""Fields of a judge's table that name files."""
TELEMETRY_DIGITS = 6
"""It is float32."""


@dataclass(frozen=True)
class Job:
    """One text to generate."""

    arm: Arm
    strength: float
    prompt: SuitePrompt
    sample: int

    @property
    def key(self) -> Key:
        return self.arm.name, self.strength, self.prompt.id, self.sample


def run_experiment(
    model: LlamaModel,
    suite: Suite,
    arms: Sequence[Arm],
    judges: Sequence[Judge],
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    parallel: int = PARALLEL,
    threads: int | None = None,
    records: Iterable[Record] = (),
    on_record: Callable[[Record], None] = lambda _: None,
    on_text: Callable[[], None] = lambda: None,
) -> list[Record]:
    """Return the records of all arms, and of the unsteered one, in the order in which they are made.

    samples: texts of each prompt, strength and arm; those of one number have the same seed everywhere. records: of an
    earlier run with the same arguments, which are not made again. on_record: called with each new record once its block
    is done. on_text: called after each text.

    Raises EdgeSteerError for a system prompt on a model without a chat template, and what Batch and the judges raise.
    """
    known = {record.key: record for record in records}
    blocks = plan(suite, with_own_controllers(with_unsteered(arms)), samples, parallel)
    if all(job.key in known for block in blocks for job in block):
        return [known[job.key] for block in blocks for job in block]
    found: list[Record] = []
    with laboratory(model, suite, blocks, judges, seed, parallel, threads) as lab:
        for block in blocks:
            made = [known[job.key] for job in block if job.key in known]
            if len(made) < len(block):
                made = lab.run(block, on_text)
                for record in made:
                    on_record(record)
            found += made
    return found


def n_texts(suite: Suite, arms: Sequence[Arm], samples: int) -> int:
    """Return how many records an experiment has."""
    return len(suite.prompts) * samples * sum(len(arm.settings) for arm in with_unsteered(arms))


def settings_of(suite: Suite, arms: Sequence[Arm], **numbers: int) -> dict[str, Any]:
    """Return as plain data what decides the records and the report, but for the files of model and controllers.

    numbers: what run_experiment takes.
    """
    dials = [{**vars(arm), "controller": arm.controller and arm.controller.name} for arm in arms]
    files = [suite.folder / str(spec[key]) for spec in suite.judges for key in JUDGE_FILES if key in spec]
    judged_by = {
        "suite": suite.name,
        "suite_sha256": suite.sha256,
        "judge_files": [sha256_of_file(each) for each in files],
    }
    return {**judged_by, "arms": dials, **numbers}


def plan(suite: Suite, arms: Sequence[Arm], samples: int, parallel: int) -> list[list[Job]]:
    """Return the work in blocks. All ways to answer one prompt stand together, and share what was read of it."""
    jobs = (
        Job(arm, strength, prompt, sample)
        for prompt in suite.prompts
        for sample in range(samples)
        for arm in arms
        for strength in arm.settings
    )
    return list(iter(lambda: list(islice(jobs, WAVES * parallel)), []))


def seed_of(seed: int, prompt: SuitePrompt, sample: int) -> int:
    """Return a text's seed, which depends on nothing but these, so that a longer suite keeps the texts of a shorter."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt.id}/{sample}".encode()).digest()[:4], "big")


class Laboratory:
    """Makes the records of blocks. Its engine holds the controllers of all arms, and no text of an earlier block."""

    def __init__(self, engine: Engine, suite: Suite, judges: Sequence[Judge], seed: int) -> None:
        self._engine = engine
        self._suite = suite
        self._judges = judges
        self._seed = seed

    def run(self, block: Sequence[Job], on_text: Callable[[], None]) -> list[Record]:
        texts = generate_all(self._engine, [self._request(job) for job in block], on_text)
        nlls = self._nlls(block, [text.tokens for text in texts])
        judged = [judge_text(judge, [text.text for text in texts]) for judge in self._judges]
        names = [judge.name for judge in self._judges]
        scores = [dict(zip(names, each, strict=True)) for each in zip(*judged, strict=True)]
        return [
            self._record(job, *each) for job, each in zip(block, zip(texts, nlls, scores, strict=True), strict=True)
        ]

    def _request(self, job: Job) -> Request:
        return Request(
            prompt_of(self._engine.model, self._suite, job.prompt, job.arm.system),
            job.arm.steering(job.strength),
            Sampling(seed=seed_of(self._seed, job.prompt, job.sample)),
            self._suite.max_tokens,
        )

    def _nlls(self, block: Sequence[Job], texts: Sequence[list[int]]) -> list[float]:
        """Return the mean over the tokens of each text; nan for one without tokens."""
        found: list[float] = []
        for prompt, answered in groupby(zip(block, texts, strict=True), key=lambda each: each[0].prompt):
            tokens = prompt_of(self._engine.model, self._suite, prompt).tokens
            scores = continuation_log_likelihoods(self._engine, tokens, [text for _, text in answered])
            found += [-float(score.mean()) if len(score) else math.nan for score in scores]
        return found

    def _record(self, job: Job, text: Generation, nll: float, scores: dict[str, Score]) -> Record:
        return Record(
            arm=job.arm.name,
            strength=job.strength,
            prompt=job.prompt.id,
            group=job.prompt.group,
            sample=job.sample,
            seed=seed_of(self._seed, job.prompt, job.sample),
            text=text.text,
            tokens=len(text.tokens),
            stop_reason=text.stop_reason,
            nll=nll,
            scores=scores,
            steering=[plain(asdict(report), TELEMETRY_DIGITS) for report in text.steering],
        )


@contextmanager
def laboratory(
    model: LlamaModel,
    suite: Suite,
    blocks: Sequence[Sequence[Job]],
    judges: Sequence[Judge],
    seed: int,
    parallel: int,
    threads: int | None,
) -> Iterator[Laboratory]:
    """Give a laboratory whose context has room for as many of the longest texts as run at once."""
    arms = {job.arm.name: job.arm for block in blocks for job in block}
    longest = max(
        len(prompt_of(model, suite, prompt, arm.system).tokens) for prompt in suite.prompts for arm in arms.values()
    )
    controllers = controllers_of(list(arms.values()))
    context = parallel * (longest + suite.max_tokens)
    with Engine(model, controllers, context_tokens=context, n_sequences=parallel, threads=threads) as engine:
        yield Laboratory(engine, suite, judges, seed)


def prompt_of(model: LlamaModel, suite: Suite, prompt: SuitePrompt, system: str = "") -> Prompt:
    """Return a prompt in the model's chat template, or plain when the suite asks for that or the model has none."""
    if not suite.raw and model.chat.source is not None:
        return chat_prompt(model, conversation(prompt.text, system))
    if system:
        raise EdgeSteerError(
            "a system prompt needs a chat template", where=model.path, remedy="Leave out the baseline system-prompt."
        )
    return plain_prompt(model, prompt.text)
