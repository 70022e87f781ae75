"""What a series took from each meter: joules per prompt, token and request, watts, and the energy-delay product.

Takes samples as the profile document has them. Meters are kept apart, since some count what others count, too; idle
power is not subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PHASES = ("prefill", "decode")

Sample = Mapping[str, Any]


def joules_per_repeat(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Return the joules of each repeat, both phases together, by meter; {} without a meter."""
    return {
        meter: [sum(joules_of(sample, phase, meter) for phase in PHASES) for sample in samples]
        for meter in meters_of(samples)
    }


def meters_of(samples: Sequence[Sample]) -> list[str]:
    """Return the meters that were read in every sample."""
    readings = [sample[f"{phase}_energy"] for sample in samples for phase in PHASES]
    if not readings or not all(readings):
        return []
    return [meter for meter in readings[0]["joules"] if all(meter in each["joules"] for each in readings)]


def joules_of(sample: Sample, phase: str, meter: str) -> float:
    return float(sample[f"{phase}_energy"]["joules"][meter])


def summarize_energy(samples: Sequence[Sample], batch: int) -> dict[str, dict[str, float | None]]:
    """Return, by meter, means over the samples of a series whose repeats ran so many requests at once.

    energy_delay is in joule-seconds: a request's joules times its time to the last token.
    """
    return {meter: _of_meter(samples, meter, batch) for meter in meters_of(samples)}


def _of_meter(samples: Sequence[Sample], meter: str, batch: int) -> dict[str, float | None]:
    requests = batch * len(samples)
    prefill, decode = (sum(joules_of(sample, phase, meter) for sample in samples) for phase in PHASES)
    tokens = sum(sample["decode_tokens"] for sample in samples)
    seconds = sum(sample[f"{phase}_energy"]["seconds"] for sample in samples for phase in PHASES)
    delay = sum(sum(sample["ttlt_ms"]) for sample in samples) / requests / 1000
    per_request = (prefill + decode) / requests
    return {
        "joules_per_prompt": prefill / requests,
        "joules_per_token": decode / tokens if tokens else None,
        "joules_per_request": per_request,
        "average_watts": (prefill + decode) / seconds if seconds else None,
        "peak_watts": max(sample[f"{phase}_energy"]["peak_watts"][meter] for sample in samples for phase in PHASES),
        "energy_delay": per_request * delay,
    }


def joules_per_token(series: Mapping[str, Any], meters: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the joules of a token over all meters, each joule counted once; None where there are none.

    meters: the document's, which say what includes what.
    """
    measured = series["energy"]
    outermost = [each["name"] for each in meters if each["name"] in measured and each["included_in"] not in measured]
    joules = [measured[name]["joules_per_token"] for name in outermost]
    return sum(joules) if joules and None not in joules else None
