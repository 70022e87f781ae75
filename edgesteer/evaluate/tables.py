"""The tables of a report: what each arm and strength did, cost and read, from the records. Knows no files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgesteer.evaluate.judges import Judge
from edgesteer.evaluate.markdown import interval, number, percent
from edgesteer.evaluate.metrics import distinct, is_broken, repetition
from edgesteer.evaluate.paired import MEASURES, UNSTEERED, Value, changes, outcome, unsteered
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.statistics import Interval, paired_bootstrap

Table = tuple[tuple[str, ...], list[list[str]]]
"""Headers and rows."""


def settings(records: Sequence[Record]) -> Iterator[tuple[list[str], list[Record]]]:
    """Yield the records of each arm and strength, in their order, with the two as cells."""
    found: dict[tuple[str, float], list[Record]] = {}
    for record in records:
        found.setdefault((record.arm, record.strength), []).append(record)
    arms = list(dict.fromkeys(arm for arm, _ in found))
    for arm, strength in sorted(found, key=lambda each: (arms.index(each[0]), each[1])):
        yield [arm, f"{strength:g}" if strength else ""], found[arm, strength]


def mean(records: Sequence[Record], value: Value) -> float:
    """Return the mean of what is known of a value; nan when nothing is."""
    known = [each for each in map(value, records) if math.isfinite(each)]
    return float(np.mean(known)) if known else math.nan


def change(records: Sequence[Record], base: Sequence[Record], value: Value) -> Interval:
    """Return by how much a value changed against the unsteered texts of the same prompts and samples."""
    found = changes(records, base, value)
    return paired_bootstrap(found[np.isfinite(found)])


def change_cell(records: Sequence[Record], base: Sequence[Record], value: Value, digits: int = 2) -> str:
    return "" if records[0].arm == UNSTEERED else interval(change(records, base, value), digits)


def nats(record: Record) -> float:
    return record.nll


def tokens(record: Record) -> float:
    return record.tokens


def variety(n: int) -> Value:
    return lambda record: distinct(record.text, n)


def repeated(record: Record) -> float:
    return repetition(record.text)


def broken_share(records: Sequence[Record], base: Sequence[Record]) -> float:
    """Return the share of texts that are broken; the unsteered ones say what is usual."""
    usual = mean(base, nats)
    return mean(records, lambda record: float(is_broken(record.text, record.nll, usual)))


def probe_reading(record: Record) -> float:
    """Return the mean alpha over the tokens of a text; nan for one that was not steered."""
    readings = [alpha for report in record.steering for alpha in report["alpha"] if alpha is not None]
    return float(np.mean(readings)) if readings else math.nan


# ---- tables ----


def headline(records: Sequence[Record], primary: str) -> Table:
    """The few numbers that the command line prints."""
    base, rows = unsteered(records), []
    for cells, chosen in settings(records):
        effects = [number(mean(chosen, outcome(primary, measure))) for measure in MEASURES]
        broken = percent(broken_share(chosen, base))
        rows.append([*cells, *effects, change_cell(chosen, base, nats, 3), broken])
    return ("arm", "strength", *MEASURES, "added nats", "broken"), rows


def judges_table(judges: Sequence[Judge], primary: str) -> Table:
    rows = [
        [judge.name, "yes" if judge.name == primary else "", number(judge.threshold), accuracy_of(judge)]
        for judge in judges
    ]
    return ("judge", "the effect", "carries the concept from", "accuracy on held-out labels"), rows


def accuracy_of(judge: Judge) -> str:
    return "not measured" if judge.accuracy is None else str(judge.accuracy)


def effect_table(records: Sequence[Record], primary: str) -> Table:
    base, rows = unsteered(records), []
    for cells, chosen in settings(records):
        for measure in MEASURES:
            value = outcome(primary, measure)
            cells += [number(mean(chosen, value)), change_cell(chosen, base, value)]
        rows.append([*cells, str(len(chosen))])
    columns = [column for measure in MEASURES for column in (measure, "change")]
    return ("arm", "strength", *columns, "texts"), rows


def cost_table(records: Sequence[Record]) -> Table:
    base, rows = unsteered(records), []
    for cells, chosen in settings(records):
        shape = [number(mean(chosen, value)) for value in (variety(1), variety(2), repeated)]
        length, broken = number(mean(chosen, tokens), 1), percent(broken_share(chosen, base))
        rows.append([*cells, number(mean(chosen, nats), 3), change_cell(chosen, base, nats, 3), *shape, length, broken])
    columns = ("nats", "added", "distinct-1", "distinct-2", "repetition", "tokens", "broken")
    return ("arm", "strength", *columns), rows


def all_judges_table(records: Sequence[Record], judges: Sequence[Judge]) -> Table:
    """Side effects: the mean score of every judge, with its accuracy beside its name."""
    rows = [
        [*cells, *(number(mean(chosen, outcome(judge.name))) for judge in judges)]
        for cells, chosen in settings(records)
    ]
    names = [
        judge.name if judge.accuracy is None else f"{judge.name} ({percent(judge.accuracy.value)} right)"
        for judge in judges
    ]
    return ("arm", "strength", *names), rows


def group_table(records: Sequence[Record], primary: str) -> Table:
    """The effect and the cost in each group of prompts; without rows when there are no groups."""
    groups = list(dict.fromkeys(record.group for record in records))
    rows: list[list[str]] = []
    for group in groups if len(groups) > 1 else []:
        members = [record for record in records if record.group == group]
        base = unsteered(members)
        for cells, chosen in settings(members):
            effects = [number(mean(chosen, outcome(primary, measure))) for measure in MEASURES]
            rows.append(
                [group, *cells, *effects, change_cell(chosen, base, nats, 3), percent(broken_share(chosen, base))]
            )
    return ("group", "arm", "strength", *MEASURES, "added nats", "broken"), rows


def probe_table(records: Sequence[Record]) -> Table:
    rows = [
        [*cells, number(mean(chosen, probe_reading))]
        for cells, chosen in settings(records)
        if math.isfinite(mean(chosen, probe_reading))
    ]
    return ("arm", "strength", "mean alpha"), rows
