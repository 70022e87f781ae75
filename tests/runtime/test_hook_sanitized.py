"""The tests of the native hook once more, on a build that stops at memory errors and undefined behaviour."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "runtime" / "hook.c"
FLAGS = [
    "-std=c11",
    "-O1",
    "-g",
    "-fPIC",
    "-shared",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]
OVERRUN = """
#include <stdlib.h>
int overrun(int n) { char *p = malloc(n); p[n] = 1; n = p[n]; free(p); return n; }
"""


@pytest.fixture(scope="module")
def compiler() -> str:
    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the sanitizers are preloaded the way that gcc on Linux needs it")
    return compiler


def build(compiler: str, source: Path, library: Path) -> Path:
    result = subprocess.run(
        [compiler, *FLAGS, "-o", str(library), str(source), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in result.stderr and "san" in result.stderr:
        pytest.skip("gcc is here without its sanitizers (libasan, libubsan)")
    assert result.returncode == 0, result.stderr
    return library


def run_under_sanitizers(
    compiler: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with the address sanitizer loaded first, as it demands. Python's own leaks do not count."""
    runtime = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    environment = (
        os.environ | {"LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"} | variables
    )
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_hook_s_tests_pass_under_address_and_undefined_behaviour_sanitizers(
    compiler: str, tmp_path: Path
) -> None:
    library = build(compiler, SOURCE, tmp_path / "hook.so")
    tests = str(Path(__file__).with_name("test_hook.py"))
    result = run_under_sanitizers(
        compiler,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        tests,
        EDGESTEER_HOOK_LIBRARY=str(library),
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-5000:]
    assert " passed" in result.stdout


def test_the_sanitizers_do_stop_at_a_write_past_the_end(compiler: str, tmp_path: Path) -> None:
    source = tmp_path / "overrun.c"
    source.write_text(OVERRUN)
    library = build(compiler, source, tmp_path / "overrun.so")
    result = run_under_sanitizers(compiler, "-c", f"import ctypes; ctypes.CDLL({str(library)!r}).overrun(4)")
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
