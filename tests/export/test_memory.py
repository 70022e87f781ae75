"""The allocator's settings; what they save is seen in page faults, which are counted and not timed."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from edgesteer.export.memory import reuse_freed_memory
if sys.argv[1] == "reuse":
    assert reuse_freed_memory()
import numpy as np
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.ones(3 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is meant")
def test_large_arrays_are_served_from_memory_that_was_freed() -> None:
    faults = {
        way: int(subprocess.run([sys.executable, "-c", PROGRAM, way], check=True, capture_output=True).stdout)
        for way in ("reuse", "default")
    }
    pages = (3 << 20) // resource.getpagesize()
    assert faults["reuse"] < 3 * pages
    assert faults["default"] > faults["reuse"]
