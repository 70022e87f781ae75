"""Writing a file so that it is either complete or not there. Knows nothing of what is written."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgesteer.errors import EdgeSteerError

DISK_FULL = ("the disk is full", "Free some space and run the command again.")

# NumPy's tofile reports a short write as an OSError without a number.
REASONS: dict[int | None, tuple[str, str]] = {
    None: DISK_FULL,
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: ("the disk quota is used up", "Free some space and run the command again."),
    errno.EFBIG: ("the file is larger than this system allows", "Write elsewhere, or raise `ulimit -f`."),
    errno.ENOENT: ("its folder does not exist", "Make the folder first, or give another path."),
    errno.ENOTDIR: ("its folder is not a folder", "Give another path."),
    errno.EISDIR: ("it is a folder", "Give the path of a file."),
    errno.EACCES: ("permission denied", "Give a path that you may write to."),
    errno.EPERM: ("permission denied", "Give a path that you may write to."),
    errno.EROFS: ("the disk is read-only", "Give a path that you may write to."),
}


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a hidden temporary path beside `path`; once the body has written it, it takes the place of `path`.

    Whatever ends the body early, Ctrl-C included, removes the temporary file and leaves an older file as it
    was. The body should do nothing but write: its OSError is taken for a failed write.

    Raises EdgeSteerError when the file cannot be written (disk full, no permission, no such folder).
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise _write_failure(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise the EdgeSteerError that atomic_write would end with, before the work whose result it is to write."""
    target = Path(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise _write_failure(target, error) from error


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows opens no folders, and its rename needs no such flush
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_failure(target: Path, error: OSError) -> EdgeSteerError:
    reason, remedy = REASONS.get(error.errno, (str(error), "Give another path."))
    return EdgeSteerError(f"cannot be written: {reason}", where=target, remedy=remedy)
