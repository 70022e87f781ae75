"""What JSON says of a text, whether `generate --json` prints it or bulk generation writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgesteer.runtime.sequence import Timings


def timings_record(timings: Timings) -> dict[str, Any]:
    """Return the timings, named as llama.cpp's server names them."""
    return {
        "cache_n": timings.cache_n,
        "prompt_n": timings.prompt_n,
        "prompt_ms": timings.prompt_ms,
        "prompt_per_second": timings.prompt_per_second,
        "predicted_n": timings.predicted_n,
        "predicted_ms": timings.predicted_ms,
        "predicted_per_second": timings.predicted_per_second,
    }
