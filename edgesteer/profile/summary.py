"""From a sweep to its document: summaries, ratios, bounds and drift."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edgesteer.profile.consumption import summarize_energy
from edgesteer.profile.document import FORMAT, METRICS, STEERED, UNSTEERED, VERSION, Document, per_repeat
from edgesteer.profile.statistics import drift, paired_ratio, summarize
from edgesteer.profile.sweep import Sample, Series, Sweep


def make_document(
    sweep: Sweep,
    *,
    created: str,
    machine: Mapping[str, Any],
    energy: Mapping[str, Any],
    bandwidths: Sequence[Mapping[str, Any]] = (),
    sidecars: Sequence[Mapping[str, Any]] = (),
    trace: Mapping[str, Any] | None = None,
) -> Document:
    """Return the document of a sweep.

    created: ISO time. machine: machine.Machine as a dict. energy: the object of that name in the schema. bandwidths:
    roofline.Bandwidth, each with its threads. sidecars: file and sha256 of what --steer named, in the order of
    sweep.steering. trace: by_kind, by_block and overhead.
    """
    fingerprint = sweep.fingerprint
    document: Document = _plain(
        {
            "format": FORMAT,
            "version": VERSION,
            "created": created,
            "seconds": sweep.seconds,
            "stopped": sweep.stopped,
            "machine": machine,
            "model": {"path": str(sweep.path), **(asdict(fingerprint) if fingerprint else {})},
            "steering": [  # none when it ended before the model was loaded
                {**sidecar, **asdict(steering)} for sidecar, steering in zip(sidecars, sweep.steering, strict=False)
            ],
            "settings": {name: value for name, value in asdict(sweep.settings).items() if value != {}},
            "sizes": [{"n_gpu_layers": layers, **asdict(size)} for layers, size in sweep.sizes.items()],
            "peak_resident_bytes": sweep.peak_resident_bytes,
            "energy": energy,
            "bandwidths": bandwidths,
            "series": [_series(each, bandwidths) for each in sweep.series if each.samples],
            "ratios": list(_ratios(sweep.series)),
            "drift": _drift(sweep.series),
            "trace": trace,
        }
    )
    return document


def _plain(value: Any) -> Any:
    """Return a value with lists for tuples and None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _series(series: Series, bandwidths: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    samples = [_sample(each) for each in series.samples]
    speed, bound = _median_rate(series, "decode"), _bound(series, bandwidths)
    return {
        **asdict(series.cell),
        "variant": series.variant,
        "samples": samples,
        "summary": {metric: _summary(samples, metric) for metric in METRICS},
        "prefill_tokens_per_second": _median_rate(series, "prefill"),
        "decode_tokens_per_second": speed,
        "step_bytes": series.step_bytes,
        "bound_tokens_per_second": bound,
        "share_of_bound": speed / bound if speed and bound else None,
        "energy": summarize_energy(samples, series.cell.batch),
        "hook": asdict(series.hook) if series.hook else None,
    }


def _sample(sample: Sample) -> dict[str, Any]:
    return {"started_s": sample.started_s, "megahertz": sample.megahertz, **asdict(sample.times)}


def _summary(samples: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """Over all requests of all repeats."""
    values = [value for sample in samples for value in sample[metric]]
    return asdict(summarize(values)) if values else None


def _median_rate(series: Series, phase: str) -> float | None:
    """Return tokens per second of all requests together, the median over repeats."""
    cell, rates = series.cell, []
    for sample in series.samples:
        times = sample.times
        tokens = cell.batch * cell.prompt_len if phase == "prefill" else times.decode_tokens
        milliseconds = times.prefill_ms if phase == "prefill" else times.decode_ms
        if tokens:
            rates.append(1000 * tokens / milliseconds)
    return summarize(rates).median if rates else None


def _bound(series: Series, bandwidths: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the tokens per second that the memory allows: each step reads the weights and what is cached once."""
    cell = series.cell
    if series.step_bytes is None or cell.n_gpu_layers != 0:  # the bandwidth is that of the CPU's memory
        return None
    speeds = [each["bytes_per_second"] for each in bandwidths if each["threads"] == cell.threads]
    return float(cell.batch * speeds[0] / series.step_bytes) if speeds else None


def _ratios(all_series: Sequence[Series]) -> Iterator[dict[str, Any]]:
    """Yield steered over unsteered of each cell and metric. Repeats of one round are a pair."""
    by_cell: dict[Any, dict[str, Series]] = {}
    for each in all_series:
        by_cell.setdefault(each.cell, {})[each.variant] = each
    for cell, variants in by_cell.items():
        if STEERED not in variants:
            continue
        pairs = [[_sample(each) for each in variants[variant].samples] for variant in (STEERED, UNSTEERED)]
        for metric in METRICS:
            steered, unsteered = (per_repeat(samples, metric) for samples in pairs)
            n = min(len(steered), len(unsteered))
            if n:
                yield {**asdict(cell), "metric": metric, **asdict(paired_ratio(steered[:n], unsteered[:n]))}


def _drift(all_series: Sequence[Series]) -> dict[str, Any]:
    """Compare the last third of the run with the first: times between tokens, and the clock of the cores.

    Each sample counts relative to the median of its series, since series differ.
    """
    timed: list[tuple[float, float]] = []
    clocks: list[tuple[float, float]] = []
    for series in all_series:
        samples = [_sample(each) for each in series.samples]
        for metric in ("tpot_ms", "ttft_ms"):
            if values := per_repeat(samples, metric):
                middle = summarize(values).median
                timed += [(sample["started_s"], value / middle) for sample, value in zip(samples, values, strict=True)]
                break
        clocks += [(each.started_s, each.megahertz) for each in series.samples if each.megahertz is not None]
    return {"time": _drift_of(timed), "clock": _drift_of(clocks)}


def _drift_of(values: list[tuple[float, float]]) -> dict[str, Any] | None:
    found = drift([value for _, value in sorted(values)])
    return None if found is None else {**asdict(found.ratio), "flagged": found.flagged}
