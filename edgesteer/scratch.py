"""Scratch arrays: in memory, or in memory-mapped files without a name, which are gone with the process that made them.

Knows nothing of what they hold.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import shutil
import tempfile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgesteer.errors import EdgeSteerError


def scratch_array(*shape: int, on_disk: bool, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Return an array of undefined values, in memory or in the folder for temporary files.

    Raises EdgeSteerError when the disk has no room for it; room once given stays.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not on_disk or not size:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="edgesteer-") as file:
            _reserve(file.fileno(), size)
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        folder = tempfile.gettempdir()
        raise EdgeSteerError(
            "activations of the prompts cannot be stored",
            where=folder,
            expected=f"{size / 1e9:.2f} GB of room",
            found=f"{shutil.disk_usage(folder).free / 1e9:.2f} GB ({error.strerror or error})",
            remedy="Free some space, or set TMPDIR to a folder on a larger disk.",
        ) from error


def _reserve(descriptor: int, size: int) -> None:
    """Make a file that long. A write through a mapping to a full disk would end the process without a word."""
    if shutil.disk_usage(tempfile.gettempdir()).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def release(array: NDArray[Any]) -> None:
    """Let go of the memory in which a mapped array was read or written; what it holds stays in its file."""
    mapping = getattr(array, "_mmap", None)
    if mapping is not None and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)
