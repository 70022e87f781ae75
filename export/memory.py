"""The allocator in export: keep freed memory instead of giving it back to the kernel and fetching it again."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST = 1 << 30


def reuse_freed_memory() -> bool:
    """Make glibc serve large tensors from its heap for the rest of the process; return whether it could be told so.

    Differentiating a block makes and drops hundreds of tensors of some megabytes. By default each of them is mapped
    and unmapped, and the page faults take as long as the arithmetic: 3 million of them a prompt on SmolLM2, measured.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(name, LARGEST) for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
