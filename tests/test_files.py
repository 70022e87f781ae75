"""Atomic writing: the file is complete or not there, and an older one survives every failure."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.files import atomic_write


def test_file_appears_with_its_content(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.gguf") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "a.gguf").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.gguf"]


def test_target_does_not_change_before_the_body_ends(tmp_path: Path) -> None:
    target = tmp_path / "a.gguf"
    target.write_bytes(b"old")
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_temporary_file_is_hidden_beside_the_target(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.gguf") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".a.gguf.")
        assert temporary.suffix == ".partial"
        temporary.touch()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_interruption_removes_the_temporary_and_keeps_the_old_file(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    target = tmp_path / "a.gguf"
    target.write_bytes(b"old")
    with pytest.raises(interruption):  # noqa: PT012 - the exception is raised inside the body under test
        with atomic_write(target) as temporary:
            temporary.write_bytes(b"half")
            raise interruption
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.gguf"]


def test_content_reaches_the_disk_before_the_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def recorded(name: str) -> Callable[..., None]:
        real = getattr(os, name)

        def call(*arguments: object) -> None:
            events.append(name)
            real(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", recorded("fsync"))
    monkeypatch.setattr(os, "replace", recorded("replace"))
    with atomic_write(tmp_path / "a.gguf") as temporary:
        temporary.touch()
    assert events == ["fsync", "replace", "fsync"]


def test_full_disk_at_the_last_moment_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "a.gguf"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(EdgeSteerError, match=r"a\.gguf: cannot be written: the disk is full\. Free"):
        with atomic_write(target) as temporary:
            temporary.write_bytes(b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.gguf"]


def test_short_write_without_an_error_number_counts_as_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match="the disk is full"), atomic_write(tmp_path / "a.gguf"):
        raise OSError("240 requested and 0 written")  # as numpy.ndarray.tofile says it


def test_real_file_size_limit_keeps_the_old_sidecar(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no resource limits")
    # The system itself refuses the write, inside GGUFWriter: the buffered writer fails, then its close.
    target = tmp_path / "a.gguf"
    target.write_bytes(b"old")
    script = (
        "import sys, numpy as np\n"
        "from edgesteer.errors import EdgeSteerError\n"
        "from edgesteer.gguf_file import write_gguf\n"
        "try:\n"
        "    write_gguf(sys.argv[1], 'edgesteer', {}, {'a': np.zeros(100_000, np.float32)})\n"
        "except EdgeSteerError as error:\n"
        "    sys.exit(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.gguf"]


def test_missing_folder_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match="its folder does not exist"):
        with atomic_write(tmp_path / "none" / "a.gguf") as temporary:
            temporary.touch()


def test_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EdgeSteerError, match="its folder is not a folder"):
        with atomic_write(tmp_path / "file" / "a.gguf") as temporary:
            temporary.touch()


def test_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match="it is a folder"):
        with atomic_write(tmp_path) as temporary:
            temporary.touch()


def test_refused_permission_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match=r"permission denied\. Give a path"):
        with atomic_write(tmp_path / "a.gguf"):  # by hand: root, who may run this, may write anywhere
            raise PermissionError(errno.EACCES, "Permission denied")
