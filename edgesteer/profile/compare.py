"""Compares two profiles: ratios with intervals, and which of them differ beyond noise.

All intervals together hold with the stated confidence: the more rows there are, the wider each is. So two runs of the
same thing are called different in no more than one of twenty comparisons. Noise is what varies between the repeats of a
run; what differed between the two runs as a whole (another program at work, a warmer device) is not told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgesteer.errors import EdgeSteerError
from edgesteer.profile.consumption import joules_per_repeat
from edgesteer.profile.document import CELL, METRICS, Document, per_repeat
from edgesteer.profile.statistics import CONFIDENCE, Ratio, can_tell, summarize, unpaired_ratio

SLOWER = "slower"
FASTER = "faster"
MORE = "more energy"
LESS = "less energy"
SAME = "no difference beyond noise"
UNKNOWN = "too few repeats to tell"


@dataclass(frozen=True)
class Row:
    """One quantity of one cell in both profiles. before, after: medians over repeats. ratio: after over before."""

    cell: dict[str, Any]
    variant: str
    metric: str
    """Among METRICS, or `joules[METER]` for joules of a repeat."""
    before: float
    after: float
    ratio: Ratio
    n_before: int
    n_after: int
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Rows, and what else differs between the two runs."""

    confidence: float
    """Of all intervals together."""
    rows: list[Row]
    differences: list[str]
    unmatched: int
    """Series of either profile that the other lacks."""

    @property
    def differing(self) -> list[Row]:
        return [row for row in self.rows if row.verdict not in (SAME, UNKNOWN)]


def compare_profiles(before: Document, after: Document, *, confidence: float = CONFIDENCE, seed: int = 0) -> Comparison:
    """Compare the series that two documents share.

    A series is matched by its cell and variant; what has one value throughout each document, such as the number of
    threads, may differ between them. Raises EdgeSteerError when they share none, or when one is damaged.
    """
    try:
        return _compare(before, after, confidence, seed)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise EdgeSteerError("a profile is damaged", found=repr(error), remedy="Measure it again.") from error


def _compare(before: Document, after: Document, confidence: float, seed: int) -> Comparison:
    names = [name for name in CELL if not (_is_constant(before, name) and _is_constant(after, name))]
    sides = [{_key(series, names): series for series in each["series"]} for each in (before, after)]
    shared = [key for key in sides[0] if key in sides[1]]
    if not shared:
        raise EdgeSteerError(
            "the profiles share no measurement",
            expected="the same prompt and text lengths, batches, and steering or none",
            remedy="Measure both with the same options.",
        )
    pairs = [
        (sides[0][key], metric, first, second)
        for key in shared
        for metric, first, second in _samples(sides[0][key], sides[1][key])
    ]
    each = 1 - (1 - confidence) / max(1, len(pairs))
    rows = [_row(series, metric, first, second, each, seed) for series, metric, first, second in pairs]
    unmatched = len(sides[0]) + len(sides[1]) - 2 * len(shared)
    return Comparison(confidence, rows, list(_differences(before, after)), unmatched)


def _is_constant(document: Document, name: str) -> bool:
    return len({series[name] for series in document["series"]}) <= 1


def _key(series: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    return (series["variant"], *(series[name] for name in names))


def _samples(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, list[float], list[float]]]:
    """Yield what both series measured, by repeat."""
    quantities = [
        {metric: per_repeat(series["samples"], metric) for metric in METRICS}
        | {f"joules[{meter}]": joules for meter, joules in joules_per_repeat(series["samples"]).items()}
        for series in (before, after)
    ]
    for name in quantities[0]:
        first, second = (each.get(name, []) for each in quantities)
        if first and second and min(*first, *second) > 0:  # a slow meter may read 0
            yield name, first, second


def _row(
    series: Mapping[str, Any], metric: str, before: list[float], after: list[float], confidence: float, seed: int
) -> Row:
    ratio = unpaired_ratio(after, before, confidence=confidence, seed=seed)
    verdict = SAME
    if not can_tell(len(before), len(after), confidence):
        verdict = UNKNOWN
    elif ratio.differs:
        less, more = (FASTER, SLOWER) if metric in METRICS else (LESS, MORE)
        verdict = more if ratio.value > 1 else less
    return Row(
        cell={name: series[name] for name in CELL},
        variant=series["variant"],
        metric=metric,
        before=summarize(before).median,
        after=summarize(after).median,
        ratio=ratio,
        n_before=len(before),
        n_after=len(after),
        verdict=verdict,
    )


def _differences(before: Document, after: Document) -> Iterator[str]:
    """Yield a line for each fact about model, machine and settings that is not the same."""
    for part, skipped in (("model", ("path",)), ("machine", ()), ("settings", ())):
        first, second = (document.get(part) or {} for document in (before, after))
        for name in dict.fromkeys([*first, *second]):
            if name not in skipped and first.get(name) != second.get(name):
                yield f"{part} {name}: {_short(first.get(name))} -> {_short(second.get(name))}"
    first, second = (_steering(document) for document in (before, after))
    if first != second:
        yield f"steering: {first} -> {second}"


def _steering(document: Document) -> str:
    return ", ".join(f"{each['controller']}={each['strength']:g}" for each in document["steering"]) or "none"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
