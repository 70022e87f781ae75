"""What a profile or a comparison looks like: tables of text and lines to say, from the document. Prints nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from edgesteer.profile.compare import UNKNOWN, Comparison
from edgesteer.profile.document import CELL, METRICS, Document

SIZE, TTFT, TPOT, TTLT, ENERGY = QUANTITIES = ("size", "ttft", "tpot", "ttlt", "energy")
"""What can be asked for, named as the options are."""

HEADERS = {
    "prompt_len": "prompt",
    "gen_len": "generated",
    "batch": "batch",
    "threads": "threads",
    "n_gpu_layers": "GPU layers",
}
NONE = "-"


class Table(NamedTuple):
    """Rows of text under a title."""

    title: str
    headers: list[str]
    rows: list[list[str]]


def number(value: float | None, digits: int = 4) -> str:
    """Return a number of so many significant digits, never in exponents."""
    if value is None:
        return NONE
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}"


def percent(share: float | None) -> str:
    return NONE if share is None else f"{number(100 * share, 3)} %"


def megabytes(count: int | None) -> str:
    return NONE if count is None else f"{count / 1e6:.2f}"


def interval(low: float | None, high: float | None) -> str:
    limits = (low, high)
    if any(each is None or not math.isfinite(each) for each in limits):
        return NONE
    return f"{low:.3f} to {high:.3f}"


# ---- a profile ----


def tables(document: Document, quantities: Iterable[str] = QUANTITIES) -> list[Table]:
    """Return the tables of what was asked for and measured."""
    wanted = set(quantities)
    metrics = [metric for metric in METRICS if metric.removesuffix("_ms") in wanted]
    found = []
    if SIZE in wanted and document["sizes"]:
        found.append(_sizes(document))
    if metrics:
        found += [_latency(document, metrics), _ratios(document, metrics), _speed(document)]
    if ENERGY in wanted:
        found.append(_energy(document))
    found += _traced(document["trace"] or {"by_kind": [], "by_block": []})
    return [table for table in found if table.rows]


def heading(document: Document) -> str:
    """Return a line that says what was measured, and what all of it has in common."""
    settings, model = document["settings"], document["model"]
    name = model.get("model_name") or model["path"]
    common = [f"{HEADERS[each]} {settings[each][0]}" for each in CELL if len(settings[each]) == 1]
    repeats = f"{settings['repeats']} repeats after {settings['warmup']} that do not count"
    return f"{name}: {', '.join([*common, repeats])}"


def _swept(document: Document) -> list[str]:
    return [name for name in CELL if len(document["settings"][name]) > 1]


def _place(document: Document, series: Mapping[str, Any]) -> list[str]:
    return [str(series[name]) for name in _swept(document)]


def _headers(document: Document, *others: str) -> list[str]:
    return [*(HEADERS[name] for name in _swept(document)), *others]


def _sizes(document: Document) -> Table:
    sizes = document["sizes"]
    context = f"{sizes[0]['context_tokens']} tokens, {'/'.join(_cache_types(document))}"
    rows: list[list[str]] = [
        ["parameters, millions", *(number(each["parameters"] / 1e6) for each in sizes)],
        ["bits a weight", *(number(each["bits_per_weight"], 3) for each in sizes)],
        ["file, MB", *(megabytes(each["file_bytes"]) for each in sizes)],
    ]
    rows += _buffers(sizes, "weights", "weights in {}, MB")
    rows.append([f"KV cache ({context}) by the model's shape, MB", *(megabytes(each["kv_bytes"]) for each in sizes)])
    rows += _buffers(sizes, "kv", "KV cache as allocated in {}, MB")
    rows += _buffers(sizes, "compute", "compute buffer in {}, MB")
    rows += _buffers(sizes, "output", "logits in {}, MB")
    rows.append(["sidecars, MB", *(megabytes(each["sidecar_bytes"]) for each in sizes)])
    rows.append(["process, at its peak, MB", megabytes(document["peak_resident_bytes"]), *[""] * (len(sizes) - 1)])
    headers = [f"{each['n_gpu_layers']} GPU layers" for each in sizes] if len(sizes) > 1 else [""]
    return Table("Size", ["", *headers], rows)


def _cache_types(document: Document) -> tuple[str, str]:
    settings = document["settings"]
    return settings["cache_type_k"], settings["cache_type_v"]


def _buffers(sizes: Sequence[Mapping[str, Any]], kind: str, label: str) -> list[list[str]]:
    buffers = dict.fromkeys(buffer for each in sizes for buffer in each["allocated"][kind])
    return [
        [label.format(buffer), *(megabytes(each["allocated"][kind].get(buffer)) for each in sizes)]
        for buffer in buffers
    ]


def _latency(document: Document, metrics: Sequence[str]) -> Table:
    columns = ("mean", "median", "p95", "p99", "std")
    rows = []
    for series in document["series"]:
        for metric in metrics:
            summary = series["summary"][metric]
            if summary is not None:
                label = metric.removesuffix("_ms").upper()
                place = [*_place(document, series), series["variant"], label]
                rows.append([*place, *(number(summary[name]) for name in columns), str(summary["n"])])
    return Table("Latency, ms", _headers(document, "engine", "", *columns, "n"), rows)


def _ratios(document: Document, metrics: Sequence[str]) -> Table:
    rows = [
        [
            *_place(document, each),
            each["metric"].removesuffix("_ms").upper(),
            number(each["value"]),
            interval(each["low"], each["high"]),
        ]
        for each in document["ratios"]
        if each["metric"] in metrics
    ]
    return Table("Steered over unsteered", _headers(document, "", "ratio", "95 % interval"), rows)


def _speed(document: Document) -> Table:
    rows = []
    for series in document["series"]:
        hook = series["hook"] or {}
        rows.append(
            [
                *_place(document, series),
                series["variant"],
                number(series["prefill_tokens_per_second"]),
                number(series["decode_tokens_per_second"]),
                number(series["bound_tokens_per_second"]),
                percent(series["share_of_bound"]),
                number(hook.get("us_per_token"), 3),
                percent(hook.get("share")),
            ]
        )
    columns = (
        "engine", "prompt tokens/s", "tokens/s", "bound of the memory", "share of the bound", "hook, us/token",
        "hook's share",
    )  # fmt: skip
    return Table("Speed", _headers(document, *columns), rows)


def _energy(document: Document) -> Table:
    names = (
        "joules_per_prompt", "joules_per_token", "joules_per_request", "average_watts", "peak_watts", "energy_delay",
    )  # fmt: skip
    rows = [
        [*_place(document, series), series["variant"], meter, *(number(values[name]) for name in names)]
        for series in document["series"]
        for meter, values in series["energy"].items()
    ]
    columns = ("engine", "meter", "J/prompt", "J/token", "J/request", "mean W", "peak W", "J s/request")
    return Table("Energy, idle power included", _headers(document, *columns), rows)


def _traced(trace: Mapping[str, Any]) -> list[Table]:
    titles = {"by_kind": "Where the time goes, by kind", "by_block": "Where the time goes, by block"}
    return [
        Table(
            title,
            ["", "calls", "ms", "share"],
            [[row["name"], str(row["calls"]), number(row["ms"]), percent(row["share"])] for row in trace[name]],
        )
        for name, title in titles.items()
    ]


# ---- what there is to say ----


def notes(document: Document, quantities: Iterable[str] = QUANTITIES) -> list[str]:
    """Return sentences that a reader of the tables should know."""
    trace = [document["trace"]["overhead"]] if document["trace"] else []
    energy = energy_notes(document, quantities)
    return [*_memory_notes(document), *energy, *trace, *_drift_notes(document["drift"]), *_stop_notes(document)]


def _memory_notes(document: Document) -> Iterator[str]:
    for each in document["bandwidths"]:
        speed = number(each["bytes_per_second"] / 1e9, 3)
        yield f"Memory bound: {speed} GB/s with {each['threads']} threads ({each['method']})."


def energy_notes(document: Document, quantities: Iterable[str]) -> Iterator[str]:
    """Yield which meters there are, what they took idle, and why others are missing."""
    energy = document["energy"]
    if ENERGY not in quantities or not document["series"]:
        return
    if energy["reason"]:
        yield f"No energy: {energy['reason']}. {energy['remedy'] or ''}".rstrip()
    for meter in energy["meters"]:
        rate = meter["sampling_hz"]
        idle = energy["idle_watts"].get(meter["name"])
        yield (
            f"{meter['name']} measures {meter['domain']}, "
            + (f"{rate:g} times a second" if rate else "at its own rate")
            + ("" if idle is None else f"; idle it took {number(idle, 3)} W")
            + "."
        )
    for missing in energy["missing"]:
        yield f"Not measured: {missing['reason']}. {missing['remedy'] or ''}".rstrip()


def _drift_notes(drift: Mapping[str, Any]) -> Iterator[str]:
    time, clock = drift["time"], drift["clock"]
    if time and time["flagged"]:
        cause = "The device throttles, or does something else too." if time["value"] > 1 else "It was busy, or cold."
        yield f"The last third of the run took {_change(time)} the time of the first. {cause}"
    if clock and clock["flagged"]:
        yield f"In the last third of the run the cores ran at {_change(clock)} the clock of the first."


def _change(ratio: Mapping[str, float]) -> str:
    return f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) times"


def _stop_notes(document: Document) -> Iterator[str]:
    if document["stopped"]:
        samples = sum(len(series["samples"]) for series in document["series"])
        yield f"Ended early, after {samples} samples: {document['stopped']}."


# ---- a comparison ----


def comparison_table(comparison: Comparison) -> Table:
    """Return a row for everything that both profiles measured."""
    swept = [name for name in CELL if len({row.cell[name] for row in comparison.rows}) > 1]
    rows = [
        [
            *(str(row.cell[name]) for name in swept),
            row.variant,
            row.metric.removesuffix("_ms").upper() if row.metric in METRICS else row.metric,
            number(row.before),
            number(row.after),
            number(row.ratio.value),
            interval(row.ratio.low, row.ratio.high),
            row.verdict,
        ]
        for row in comparison.rows
    ]
    headers = [*(HEADERS[name] for name in swept), "engine", "", "A", "B", "B / A", "interval", ""]
    return Table("Medians of A and B", headers, rows)


def comparison_notes(comparison: Comparison) -> list[str]:
    """Return the verdict in words, and what else differs."""
    verdicts = [row.verdict for row in comparison.rows]
    differing, unknown = len(comparison.differing), verdicts.count(UNKNOWN)
    verdict = f"{differing} of {len(verdicts)} rows differ" if differing else "Nothing differs"
    lines = []
    if unknown < len(verdicts):
        confidence = percent(comparison.confidence)
        lines.append(f"{verdict} beyond noise; all intervals hold together with {confidence} confidence.")
    if unknown:
        lines.append(f"{unknown} of {len(verdicts)} rows have {UNKNOWN}. Measure with more --repeats.")
    if comparison.unmatched:
        lines.append(f"{comparison.unmatched} series are in one of the profiles only.")
    return lines + [f"Also different: {line}" for line in comparison.differences]
